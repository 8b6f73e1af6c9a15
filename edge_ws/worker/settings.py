"""The table of the worker's settings: their names, and what their values may be.

Knows nothing of where a value comes from.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge_ws.protocol.ids import (
    MAX_CONCURRENCY,
    WorkerName,
    can_be_looked_up,
    is_queue_name,
    is_team_name,
    is_worker_name,
)
from edge_ws.worker import proxy

TOKEN_VARIABLE = "EDGE_WS_TOKEN"  # noqa: S105 - the variable's name
TRANSPORTS = ("auto", "websocket", "longpoll")
LOG_LEVELS = ("debug", "info", "warning", "error")


LONGEST_WAIT_S = 30 * 86400


class Kind(Enum):
    """What a value is in the settings file; as a flag or a variable every value is text."""

    TEXT = "a string"
    PATH = "a string (a path)"
    NUMBER = "an integer"
    NAMES = "an array of strings"
    SWITCH = "true or false"
    """As a flag it takes no value."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    """In numbers."""
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        """Return it as it is given."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: its name in all three places, and what it may be."""

    field: str
    """Of `WorkerConfig`."""
    flag: str
    short: str | None = None
    metavar: str = ""
    help: str
    kind: Kind = Kind.TEXT
    check: Callable[[Any], Any]
    """Takes a value of the kind and returns the one to use, or raises ValueError with what is wrong."""
    absent: str = "none"
    """How `--show-config` shows it when it has no value."""
    show: Callable[[Any], str] = str
    """How it shows a value; without its secrets."""

    @property
    def key(self) -> str:
        """Its name in the settings file."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"EDGE_WS_{self.key.upper()}"


# What a value may be


def _check_url(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("the URL holds spaces or characters that no URL has")
    if "@" in text:
        raise ValueError(
            "a URL with a user or password in it is not taken; the worker shows its token instead"
        )
    parts = urlsplit(text)  # raises ValueError itself for an address in broken brackets
    if parts.scheme in {"ws", "wss"}:
        raise ValueError(f"{text!r} is a WebSocket address; give Airflow's base URL, https://...")
    if parts.scheme not in {"http", "https"}:
        raise ValueError(f"{text!r} has no http:// or https:// in front")
    if not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not a base URL such as https://airflow.example.com/sub/path")
    if not can_be_looked_up(parts.hostname):
        raise ValueError(f"{parts.hostname} is no host's name or address")
    if parts.port == 0:  # raises ValueError itself for what is no port
        raise ValueError("port 0 cannot be connected to")
    return (parts.scheme + text[len(parts.scheme) :]).rstrip("/")


def check_name(text: str) -> WorkerName:
    """Return the worker's name, or raise ValueError."""
    if not is_worker_name(text):
        raise ValueError(
            f"{text!r} cannot name a worker: it takes 1-64 letters, digits and ._@:-, a letter or digit first"
        )
    return WorkerName(text)


def _check_queues(names: list[str]) -> tuple[str, ...]:
    queues = tuple(dict.fromkeys(name.strip() for name in names))
    wrong = [name for name in queues if not is_queue_name(name)]
    if wrong or not queues:
        raise ValueError(f"{(wrong or [''])[0]!r} cannot name a queue")
    return queues


def _check_team(text: str) -> str:
    if not is_team_name(text):
        raise ValueError(f"{text!r} cannot name a team: it takes 1-64 characters")
    return text


def _check_concurrency(number: int) -> int:
    if not 1 <= number <= MAX_CONCURRENCY:
        raise ValueError(f"{number} is not between 1 and {MAX_CONCURRENCY}")
    return number


def _check_wait(seconds: int) -> float:
    if not 0 <= seconds <= LONGEST_WAIT_S:
        raise ValueError(f"{seconds} is not between 0 and {LONGEST_WAIT_S} seconds")
    return float(seconds)


def _show_seconds(value: float) -> str:
    return f"{value:g}"


def check_path(text: str) -> Path:
    """Return the path with `~` made out, or raise ValueError."""
    if not text or "\0" in text:
        raise ValueError("the path is empty or holds a NUL")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text!r}: {error}") from error


def _check_command(text: str) -> str:
    if "\0" in text or not shlex.split(text):  # raises ValueError itself for a quotation that does not end
        raise ValueError("the command is empty or holds a NUL")
    return text


def _check_address(text: str) -> Address:
    parts = urlsplit(f"//{text.strip()}")
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error
    if not port or parts.netloc != text.strip() or "@" in text:
        raise ValueError(f"{text!r} is no address with a port, such as 127.0.0.1:9794 or [::1]:9794")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(
            f"{host!r} is no address of this machine in numbers; 0.0.0.0 or [::] stands for all"
        ) from None
    return Address(host, port)


def _check_function(text: str) -> str:
    if "." not in text or not all(part.isidentifier() for part in text.split(".")):
        raise ValueError(f"{text!r} is no dotted path of a function, such as our_site.facts.press_facts")
    return text


def _check_switch(value: bool) -> bool:
    return value


def _one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"{text!r} is none of {', '.join(allowed)}")
        return text

    return check


SETTINGS: tuple[Setting, ...] = (
    Setting(
        field="url",
        flag="--url",
        metavar="URL",
        help="Airflow's base URL, the only address a worker is given",
        check=_check_url,
    ),
    Setting(
        field="name",
        flag="--edge-hostname",
        short="-H",
        metavar="NAME",
        help="the worker's name (default: the machine's host name)",
        check=check_name,
    ),
    Setting(
        field="queues",
        flag="--queues",
        short="-q",
        metavar="A,B",
        help="the queues to serve (default: every queue)",
        kind=Kind.NAMES,
        check=_check_queues,
        absent="all",
    ),
    Setting(
        field="concurrency",
        flag="--concurrency",
        short="-c",
        metavar="N",
        help="slots: how many tasks may run at once (default: 8)",
        kind=Kind.NUMBER,
        check=_check_concurrency,
    ),
    Setting(
        field="team",
        flag="--team-name",
        short="-t",
        metavar="TEAM",
        help="the team whose tasks to run, where Airflow runs with [core] multi_team",
        check=_check_team,
    ),
    Setting(
        field="token_file",
        flag="--token-file",
        metavar="FILE",
        help=f"holds the worker's token; a new one is taken at once (without it: {TOKEN_VARIABLE})",
        kind=Kind.PATH,
        check=check_path,
    ),
    Setting(
        field="token_command",
        flag="--token-command",
        metavar="COMMAND",
        help="in place of a file: a command that prints the token, run without a shell, at a connect and "
        "before the token expires; it has 30 s",
        check=_check_command,
        show=lambda value: f"{shlex.split(value)[0]} ...",
    ),
    Setting(
        field="state_dir",
        flag="--state-dir",
        metavar="DIR",
        help="the worker's memory across restarts (default: /var/lib/edge-ws/NAME for root, "
        "else $XDG_STATE_HOME/edge-ws/NAME)",
        kind=Kind.PATH,
        check=check_path,
    ),
    Setting(
        field="drain_timeout_s",
        flag="--drain-timeout-sec",
        metavar="SECONDS",
        help="a drain that lasts longer stops the tasks that still run; 0 waits for ever (default: 0)",
        kind=Kind.NUMBER,
        check=_check_wait,
        show=_show_seconds,
    ),
    Setting(
        field="drain_kill_grace_s",
        flag="--drain-kill-grace-sec",
        metavar="SECONDS",
        help="between SIGTERM and SIGKILL of a task that a drain stops (default: 30)",
        kind=Kind.NUMBER,
        check=_check_wait,
        show=_show_seconds,
    ),
    Setting(
        field="log_level",
        flag="--log-level",
        metavar="LEVEL",
        help=f"one of {', '.join(LOG_LEVELS)} (default: info)",
        check=_one_of(LOG_LEVELS),
    ),
    Setting(
        field="transport",
        flag="--transport",
        metavar="HOW",
        help=f"one of {', '.join(TRANSPORTS)} (default: auto)",
        check=_one_of(TRANSPORTS),
    ),
    Setting(
        field="proxy",
        flag="--proxy",
        metavar="URL",
        help="the forward proxy, http://user:password@proxy:3128, or none for none (default: as HTTPS_PROXY, "
        "ALL_PROXY and NO_PROXY say)",
        check=proxy.check,
        show=proxy.masked,
    ),
    Setting(
        field="ca_file",
        flag="--ca-file",
        metavar="FILE",
        help="trust the authorities in this PEM file, in place of the system's",
        kind=Kind.PATH,
        check=check_path,
        absent="the system's",
    ),
    Setting(
        field="client_cert",
        flag="--client-cert",
        metavar="FILE",
        help="show this certificate (PEM, with its chain) to a server that wants one",
        kind=Kind.PATH,
        check=check_path,
    ),
    Setting(
        field="client_key",
        flag="--client-key",
        metavar="FILE",
        help="its private key (PEM), if that is not in the same file",
        kind=Kind.PATH,
        check=check_path,
    ),
    Setting(
        field="health_listen",
        flag="--health-listen",
        metavar="ADDRESS",
        help="answer /healthz, /readyz and /metrics there, such as 127.0.0.1:9794 (default: nowhere)",
        check=_check_address,
    ),
    Setting(
        field="extended_system_info_function",
        flag="--extended-system-info-function",
        metavar="MODULE.NAME",
        help="a function of the site's that returns a dict of numbers and short texts, called every 30 s in "
        "a process of its own; what it says is shown with the worker",
        check=_check_function,
    ),
    Setting(
        field="allow_insecure",
        flag="--allow-insecure",
        help="let a plain http:// URL lead to another machine: token and tasks travel unencrypted",
        kind=Kind.SWITCH,
        check=_check_switch,
        show=lambda value: str(value).lower(),
    ),
    Setting(
        field="wait",
        flag="--wait",
        help="at the first start, too, go on trying whatever the answer is: a token, a network or a centre "
        "that is not there yet may come (default: only when systemd starts the worker)",
        kind=Kind.SWITCH,
        check=_check_switch,
        show=lambda value: str(value).lower(),
    ),
)
