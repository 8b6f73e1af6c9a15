"""The worker's configuration: where each value comes from, and the token it connects with.

One setting, one name: `--some-flag` beats `EDGE_WS_SOME_FLAG` beats `some_flag` in the settings file beats
the default. Reads neither environment nor argv of its own: both are handed in.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from edge_ws.errors import RefusedError, UsageError
from edge_ws.ownership import is_trusted, others_may_read, others_may_write, user_name
from edge_ws.protocol.frames import Refusal
from edge_ws.protocol.ids import WorkerName
from edge_ws.worker import proxy
from edge_ws.worker.files import LONGEST, open_plain
from edge_ws.worker.settings import (
    SETTINGS,
    TOKEN_VARIABLE,
    Address,
    Kind,
    Setting,
    check_name,
    check_path,
)

DEFAULT_FILE = Path("/etc/edge-ws/worker.toml")
CONFIG_VARIABLE = "EDGE_WS_CONFIG"
MAX_TOKEN_BYTES = 16 * 1024
"""Of a token; a proxy's limit for a header is lower."""
_SWITCH = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_OF_SYSTEMD = ("INVOCATION_ID", "NOTIFY_SOCKET")
"""Variables by which a service manager shows that it started the worker: nobody looks at its exit."""
_HOW = "at the centre: airflow edge-ws token create"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What one daemon is told; fixed for its life."""

    url: str
    """Airflow's base URL, without a slash at its end."""
    name: WorkerName
    queues: tuple[str, ...] | None
    """None: every queue."""
    concurrency: int
    team: str | None
    token_file: Path | None
    """Comes before `token`."""
    token: str | None = field(repr=False)
    """As the environment had it at the start."""
    state_dir: Path
    log_level: str
    transport: str
    drain_timeout_s: float = 0.0
    """A drain that lasts longer stops what still runs; 0: never."""
    drain_kill_grace_s: float = 30.0
    """Between SIGTERM and SIGKILL of what a drain stops."""
    proxy: str | None = field(default=None, repr=False)
    """As `proxy.check` returns it; None: as the environment says."""
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    allow_insecure: bool = False
    token_command: str | None = field(default=None, repr=False)
    """Prints the token; comes in place of the two."""
    health_listen: Address | None = None
    """Where health and metrics are told; None: nowhere."""
    extended_system_info_function: str | None = None
    """The dotted path of the site's own function of facts."""
    wait: bool = False
    """A first start does not end by an answer that a person must do something about: that may happen yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the defaults depend on."""

    hostname: str
    is_root: bool
    default_file: Path = DEFAULT_FILE


def this_machine() -> Machine:
    """Return what holds for this process."""
    return Machine(hostname=socket.gethostname(), is_root=os.geteuid() == 0)


@dataclass(frozen=True, slots=True)
class Resolved:
    """The configuration, and for each of its fields where the value came from."""

    config: WorkerConfig
    origins: Mapping[str, str]
    file: Path | None
    """The settings file that was read."""
    proxy: proxy.Found
    """The one in force for the URL."""

    def shown(self) -> str:
        """Return one line for each setting: its key, its value and its origin. Secrets are masked."""
        rows = self.rows()
        wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{key:<{wide[0]}}  {value:<{wide[1]}}  {origin}" for key, value, origin in rows)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return for each setting its key, its value and its origin. Secrets are masked."""
        rows = [("config", str(self.file or "none"), self.origins["config"])]
        rows += [
            (setting.key, _shown(setting, getattr(self.config, setting.field)), self.origins[setting.field])
            if setting.field != "proxy"
            else (setting.key, proxy.masked(self.proxy.url or proxy.OFF), self.origins["proxy"])
            for setting in SETTINGS
        ]
        rows.append(("token", "none" if self.config.token is None else "***", self.origins["token"]))
        return rows


def _shown(setting: Setting, value: object) -> str:
    if value is None:
        return setting.absent
    return ",".join(value) if isinstance(value, tuple) else setting.show(value)


@dataclass(frozen=True, slots=True)
class _Found:
    value: Any
    origin: str


def resolve(flags: Mapping[str, str | bool | None], environ: Mapping[str, str], machine: Machine) -> Resolved:
    """Return the configuration that flags (by key, and `config`), environment and settings file make.

    An empty variable counts as not set.

    Raises:
        UsageError: a value or the settings file is wrong, or there is no URL; the sentence names the source.
    """
    file, from_file, origin = _settings_file(flags, environ, machine)
    found = _gather(SETTINGS, flags, environ, file, from_file)
    for field_name in ("token_file", "token_command"):
        found.setdefault(field_name, _Found(None, "default"))
    _settle_token(found, environ)
    _fill_in(found, environ, machine)
    in_force = _settle_proxy(found, environ)
    values = {name: entry.value for name, entry in found.items()}
    origins = {name: entry.origin for name, entry in found.items()} | {"config": origin}
    return Resolved(WorkerConfig(**values), origins, file, in_force)


class Place(NamedTuple):
    """Where a worker keeps its state."""

    directory: Path
    is_default: bool
    """Nobody has named it: it follows from the worker's name, or the machine's."""


def find_state_dir(
    flags: Mapping[str, str | bool | None], environ: Mapping[str, str], machine: Machine
) -> Place:
    """Return the state directory of the worker that these make, whether or not the rest makes sense.

    Raises:
        UsageError: the name, the directory or the settings file is wrong.
    """
    some = [setting for setting in SETTINGS if setting.field in {"name", "state_dir"}]
    file, from_file, _ = _settings_file(flags, environ, machine)
    found = _gather(some, flags, environ, file, from_file)
    _settle_place(found, environ, machine)
    return Place(found["state_dir"].value, found["state_dir"].origin == "default")


def _settings_file(
    flags: Mapping[str, str | bool | None], environ: Mapping[str, str], machine: Machine
) -> tuple[Path | None, dict[str, object], str]:
    named, origin = cast("str | None", flags.get("config")), "--config"
    if named is None and environ.get(CONFIG_VARIABLE):
        named, origin = environ[CONFIG_VARIABLE], CONFIG_VARIABLE
    if named is None:
        origin = "default"
    return *_read_file(named, origin, machine.default_file), origin


def _gather(
    settings: Iterable[Setting],
    flags: Mapping[str, str | bool | None],
    environ: Mapping[str, str],
    file: Path | None,
    from_file: Mapping[str, object],
) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for setting in settings:
        flag, variable = _flag(flags, setting), environ.get(setting.variable)
        if flag is not None:
            found[setting.field] = _from_text(setting, flag, setting.flag)
        elif variable:
            found[setting.field] = _from_text(setting, variable, setting.variable)
        elif file is not None and setting.key in from_file:
            found[setting.field] = _from_file(setting, from_file[setting.key], file)
    return found


def _read_file(named: str | None, origin: str, default: Path) -> tuple[Path | None, dict[str, object]]:
    file = default if named is None else Path(named)
    if named is None and not file.exists():
        return None, {}
    try:
        values = tomllib.loads(_text_of_settings(file, origin))
    except OSError as error:
        raise UsageError(f"{origin}: {file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOML's, Unicode's, and int's for a number of thousands of digits
        raise UsageError(f"{origin}: {file} is not TOML: {error}") from error
    known = {setting.key for setting in SETTINGS}
    for key in values:
        if key not in known:
            raise UsageError(f"{file}: there is no setting {key!r}, only {', '.join(sorted(known))}")
    return file, values


def _text_of_settings(file: Path, origin: str) -> str:
    """Return the text of a settings file, be it a pipe.

    It names where the token is sent to, so no other user may have a say in it: as with ssh's.

    Raises:
        UsageError: another user may have written it.
        OSError: it cannot be read, or is endless.
    """
    # A named pipe that nobody writes to is not waited for.
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        found = os.fstat(stream.fileno())
        if not is_trusted(found.st_uid):
            owner = user_name(found.st_uid)
            raise UsageError(f"{origin}: {file} is {owner}'s, who is neither root nor runs this; run: chown")
        if stat.S_ISREG(found.st_mode) and others_may_write(found):
            raise UsageError(f"{origin}: others may write to {file}; run: chmod go-w {file}")
        os.set_blocking(stream.fileno(), True)
        body = stream.read(LONGEST + 1)
    if len(body) > LONGEST:
        raise OSError(errno.EFBIG, f"Larger than {LONGEST // 2**20} MiB", str(file))
    return body.decode("utf-8")


def _flag(flags: Mapping[str, str | bool | None], setting: Setting) -> str | None:
    value = flags.get(setting.key)
    if isinstance(value, bool):
        # A switch that is not given is False for argparse; that must not beat the variable.
        return "true" if value else None
    return value


def _from_text(setting: Setting, text: str, origin: str) -> _Found:
    value: object = text
    if setting.kind is Kind.NUMBER:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
            raise UsageError(f"{origin}: {text!r} is not an integer")
        value = int(text)
    elif setting.kind is Kind.NAMES:
        value = text.split(",")
    elif setting.kind is Kind.SWITCH:
        if text.strip().lower() not in _SWITCH:
            raise UsageError(f"{origin}: {text!r} is neither true nor false")
        value = _SWITCH[text.strip().lower()]
    return _checked(setting, value, origin, Path.cwd())


def _from_file(setting: Setting, value: object, file: Path) -> _Found:
    origin = f"{setting.key} in {file}"
    match setting.kind:
        case Kind.NUMBER:
            is_right = type(value) is int
        case Kind.NAMES:
            is_right = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        case Kind.SWITCH:
            is_right = isinstance(value, bool)
        case Kind.TEXT | Kind.PATH:
            is_right = isinstance(value, str)
    if not is_right:
        raise UsageError(f"{origin}: must be {setting.kind.value}")
    # A relative path in a settings file is meant from that file, not from wherever the daemon was started.
    return _checked(setting, value, origin, file.absolute().parent)


def _checked(setting: Setting, value: object, origin: str, folder: Path) -> _Found:
    try:
        value = setting.check(value)
    except ValueError as error:
        raise UsageError(f"{origin}: {error}") from error
    return _Found(folder / value if isinstance(value, Path) else value, origin)


def _settle_token(found: dict[str, _Found], environ: Mapping[str, str]) -> None:
    """Let the token's file, its command or the environment's token win, by the order of their sources."""
    token = environ.get(TOKEN_VARIABLE) or None
    others = [setting for setting in SETTINGS if setting.field in {"token_file", "token_command"}]
    given = [found[one.field].origin for one in others if found[one.field].value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are both set; unset one of them")
    found["token"] = _Found(token, "default" if token is None else TOKEN_VARIABLE)
    for one in others if token is not None else ():
        origin = found[one.field].origin
        if origin == one.variable:
            raise UsageError(f"{TOKEN_VARIABLE} and {origin} are both set; unset one of them")
        if origin == one.flag:
            found["token"] = _Found(None, f"{origin} comes first")
        else:
            found[one.field] = _Found(None, f"{TOKEN_VARIABLE} comes first")


def _settle_proxy(found: dict[str, _Found], environ: Mapping[str, str]) -> proxy.Found:
    setting = found["proxy"].value if "proxy" in found else None
    in_force = proxy.find(found["url"].value, setting, environ)
    if setting is None:
        found["proxy"] = _Found(None, "default" if in_force.origin == proxy.OFF else in_force.origin)
    return in_force


def _fill_in(found: dict[str, _Found], environ: Mapping[str, str], machine: Machine) -> None:
    if "url" not in found:
        raise UsageError("no URL: give --url, EDGE_WS_URL or url in the settings file")
    _settle_place(found, environ, machine)
    defaults = {
        "queues": None,
        "concurrency": 8,
        "team": None,
        "drain_timeout_s": 0.0,
        "drain_kill_grace_s": 30.0,
        "log_level": "info",
        "transport": "auto",
        "ca_file": None,
        "client_cert": None,
        "client_key": None,
        "health_listen": None,
        "extended_system_info_function": None,
        "allow_insecure": False,
    }
    for name, value in defaults.items():
        found.setdefault(name, _Found(value, "default"))
    manager = next((name for name in _OF_SYSTEMD if environ.get(name)), None)
    found.setdefault(
        "wait", _Found(manager is not None, "default" if manager is None else f"default ({manager} is set)")
    )


def _settle_place(found: dict[str, _Found], environ: Mapping[str, str], machine: Machine) -> None:
    """Fill in the name, and the state directory, which depends on it."""
    if "name" not in found:
        try:
            found["name"] = _Found(check_name(machine.hostname), "default (the host name)")
        except ValueError as error:
            raise UsageError(f"the host name {error}; give --edge-hostname") from error
    if "state_dir" not in found:
        try:
            path = _default_state_dir(found["name"].value, environ, machine)
        except ValueError as error:
            raise UsageError(
                f"there is no place for the worker's memory ({error}); give --state-dir"
            ) from error
        found["state_dir"] = _Found(path, "default")


def _default_state_dir(name: str, environ: Mapping[str, str], machine: Machine) -> Path:
    if machine.is_root:
        return Path("/var/lib/edge-ws") / name
    home = environ.get("XDG_STATE_HOME", "")
    # By the XDG specification a relative path in it is to be ignored.
    base = Path(home) if home.startswith("/") else check_path("~/.local/state")
    return base / "edge-ws" / name


def read_token(config: WorkerConfig) -> str:
    """Return the token as it is now; a file is read anew each time, so that it can be replaced.

    Raises:
        UsageError: no token is configured at all.
        RefusedError: (code `token`) the file is missing, unreadable or holds no token. As with a refusal by
            the server, a daemon whose token has worked before keeps its tasks and tries again.
    """
    if config.token_file is None:
        if config.token is None:
            raise UsageError(f"no token: give --token-file, --token-command or {TOKEN_VARIABLE}; {_HOW}")
        return checked_token(config.token.encode(), TOKEN_VARIABLE)
    origin = f"the token file {config.token_file}"
    try:
        with os.fdopen(open_plain(config.token_file), "rb") as file:
            data = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise RefusedError(Refusal.TOKEN.value, f"{origin} cannot be read: {error.strerror}") from error
    return checked_token(data, origin)


def checked_token(data: bytes, origin: str) -> str:
    """Return the token that was read there.

    Raises:
        RefusedError: (code `token`) it is none.
    """
    if len(data) > MAX_TOKEN_BYTES:
        raise RefusedError(
            Refusal.TOKEN.value, f"{origin} has over {MAX_TOKEN_BYTES} bytes; a token is shorter"
        )
    token = data.decode("utf-8", "replace").strip()
    if not token:
        raise RefusedError(Refusal.TOKEN.value, f"{origin} is empty; {_HOW}")
    # It travels in a header: a line break in it would end the header.
    if not token.isascii() or not token.isprintable() or " " in token:
        raise RefusedError(Refusal.TOKEN.value, f"{origin} does not hold one token on one line; {_HOW}")
    return token


def token_warning(config: WorkerConfig) -> str | None:
    """Return a sentence if others than root and this user may read or write the token file, else None.

    A warning only: the mode of a secret that a container has mounted is not the user's to change, and a
    worker that would not start over it takes no jobs.
    """
    file = config.token_file
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return None  # reading it will tell
    if not is_trusted(found.st_uid):
        return f"the token file {file} belongs to {user_name(found.st_uid)}; make it the worker's own (chown)"
    if not others_may_read(found) and not others_may_write(found):
        return None
    doing = "written" if others_may_write(found) else "read"
    return f"the token file {file} can be {doing} by others; run: chmod 600 {file}"
