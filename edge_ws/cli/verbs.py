"""Every verb but the operators', as data; see `verb` for what one is."""

from __future__ import annotations

from collections.abc import Collection

from edge_ws.cli.operator_verbs import ONE_RESULT, ONE_THING, OPERATOR_VERBS, OUTPUT, WAY
from edge_ws.cli.verb import Argument, Group, Side, Verb
from edge_ws.worker.config import CONFIG_VARIABLE, DEFAULT_FILE
from edge_ws.worker.settings import SETTINGS, TOKEN_VARIABLE, Kind, Setting

_COMMANDS = "edge_ws.cli.centre"

_ONE_TOKEN = Argument(flags=("token",), metavar="TOKEN", help="its id or its name")
_TOKENS = Argument(flags=("token",), metavar="TOKEN", help="its id, or the name of one or more")
_TOKEN = Group(
    name="token",
    help="credentials of workers",
    members=(
        Verb(
            name="create",
            help="make a token for a worker and print it, once",
            description="Prints the secret alone on standard output; only its hash is stored.",
            side=Side.CENTRE,
            implementation="edge_ws.cli.tokens:token_create",
            extra="server",
            works_bare="url",
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
                Argument(
                    flags=("--max-workers",),
                    metavar="N",
                    type=int,
                    help="how many worker names it may be used for (default: 1000)",
                ),
                *WAY,
            ),
        ),
        Verb(
            name="list",
            help="list the tokens, without their secrets",
            side=Side.CENTRE,
            implementation="edge_ws.cli.tokens:token_list",
            extra="server",
            works_bare="url",
            arguments=(OUTPUT, *WAY),
        ),
        Verb(
            name="revoke",
            help="make a token useless, now and for good",
            side=Side.CENTRE,
            implementation="edge_ws.cli.tokens:token_revoke",
            extra="server",
            works_bare="url",
            arguments=(_TOKENS, *WAY),
        ),
        Verb(
            name="show",
            help="show a token: its limits, and which workers used it, when and from where",
            side=Side.CENTRE,
            implementation="edge_ws.cli.tokens:token_show",
            extra="server",
            works_bare="url",
            arguments=(
                _TOKENS,
                ONE_THING,
                *WAY,
            ),
        ),
        Verb(
            name="rotate",
            help="give a token a new secret and print it, once; the old one stays valid for a while",
            description="At most two secrets are valid at a time. A worker uses the new one as soon as it "
            "is in its token file.",
            side=Side.CENTRE,
            implementation="edge_ws.cli.tokens:token_rotate",
            extra="server",
            works_bare="url",
            arguments=(
                _ONE_TOKEN,
                Argument(
                    flags=("--overlap",),
                    metavar="TIME",
                    default="24h",
                    help="how long the old secret stays valid, e.g. 7d, 12h, 30m (default: 24h)",
                ),
                *WAY,
            ),
        ),
        Verb(
            name="narrow",
            help="restrict a token: fewer queues, one team, or an earlier expiry",
            description="Workers that are connected by it get no more jobs of the other queues; those of "
            "another team are sent away.",
            side=Side.CENTRE,
            implementation="edge_ws.cli.tokens:token_narrow",
            extra="server",
            works_bare="url",
            arguments=(
                _ONE_TOKEN,
                Argument(
                    flags=("-q", "--queues"),
                    metavar="A,B",
                    is_once=True,
                    help="these of its queues only",
                ),
                Argument(flags=("-t", "--team-name"), metavar="TEAM", help="this team only"),
                Argument(
                    flags=("--expires",),
                    metavar="TIME",
                    help="expire after this time from now, e.g. 90d, 12h, 30m",
                ),
                *WAY,
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
            flags=("--metrics-listen",),
            metavar="HOST:PORT",
            help="answer Prometheus there, /metrics and /healthz, without login and TLS: no public address; "
            "with several processes a range such as 127.0.0.1:9795-9798 (default: nowhere)",
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


_MODULE = "edge_ws.cli.host"

_CONFIG = Argument(
    flags=("--config",),
    metavar="FILE",
    help=f"the settings file, TOML (default: {CONFIG_VARIABLE}, else {DEFAULT_FILE} if there is one)",
)
_OUTPUT = Argument(
    flags=("-o", "--output"),
    metavar="FORMAT",
    choices=("text", "json"),
    default="text",
    help="text, or json (default: text)",
)


def _setting(setting: Setting) -> Argument:
    if setting.kind is Kind.SWITCH:
        return Argument(flags=(setting.flag,), help=setting.help, is_switch=True)
    flags = (setting.short, setting.flag) if setting.short else (setting.flag,)
    return Argument(flags=flags, metavar=setting.metavar, help=setting.help)


def _settings(fields: Collection[str] | None = None) -> tuple[Argument, ...]:
    return (*(_setting(one) for one in SETTINGS if fields is None or one.field in fields), _CONFIG)


def _control(name: str, what: str, description: str, *arguments: Argument) -> Verb:
    return Verb(
        name=name,
        help=what,
        description=f"{description} The worker is found by its state directory: give what it was started "
        "with of these flags, variables and settings file. It takes the user that runs the worker, or root.",
        side=Side.REMOTE,
        implementation=f"{_MODULE}:{name}",
        arguments=(*arguments, _OUTPUT, *_settings({"name", "state_dir"})),
        is_passed_on=True,
    )


def _wait(what: str) -> tuple[Argument, ...]:
    return (
        Argument(flags=("-w", "--wait"), is_switch=True, help=f"wait until {what}, and tell the time"),
        Argument(
            flags=("--wait-timeout",),
            metavar="SECONDS",
            type=float,
            help="give up waiting after this time, with exit code 1 (default: never)",
        ),
    )


_WORKER = Verb(
    name="worker",
    help="run tasks here for an Airflow elsewhere",
    description="Connects to Airflow and runs the tasks it is sent, until SIGTERM: then it finishes what "
    f"runs, reports and leaves. Each flag can be an environment variable ({SETTINGS[0].variable} for "
    f"{SETTINGS[0].flag}) or a line of the settings file ({SETTINGS[0].key} = ...); a flag beats the "
    f"variable, the variable beats the file. The token comes from --token-file or {TOKEN_VARIABLE}, never "
    "from the command line.",
    side=Side.REMOTE,
    implementation="edge_ws.cli.worker:run",
    extra="worker",
    works_bare="show_config",
    arguments=(
        *_settings(),
        Argument(
            flags=("--show-config",),
            is_switch=True,
            help="print each value and where it comes from, and stop",
        ),
    ),
    is_passed_on=True,
)
_DOCTOR = Verb(
    name="doctor",
    help="look at all that a worker here needs, and say what is wrong",
    description="Takes the settings of `edge-ws worker` and looks at one thing after the other: DNS, proxy, "
    "TLS, token, WebSocket, Execution API, DAG bundles and so on, a line for each. It registers nothing: a "
    "worker of the same name that runs meanwhile is not disturbed. The exit code is 1 if anything failed.",
    side=Side.REMOTE,
    implementation="edge_ws.cli.doctor:run",
    arguments=(
        *_settings(),
        Argument(
            flags=("--quick",),
            is_switch=True,
            help="leave out the request that is held for 30 s",
        ),
        _OUTPUT,
    ),
)
_STATUS = _control(
    "status",
    "tell how the worker here is",
    "Connection, jobs, slots and queues - in force, wished for by an operator, and the default here - and "
    "maintenance.",
)
_STOP = _control(
    "stop",
    "have the worker here finish what runs, and leave",
    "As SIGTERM does: it takes nothing new, and leaves when all is done and reported. After "
    "--drain-timeout-sec of the worker it stops the tasks that still run.",
    Argument(flags=("--now",), is_switch=True, help="stop running tasks at once"),
    *_wait("it has left"),
)
_MAINTENANCE = _control(
    "maintenance",
    "put the worker on this host into maintenance, or end it",
    "It holds while the worker is not connected, and when it is started again, until somebody here or an "
    "operator at the centre ends it.",
    Argument(flags=("maintenance",), metavar="on|off", choices=("on", "off"), help="on or off"),
    Argument(flags=("-c", "--comments"), metavar="COMMENT", help="the reason; `on` needs one"),
    *_wait("running tasks have ended (on)"),
)

HOST_VERBS: tuple[Verb, ...] = (_WORKER, _STATUS, _MAINTENANCE, _STOP, _DOCTOR)


_DEMO = Verb(
    name="demo",
    help="show the whole path on this machine: Airflow, a worker, a DAG run",
    side=Side.ANYWHERE,
    implementation="edge_ws.demo:main",
    extra="server",
    arguments=(
        Argument(
            flags=("-o", "--output"),
            metavar="FORMAT",
            choices=("text", "json"),
            default="text",
            help="text, or json: one line of JSON at the end (default: text)",
        ),
        Argument(flags=("--keep",), is_switch=True, help="leave all running at the end, until Ctrl-C"),
    ),
)

_VERSION = Verb(
    name="version",
    help="print the version",
    side=Side.ANYWHERE,
    implementation="edge_ws.cli.version:run",
)

_COMPLETION = Verb(
    name="completion",
    help="print a script with which the shell completes verbs and flags",
    description='For bash, in ~/.bashrc: eval "$(edge-ws completion bash)"; for zsh the same in ~/.zshrc.',
    side=Side.ANYWHERE,
    implementation="edge_ws.cli.completion:run",
    arguments=(Argument(flags=("shell",), metavar="bash|zsh", choices=("bash", "zsh"), help="bash or zsh"),),
)

VERBS: tuple[Verb | Group, ...] = (
    *HOST_VERBS,
    *CENTRE_VERBS,
    _DEMO,
    _COMPLETION,
    _VERSION,
)
