"""Where the worker's settings come from, what they may be, and its token."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_ws.errors import RefusedError, UsageError
from edge_ws.worker.config import (
    Machine,
    Resolved,
    WorkerConfig,
    find_state_dir,
    read_token,
    resolve,
    token_warning,
)
from edge_ws.worker.settings import SETTINGS, Address, Setting

URL = "https://airflow.example.com"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(hostname="box-1", is_root=False, default_file=tmp_path / "etc" / "worker.toml")


def _resolve(
    machine: Machine, flags: Mapping[str, str | None] | None = None, environ: Mapping[str, str] | None = None
) -> Resolved:
    return resolve({"url": URL, **(flags or {})}, environ or {}, machine)


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# Sources


def test_defaults(machine: Machine) -> None:
    resolved = _resolve(machine, environ={"XDG_STATE_HOME": "/state"})
    assert resolved.config == WorkerConfig(
        url=URL,
        name=resolved.config.name,
        queues=None,
        concurrency=8,
        team=None,
        token_file=None,
        token=None,
        state_dir=Path("/state/edge-ws/box-1"),
        log_level="info",
        transport="auto",
    )
    assert resolved.config.name == "box-1"
    assert resolved.origins["name"] == "default (the host name)"
    assert resolved.file is None


def test_state_dir_follows_the_name_and_the_user(machine: Machine) -> None:
    assert _resolve(machine).config.state_dir == Path.home() / ".local/state/edge-ws/box-1"
    relative = _resolve(machine, environ={"XDG_STATE_HOME": "not/absolute"})
    assert relative.config.state_dir == Path.home() / ".local/state/edge-ws/box-1"
    root = dataclasses.replace(machine, is_root=True)
    named = _resolve(root, {"edge_hostname": "press-2"}, {"XDG_STATE_HOME": "/state"})
    assert named.config.state_dir == Path("/var/lib/edge-ws/press-2")


EACH = {
    # key: (as text, as TOML, the value meant)
    "url": (
        "https://other.example.com/sub/",
        '"https://other.example.com/sub/"',
        "https://other.example.com/sub",
    ),
    "edge_hostname": ("press-2", '"press-2"', "press-2"),
    "queues": ("a, b,a", '["a", "b"]', ("a", "b")),
    "concurrency": ("12", "12", 12),
    "team_name": ("red", '"red"', "red"),
    "token_file": ("/run/token", '"/run/token"', Path("/run/token")),
    "token_command": ("jwt 'a b'", "\"jwt 'a b'\"", "jwt 'a b'"),
    "state_dir": ("/srv/state", '"/srv/state"', Path("/srv/state")),
    "drain_timeout_sec": ("3600", "3600", 3600.0),
    "drain_kill_grace_sec": ("0", "0", 0.0),
    "log_level": ("debug", '"debug"', "debug"),
    "transport": ("websocket", '"websocket"', "websocket"),
    "proxy": ("proxy.local:3128", '"http://proxy.local:3128/"', "http://proxy.local:3128"),
    "ca_file": ("/etc/ca.pem", '"/etc/ca.pem"', Path("/etc/ca.pem")),
    "client_cert": ("/etc/own.pem", '"/etc/own.pem"', Path("/etc/own.pem")),
    "client_key": ("/etc/own.key", '"/etc/own.key"', Path("/etc/own.key")),
    "health_listen": ("[::1]:9794", '"[::1]:9794"', Address("::1", 9794)),
    "extended_system_info_function": ("site.press.facts", '"site.press.facts"', "site.press.facts"),
    "allow_insecure": ("Yes", "true", True),
    "wait": ("on", "true", True),
}


def test_each_setting_is_tried_here() -> None:
    assert set(EACH) == {setting.key for setting in SETTINGS}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_each_setting_has_one_name_in_three_places(
    setting: Setting, machine: Machine, tmp_path: Path
) -> None:
    text, toml, meant = EACH[setting.key]
    needed = {} if setting.key == "url" else {"url": URL}
    file = _file(tmp_path / "w.toml", f"{setting.key} = {toml}\n")

    by_flag = resolve({**needed, setting.key: text}, {}, machine)
    by_variable = resolve(needed, {f"EDGE_WS_{setting.key.upper()}": text}, machine)
    by_file = resolve({**needed, "config": str(file)}, {}, machine)

    for resolved, origin in (
        (by_flag, f"--{setting.key.replace('_', '-')}"),
        (by_variable, f"EDGE_WS_{setting.key.upper()}"),
        (by_file, f"{setting.key} in {file}"),
    ):
        assert getattr(resolved.config, setting.field) == meant
        assert resolved.origins[setting.field] == origin


def test_a_switch_as_argparse_gives_it(machine: Machine, tmp_path: Path) -> None:
    file = _file(tmp_path / "w.toml", "allow_insecure = true\n")
    for given, environ, meant, origin in (
        (False, {}, True, f"allow_insecure in {file}"),
        (False, {"EDGE_WS_ALLOW_INSECURE": "off"}, False, "EDGE_WS_ALLOW_INSECURE"),
        (True, {"EDGE_WS_ALLOW_INSECURE": "off"}, True, "--allow-insecure"),
    ):
        flags = {"url": URL, "config": str(file), "allow_insecure": given}
        resolved = resolve(flags, environ, machine)
        assert (resolved.config.allow_insecure, resolved.origins["allow_insecure"]) == (meant, origin)


@pytest.mark.parametrize(
    ("flags", "environ", "shown", "origin"),
    [
        ({}, {}, "none", "default"),
        ({}, {"HTTPS_PROXY": "http://u:geheim@p:1"}, "http://u:***@p:1", "HTTPS_PROXY"),
        ({}, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example.com"}, "none", "NO_PROXY"),
        ({"proxy": "u:geheim@q"}, {"HTTPS_PROXY": "http://p:1"}, "http://u:***@q:80", "--proxy"),
        ({"proxy": ""}, {"HTTPS_PROXY": "http://p:1"}, "none", "--proxy"),
        ({"proxy": "none"}, {"HTTPS_PROXY": "socks5://p:1"}, "none", "--proxy"),
        ({}, {"EDGE_WS_PROXY": "", "https_proxy": "p:1"}, "http://p:1", "https_proxy"),
    ],
)
def test_the_proxy_in_force_is_shown_without_its_password(
    machine: Machine, flags: dict[str, str], environ: dict[str, str], shown: str, origin: str
) -> None:
    resolved = _resolve(machine, flags, environ)
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in resolved.shown().splitlines()}
    assert lines["proxy"] == [shown, origin]
    assert "geheim" not in f"{resolved}{resolved.shown()}"


def test_flag_beats_variable_beats_file_beats_default(machine: Machine, tmp_path: Path) -> None:
    file = _file(tmp_path / "w.toml", 'concurrency = 3\nlog_level = "error"\nqueues = ["x"]\n')
    resolved = _resolve(
        machine,
        {"config": str(file), "concurrency": "1"},
        {"EDGE_WS_CONCURRENCY": "2", "EDGE_WS_LOG_LEVEL": "warning"},
    )
    config = resolved.config
    assert (config.concurrency, config.log_level, config.queues) == (1, "warning", ("x",))
    assert config.transport == "auto"


def test_an_empty_variable_is_not_set(machine: Machine) -> None:
    assert (
        _resolve(machine, environ={"EDGE_WS_CONCURRENCY": "", "EDGE_WS_CONFIG": ""}).config.concurrency == 8
    )


def test_the_default_file_is_read_if_it_is_there(machine: Machine) -> None:
    _file(machine.default_file, "concurrency = 5")
    resolved = _resolve(machine)
    assert resolved.config.concurrency == 5
    assert resolved.file == machine.default_file
    assert resolved.origins["config"] == "default"


def test_the_file_can_be_named_by_the_environment(machine: Machine, tmp_path: Path) -> None:
    file = _file(tmp_path / "w.toml", "concurrency = 5")
    resolved = _resolve(machine, environ={"EDGE_WS_CONFIG": str(file)})
    assert (resolved.config.concurrency, resolved.origins["config"]) == (5, "EDGE_WS_CONFIG")


def test_relative_paths_are_meant_from_the_file_or_from_here(machine: Machine, tmp_path: Path) -> None:
    file = _file(tmp_path / "w.toml", 'token_file = "token"')
    assert _resolve(machine, {"config": str(file)}).config.token_file == tmp_path / "token"
    assert _resolve(machine, {"token_file": "token"}).config.token_file == Path.cwd() / "token"


# Faults


@pytest.mark.parametrize(
    ("key", "text", "part"),
    [
        ("url", "airflow.example.com", "no http"),
        ("url", "localhost:8080", "no http"),
        ("url", "ws://airflow.example.com", "WebSocket address"),
        ("url", "wss://airflow.example.com", "WebSocket address"),
        ("url", "https://", "not a base URL"),
        ("url", "https://x/?a=b", "not a base URL"),
        ("url", "https://x/#a", "not a base URL"),
        ("url", "https://x:99999", "Port"),
        ("url", "https://x:0", "port 0"),
        ("url", "https://[::1", "IPv6"),
        ("url", "https://a b", "spaces"),
        ("url", "https://a..b.example", "no host's name"),
        ("url", f"https://{'a' * 64}.example", "no host's name"),
        ("url", "https://1.2.3.999", "no host's name or address"),
        ("edge_hostname", "no spaces", "cannot name a worker"),
        ("edge_hostname", "x" * 65, "cannot name a worker"),
        ("edge_hostname", "-x", "cannot name a worker"),
        ("queues", "a,,b", "'' cannot name a queue"),
        ("queues", "a\x01", "cannot name a queue"),
        ("queues", "q" * 257, "cannot name a queue"),
        ("concurrency", "0", "between 1 and 1024"),
        ("concurrency", "-3", "between 1 and 1024"),
        ("concurrency", "1025", "between 1 and 1024"),
        ("concurrency", "eight", "not an integer"),
        ("concurrency", "8.5", "not an integer"),
        ("concurrency", "9" * 5000, "not an integer"),
        ("team_name", "t" * 65, "cannot name a team"),
        ("log_level", "loud", "none of debug"),
        ("allow_insecure", "perhaps", "neither true nor false"),
        ("proxy", "socks5://p", "a SOCKS proxy is not supported"),
        ("transport", "pigeon", "none of auto"),
        ("token_file", "\0", "NUL"),
        ("state_dir", "~nobody-of-that-name/x", "home"),
    ],
)
def test_a_wrong_value_names_its_source(machine: Machine, key: str, text: str, part: str) -> None:
    flag, variable = f"--{key.replace('_', '-')}", f"EDGE_WS_{key.upper()}"
    base = {} if key == "url" else {"url": URL}
    for origin, flags, environ in ((flag, {**base, key: text}, {}), (variable, base, {variable: text})):
        with pytest.raises(UsageError) as caught:
            resolve(flags, environ, machine)
        assert str(caught.value).startswith(f"{origin}: ")
        assert part in str(caught.value)


def test_a_password_in_the_url_is_refused_and_not_repeated(machine: Machine) -> None:
    with pytest.raises(UsageError, match="password") as caught:
        resolve({"url": "https://me:geheim@x"}, {}, machine)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("concurrency = '8'", "concurrency in {file}: must be an integer"),
        ("allow_insecure = 1", "allow_insecure in {file}: must be true or false"),
        ("proxy = 'http://u:geheim/@p'", "proxy in {file}: it is not a proxy's URL such as http://"),
        ("concurrency = true", "concurrency in {file}: must be an integer"),
        ("concurrency = 8.0", "concurrency in {file}: must be an integer"),
        ("concurrency = 0", "concurrency in {file}: 0 is not between"),
        ("queues = 'a,b'", "queues in {file}: must be an array of strings"),
        ("queues = [1]", "queues in {file}: must be an array of strings"),
        ("queues = []", "queues in {file}: "),
        ("log_level = 3", "log_level in {file}: must be a string"),
        ("concurrency = " + "9" * 5000, "--config: {file} is not TOML"),
        ("token_file = 3", "token_file in {file}: must be a string"),
        ("concurency = 8", "{file}: there is no setting 'concurency'"),
        ("token = 'geheim'", "{file}: there is no setting 'token'"),
        ("concurrency", "--config: {file} is not TOML"),
        ("concurrency = \xff", "--config: {file} is not TOML"),
    ],
)
def test_a_wrong_file_names_itself(machine: Machine, tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "w.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        _resolve(machine, {"config": str(file)})
    assert part.format(file=file) in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_named_file_must_be_there(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--config: .*gone.toml cannot be read: No such file"):
        _resolve(machine, {"config": str(tmp_path / "gone.toml")})
    with pytest.raises(UsageError, match=r"EDGE_WS_CONFIG: .* cannot be read: Is a directory"):
        _resolve(machine, environ={"EDGE_WS_CONFIG": str(tmp_path)})


def test_there_must_be_a_url(machine: Machine) -> None:
    with pytest.raises(UsageError, match="no URL: give --url, EDGE_WS_URL or url"):
        resolve({}, {}, machine)


def test_a_host_name_that_cannot_be_a_workers_asks_for_one(machine: Machine) -> None:
    odd = dataclasses.replace(machine, hostname="größe")
    with pytest.raises(UsageError, match=r"the host name 'größe' .*give --edge-hostname"):
        _resolve(odd)
    assert _resolve(odd, {"edge_hostname": "w"}).config.name == "w"


# The token


def _config(machine: Machine, token_file: Path | None = None, token: str | None = None) -> WorkerConfig:
    return dataclasses.replace(_resolve(machine).config, token_file=token_file, token=token)


def test_the_token_file_is_read_each_time(machine: Machine, tmp_path: Path) -> None:
    file = _file(tmp_path / "token", "first\n")
    config = _config(machine, file)
    assert read_token(config) == "first"
    file.write_text("  second  \r\n")
    assert read_token(config) == "second"


def test_without_a_file_the_environments_token_counts(machine: Machine) -> None:
    resolved = _resolve(machine, environ={"EDGE_WS_TOKEN": "abc"})
    assert read_token(resolved.config) == "abc"
    assert "abc" not in repr(resolved.config)
    assert "abc" not in resolved.shown()


def test_no_token_at_all_says_how_to_get_one(machine: Machine) -> None:
    with pytest.raises(UsageError, match=r"--token-command or EDGE_WS_TOKEN; .*airflow edge-ws token create"):
        read_token(_config(machine))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"one two", "one token on one line"),
        (b"one\ntwo", "one token on one line"),
        (b"gr\xc3\xb6\xc3\x9fe", "one token on one line"),
        (b"\xff\xfe", "one token on one line"),
        (b"x" * 20_000, "16384 bytes"),
    ],
)
def test_a_file_without_a_token_is_refused(
    machine: Machine, tmp_path: Path, content: bytes, part: str
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(RefusedError, match=part) as caught:
        read_token(_config(machine, file))
    assert caught.value.code == "token"
    assert str(file) in str(caught.value)


def test_a_missing_token_file_is_refused(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot be read: No such file"):
        read_token(_config(machine, tmp_path / "gone"))
    with pytest.raises(RefusedError, match="cannot be read: Not a regular file"):
        read_token(_config(machine, tmp_path))


def test_the_source_decides_between_file_and_environment(machine: Machine, tmp_path: Path) -> None:
    file = _file(tmp_path / "w.toml", 'token_file = "/run/token"')
    environ = {"EDGE_WS_TOKEN": "abc"}

    by_flag = _resolve(machine, {"token_file": "/run/token"}, environ).config
    assert (by_flag.token_file, by_flag.token) == (Path("/run/token"), None)

    by_variable = _resolve(machine, {"config": str(file)}, environ).config
    assert (by_variable.token_file, by_variable.token) == (None, "abc")

    with pytest.raises(UsageError, match="EDGE_WS_TOKEN and EDGE_WS_TOKEN_FILE are both set"):
        _resolve(machine, environ={**environ, "EDGE_WS_TOKEN_FILE": "/run/token"})


def test_a_command_is_one_more_source(machine: Machine, tmp_path: Path) -> None:
    file = _file(tmp_path / "w.toml", 'token_command = "jwt --secret geheim"')
    by_file = _resolve(machine, {"config": str(file)})
    assert by_file.config.token_command == "jwt --secret geheim"
    assert "geheim" not in by_file.shown() + repr(by_file.config)
    by_variable = _resolve(machine, {"config": str(file)}, {"EDGE_WS_TOKEN": "abc"}).config
    assert (by_variable.token_command, by_variable.token) == (None, "abc")
    with pytest.raises(UsageError, match=r"--token-file and token_command in .* are both set"):
        _resolve(machine, {"config": str(file), "token_file": "/run/token"})
    for wrong in ("", "jwt 'a", "\0"):
        with pytest.raises(UsageError, match="--token-command: "):
            _resolve(machine, {"token_command": wrong})


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_others_who_may_read_the_token_are_warned_of(
    machine: Machine, tmp_path: Path, mode: int, is_open: bool
) -> None:
    file = _file(tmp_path / "token", "abc")
    file.chmod(mode)
    warning = token_warning(_config(machine, file))
    assert (warning is not None) is is_open
    if warning:
        assert f"chmod 600 {file}" in warning


def test_no_file_no_warning(machine: Machine, tmp_path: Path) -> None:
    assert token_warning(_config(machine)) is None
    assert token_warning(_config(machine, tmp_path / "gone")) is None


# What is shown


def test_shows_each_value_and_its_source(machine: Machine, tmp_path: Path) -> None:
    file = _file(tmp_path / "w.toml", 'queues = ["a", "b"]')
    resolved = _resolve(
        machine, {"config": str(file)}, {"EDGE_WS_CONCURRENCY": "4", "EDGE_WS_TOKEN": "geheim"}
    )
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in resolved.shown().splitlines()}
    assert set(lines) == {"config", "token", *(setting.key for setting in SETTINGS)}
    assert lines["config"] == [str(file), "--config"]
    assert lines["url"] == [URL, "--url"]
    assert lines["queues"] == ["a,b", f"queues in {file}"]
    assert lines["concurrency"] == ["4", "EDGE_WS_CONCURRENCY"]
    assert lines["token"] == ["***", "EDGE_WS_TOKEN"]
    assert lines["token_file"] == ["none", "EDGE_WS_TOKEN comes first"]
    assert lines["log_level"] == ["info", "default"]
    assert "geheim" not in resolved.shown()


# Where the worker is


def test_the_state_directory_is_found_without_the_rest(machine: Machine, tmp_path: Path) -> None:
    assert find_state_dir({}, {}, machine) == (Path.home() / ".local/state/edge-ws/box-1", True)
    file = _file(
        tmp_path / "worker.toml", 'edge_hostname = "press-2"\nstate_dir = "there"\nconcurrency = -1\n'
    )
    assert find_state_dir({"config": str(file)}, {}, machine) == (tmp_path / "there", False)
    environ = {"EDGE_WS_EDGE_HOSTNAME": "press-3", "XDG_STATE_HOME": "/state"}
    assert find_state_dir({}, environ, machine) == (Path("/state/edge-ws/press-3"), True)
    assert find_state_dir({"state_dir": "/here"}, environ, machine) == (Path("/here"), False)
    with pytest.raises(UsageError, match="cannot name a worker"):
        find_state_dir({"edge_hostname": "a b"}, {}, machine)


@pytest.mark.parametrize("text", ["-1", "2592001"])
def test_how_long_a_drain_may_take(machine: Machine, text: str) -> None:
    config = _resolve(machine, {"drain_timeout_sec": "90", "drain_kill_grace_sec": "0"}).config
    assert (config.drain_timeout_s, config.drain_kill_grace_s) == (90.0, 0.0)
    assert re.search(r"(?m)^drain_timeout_sec +0 ", _resolve(machine).shown())
    with pytest.raises(UsageError, match="is not between 0 and 2592000 seconds"):
        _resolve(machine, {"drain_timeout_sec": text})
