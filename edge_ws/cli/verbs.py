"""Every verb as data: its name, its arguments, what implements it, where it runs and what it needs.

Builds nothing and runs nothing: `parsers` makes argparse's parser of it, `airflow` Airflow's commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from edge_ws.worker.config import CONFIG_VARIABLE, DEFAULT_FILE
from edge_ws.worker.settings import SETTINGS, TOKEN_VARIABLE, Kind, Setting


class Side(Enum):
    """Where a verb runs; the value heads its verbs in `--help`."""

    REMOTE = "on a remote host"
    CENTRE = "in the data centre, on Airflow's database (also: airflow edge-ws ...)"
    ANYWHERE = "anywhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument, in the terms that argparse and Airflow's `Arg` share."""

    flags: tuple[str, ...]
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    default: object = None
    required: bool = False
    is_switch: bool = False
    type: Callable[[str], object] | None = None

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of `add_argument`."""
        if self.is_switch:
            return {"help": self.help, "action": "store_true"}
        told: dict[str, Any] = {"help": self.help}
        if self.flags[0].startswith("-"):
            told |= {"default": self.default, "required": self.required}
        for name in ("metavar", "choices", "type"):
            if getattr(self, name) is not None:
                told[name] = getattr(self, name)
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb. `implementation` is `module:function`, takes the parsed arguments, returns the exit code."""

    name: str
    help: str
    description: str = ""
    side: Side
    implementation: str
    arguments: tuple[Argument, ...] = ()
    extra: str | None = None
    """The extra of the package that it needs."""
    works_bare: str | None = None
    """A switch with which it needs no extra."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Verbs under a common first word."""

    name: str
    help: str
    members: tuple[Verb, ...]


def leaves(members: Sequence[Verb | Group]) -> Iterator[tuple[str, Verb]]:
    """Yield each verb with all its words."""
    for member in members:
        if isinstance(member, Verb):
            yield member.name, member
        else:
            for verb in member.members:
                yield f"{member.name} {verb.name}", verb


def _setting(setting: Setting) -> Argument:
    if setting.kind is Kind.SWITCH:
        return Argument(flags=(setting.flag,), help=setting.help, is_switch=True)
    flags = (setting.short, setting.flag) if setting.short else (setting.flag,)
    return Argument(flags=flags, metavar=setting.metavar, help=setting.help)


_COMMANDS = "edge_ws.provider.commands"

_WORKER_NAME = Argument(
    flags=("-H", "--edge-hostname"), metavar="WORKER", required=True, help="the worker's name"
)
_OUTPUT = Argument(
    flags=("-o", "--output"),
    metavar="FORMAT",
    choices=("table", "json", "yaml", "plain"),
    default="table",
    help="table, json, yaml or plain (default: table)",
)
_ONE_RESULT = Argument(
    flags=("-o", "--output"),
    metavar="FORMAT",
    choices=("plain", "json"),
    default="plain",
    help="plain or json (default: plain)",
)

_CONFIG = Argument(
    flags=("--config",),
    metavar="FILE",
    help=f"the settings file, TOML (default: {CONFIG_VARIABLE}, else {DEFAULT_FILE} if there is one)",
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
        *(_setting(setting) for setting in SETTINGS),
        _CONFIG,
        Argument(
            flags=("--show-config",),
            is_switch=True,
            help="print each value and where it comes from, and stop",
        ),
    ),
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
        *(_setting(setting) for setting in SETTINGS),
        _CONFIG,
        Argument(
            flags=("--quick",),
            is_switch=True,
            help="leave out the request that is held for 30 s",
        ),
        Argument(
            flags=("-o", "--output"),
            metavar="FORMAT",
            choices=("text", "json"),
            default="text",
            help="text, a line each, or json (default: text)",
        ),
    ),
)

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
            arguments=(_OUTPUT,),
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

_LIST_WORKERS = Verb(
    name="list-workers",
    help="list the workers, edge-ws's and edge3's",
    side=Side.CENTRE,
    implementation=f"{_COMMANDS}:list_workers",
    extra="server",
    arguments=(
        _OUTPUT,
        Argument(
            flags=("--worker-name-pattern",),
            metavar="PATTERN",
            help="only workers of these names, e.g. 'prod-*'",
        ),
    ),
)

_SET_WORKER_CONCURRENCY = Verb(
    name="set-worker-concurrency",
    help="change how many tasks a worker may run at once",
    description="A connected worker applies it at once; what runs already is left alone. 0 pauses it.",
    side=Side.CENTRE,
    implementation=f"{_COMMANDS}:set_worker_concurrency",
    extra="server",
    arguments=(
        _WORKER_NAME,
        Argument(flags=("-c", "--concurrency"), metavar="N", type=int, required=True, help="0 to 1024 slots"),
        Argument(flags=("-w", "--wait"), is_switch=True, help="wait until the worker has applied it"),
        Argument(
            flags=("--wait-timeout",),
            metavar="SECONDS",
            type=float,
            default=30.0,
            help="give up waiting after this time, with exit code 7 (default: 30)",
        ),
        _ONE_RESULT,
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
    arguments=(_ONE_RESULT,),
)

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

VERBS: tuple[Verb | Group, ...] = (
    _WORKER,
    _DOCTOR,
    _TOKEN,
    _LIST_WORKERS,
    _SET_WORKER_CONCURRENCY,
    _DB,
    _SERVER,
    _CHECK,
    _DEMO,
    _VERSION,
)
