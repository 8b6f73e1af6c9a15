"""The verbs of the data centre, as data: tokens, tables and gateways here, workers in `operator_verbs`."""

from __future__ import annotations

from edge_ws.cli.operator_verbs import ONE_RESULT, OPERATOR_VERBS, OUTPUT
from edge_ws.cli.verb import Argument, Group, Side, Verb

_COMMANDS = "edge_ws.provider.commands"

_TOKEN = Group(
    name="token",
    help="credentials of workers",
    members=(
        Verb(
            name="create",
            help="make a token for a worker and print it, once",
            description="Prints the secret alone on standard output; only its hash is stored.",
            side=Side.CENTRE,
            implementation=f"{_COMMANDS}:token_create",
            extra="server",
            arguments=(
                Argument(
                    flags=("name",),
                    metavar="NAME",
                    help="the token's name and, without a pattern, the one worker it admits",
                ),
                Argument(
                    flags=("--worker-name-pattern",),
                    metavar="PATTERN",
                    help="admit the workers of these names, e.g. 'factory-*'",
                ),
                Argument(
                    flags=("-q", "--queues"),
                    metavar="A,B",
                    is_once=True,
                    help="admit jobs of these queues only (default: every queue)",
                ),
                Argument(
                    flags=("-t", "--team-name"),
                    metavar="TEAM",
                    help="admit jobs of this team only (default: any)",
                ),
                Argument(
                    flags=("--expires",),
                    metavar="TIME",
                    help="how long it is valid, e.g. 90d, 12h, 30m (default: until it is revoked)",
                ),
            ),
        ),
        Verb(
            name="list",
            help="list the tokens, without their secrets",
            side=Side.CENTRE,
            implementation=f"{_COMMANDS}:token_list",
            extra="server",
            arguments=(OUTPUT,),
        ),
        Verb(
            name="revoke",
            help="make a token useless, now and for good",
            side=Side.CENTRE,
            implementation=f"{_COMMANDS}:token_revoke",
            extra="server",
            arguments=(
                Argument(flags=("token",), metavar="TOKEN", help="its id, or the name of one or more"),
            ),
        ),
    ),
)

_DB = Group(
    name="db",
    help="edge-ws's tables in Airflow's database",
    members=(
        Verb(
            name="migrate",
            help="create the tables, or bring them up to date",
            description="Does what `airflow db migrate` does for edge-ws's tables, and nothing else.",
            side=Side.CENTRE,
            implementation=f"{_COMMANDS}:db_migrate",
            extra="server",
        ),
        Verb(
            name="check",
            help="tell whether the tables are as this release needs them",
            side=Side.CENTRE,
            implementation=f"{_COMMANDS}:db_check",
            extra="server",
        ),
    ),
)

_SERVER = Verb(
    name="server",
    help="serve the gateway in a process of its own",
    description="The same gateway as in the api-server, on the same database, under /edge-ws/; any number of "
    "both may run, and a worker may reach any of them. SIGTERM drains it: it sends its workers elsewhere and "
    "ends when they are gone; a second one ends it at once. [edge_ws] api_enabled does not matter here.",
    side=Side.CENTRE,
    implementation="edge_ws.provider.standalone:run",
    extra="server",
    arguments=(
        Argument(
            flags=("--host",),
            metavar="ADDRESS",
            default="0.0.0.0",  # noqa: S104 - as Airflow's api-server
            help="address to listen on (default: 0.0.0.0, all of IPv4)",
        ),
        Argument(flags=("-p", "--port"), metavar="PORT", type=int, default=8794, help="port (default: 8794)"),
        Argument(flags=("-w", "--workers"), metavar="N", type=int, default=1, help="processes (default: 1)"),
        Argument(
            flags=("--ssl-cert",),
            metavar="FILE",
            help="certificate with its chain, PEM (default: Airflow's [api] ssl_cert; '' for none)",
        ),
        Argument(
            flags=("--ssl-key",),
            metavar="FILE",
            help="its key, PEM (default: Airflow's [api] ssl_key; '' for none)",
        ),
        Argument(
            flags=("--ssl-key-password-file",),
            metavar="FILE",
            help="file with the key's password, if it has one",
        ),
        Argument(
            flags=("--root-path",),
            metavar="PATH",
            help="path below which all is served, whether a proxy takes it away or not "
            "(default: that of Airflow's [api] base_url)",
        ),
        Argument(
            flags=("--airflow-url",),
            metavar="URL",
            help="the api-server's own address: /execution/ is relayed to it, so that workers need no other "
            "address (default: not relayed)",
        ),
        Argument(
            flags=("--drain-timeout",),
            metavar="SECONDS",
            type=float,
            default=30.0,
            help="close what is left after this time (default: 30)",
        ),
    ),
)

_CHECK = Verb(
    name="check",
    help="tell whether all that edge-ws needs at the centre is there",
    description="One line for each thing that is looked at: ok, or what is wrong and what to do. The exit "
    "code is 1 if anything is wrong.",
    side=Side.CENTRE,
    implementation=f"{_COMMANDS}:check",
    extra="server",
    arguments=(ONE_RESULT,),
)

CENTRE_VERBS: tuple[Verb | Group, ...] = (_TOKEN, *OPERATOR_VERBS, _DB, _SERVER, _CHECK)
