"""`airflow.cfg`, `worker.toml` and the systemd unit: read by what reads them in earnest."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from edge_ws.cli.main import build
from edge_ws.provider.info import OPTIONS
from edge_ws.resources import examples_dir
from edge_ws.worker.config import Machine, resolve
from edge_ws.worker.settings import SETTINGS
from tests.support.programs import clean_environment, run_python

# The centre

_READ = """
import dataclasses, json
from airflow.configuration import conf
from airflow.executors.executor_loader import ExecutorLoader
from edge_ws.provider.config import executor_settings, gateway_settings, serves_gateway
gateway = gateway_settings(conf, versions={})
told = {
    "executor": ExecutorLoader.get_default_executor_name().module_path,
    "loaded": type(ExecutorLoader.get_default_executor()).__name__,
    "gives_back": executor_settings(conf).gives_back_stuck_tasks,
    "serves": serves_gateway(conf),
    "gateway": dataclasses.asdict(gateway),
}
print("TOLD", json.dumps(told))
"""


def _read(folder: Path, config: Path) -> dict[str, object]:
    environment = clean_environment(folder, AIRFLOW_CONFIG=str(config))
    done = run_python("-c", _READ, environment=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    told = next(line for line in done.stdout.splitlines() if line.startswith("TOLD "))
    read: dict[str, object] = json.loads(told.removeprefix("TOLD "))
    return read


def test_airflow_takes_the_lines(tmp_path: Path) -> None:
    config = tmp_path / "airflow.cfg"
    secret = (
        "\n[api_auth]\njwt_secret = something-long-enough-for-a-signature-of-512-bits-or-at-least-64-bytes\n"
    )
    config.write_text((examples_dir() / "airflow.cfg").read_text() + secret)
    told = _read(tmp_path, config)
    assert told["executor"] == "edge_ws.provider.executor.EdgeWsExecutor"
    assert told["loaded"] == "EdgeWsExecutor"
    assert (told["serves"], told["gives_back"]) == (True, True)

    # But for the switch, the lines are the defaults.
    config.write_text(f"[core]\nexecutor = {told['executor']}\n[edge_ws]\napi_enabled = True\n{secret}")
    assert _read(tmp_path, config) == told


def test_the_lines_are_all_options() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(examples_dir() / "airflow.cfg")
    assert dict(config["edge_ws"]) == {
        **{name: option.default for name, option in OPTIONS.items()},
        "api_enabled": "True",
    }


# The worker


def test_the_worker_takes_its_settings() -> None:
    file = examples_dir() / "worker.toml"
    machine = Machine(hostname="somewhere", is_root=False)
    resolved = resolve({"config": str(file)}, {}, machine)
    config = resolved.config
    assert (config.url, config.name, config.concurrency) == ("https://airflow.example.com", "factory-7", 8)
    assert config.queues == ("factory", "press")
    assert config.token_file == file.parent / "token"
    told = {setting.key for setting in SETTINGS if str(file) in resolved.origins[setting.field]}
    rare = {"team_name", "transport", "proxy", "ca_file", "client_cert", "client_key", "allow_insecure"}
    rare |= {"drain_timeout_sec", "drain_kill_grace_sec", "wait", "token_command"}
    rare |= {"health_listen", "extended_system_info_function"}
    assert told == {setting.key for setting in SETTINGS} - rare


def test_the_settings_that_are_left_out_are_right_too(tmp_path: Path) -> None:
    text = (examples_dir() / "worker.toml").read_text()
    file = tmp_path / "worker.toml"
    text = re.sub(r"(?m)^#(?=[a-z_]+ = )", "", text)
    # One of the two.
    file.write_text(re.sub(r"(?m)^token_file = .*", "", text))
    resolved = resolve({"config": str(file)}, {}, Machine(hostname="somewhere", is_root=False))
    config = resolved.config
    assert (config.proxy, config.allow_insecure) == ("http://user:password@proxy.example.com:3128", True)
    assert (config.drain_timeout_s, config.drain_kill_grace_s) == (3600.0, 30.0)
    assert (config.ca_file, config.client_key) == (tmp_path / "authority.pem", tmp_path / "factory-7.key")
    told = {setting.key for setting in SETTINGS if str(file) in resolved.origins[setting.field]}
    assert told == {setting.key for setting in SETTINGS} - {"team_name", "transport", "token_file"}


def test_the_unit_starts_the_worker(tmp_path: Path) -> None:
    text = (examples_dir() / "edge-ws-worker.service").read_text()
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert build().parse_args(words).verb.name == "worker"
    # systemd stops the daemon, never the job host and the tasks.
    assert unit["Service"]["KillMode"] == "process"

    verify = shutil.which("systemd-analyze")
    if verify is None:
        return
    copy = tmp_path / "edge-ws-worker.service"
    copy.write_text(text.replace(program, sys.executable))
    done = subprocess.run([verify, "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
