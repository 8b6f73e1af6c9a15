"""The verbs of a remote host, as data: the worker, what looks at it, and what controls it there."""

from __future__ import annotations

from collections.abc import Collection

from edge_ws.cli.verb import Argument, Side, Verb
from edge_ws.worker.config import CONFIG_VARIABLE, DEFAULT_FILE
from edge_ws.worker.settings import SETTINGS, TOKEN_VARIABLE, Kind, Setting

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
    "have the worker here take nothing new, and stay; or end that",
    "It holds while the worker is not connected, and when it is started again, until somebody here or an "
    "operator at the centre ends it.",
    Argument(flags=("maintenance",), metavar="on|off", choices=("on", "off"), help="on or off"),
    Argument(flags=("-c", "--comments"), metavar="COMMENT", help="the reason; `on` needs one"),
    *_wait("running tasks have ended (on)"),
)

HOST_VERBS: tuple[Verb, ...] = (_WORKER, _STATUS, _MAINTENANCE, _STOP, _DOCTOR)
