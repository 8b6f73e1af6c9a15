"""What only shows with an Airflow of its own configuration; the rest of the runner shows in `test_server`."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from edge_ws.host import sentences
from tests.support.certificates import Authority
from tests.support.entrances import Entrance, open_entrance, server_context
from tests.support.execution_api import ExecutionApi
from tests.support.host_jobs import go
from tests.support.jobs import PYTHON, Site, task_workload
from tests.support.raw_host import raw_host
from tests.support.waiting import free_port

_LOGGING = """
import os, pathlib, shutil

class Remote:
    processors = ()
    def upload(self, path, ti=None):
        shutil.copy(pathlib.Path(os.environ["SITE_NOTES"]).parent / "airflow" / "logs" / path, os.environ["SITE_NOTES"] + "/uploaded")
    def read(self, relative_path, ti):
        return [], None

from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG as LOGGING_CONFIG
REMOTE_TASK_LOG = Remote()
"""

_CA = """
import json, os, sys
from edge_ws.host import runner, sentences
from edge_ws.host import execution_api
version = runner.preload()
from airflow.sdk.api import client
context = lambda: client.Client._get_ssl_context_cached(client.API_SSL_CA_FILE_PATH, client.API_SSL_CERT_PATH)
first = context()
execution_api.renew_trust()
same = context() is first
os.utime(client.API_SSL_CERT_PATH, (1, 1))
execution_api.renew_trust()
print(json.dumps({
    "version": version, "same": same, "renewed": context() is not first,
    "heartbeats": os.environ.get("AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS"),
    "otel": os.environ.get("AIRFLOW__TRACES__OTEL_ON"),
}))
"""


def test_a_log_that_the_supervisor_uploads_and_traces(site: Site, api: ExecutionApi, tmp_path: Path) -> None:
    (tmp_path / "site_logging.py").write_text(_LOGGING)
    environment = site.environment(
        AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS="site_logging.LOGGING_CONFIG",
        AIRFLOW__TRACES__OTEL_ON="True",
        OTEL_TRACES_EXPORTER="console",
    )
    environment["PYTHONPATH"] += f":{tmp_path}"
    with raw_host(site.folder / "uploads", environment) as host:
        line = host.connect()
        # The exporter has a thread: were it in the host, no job could be forked.
        assert line.hello()["versions"]["job_start"] == "fork"
        for task, code in (("hello", 0), ("vanish", 7)):
            claim, workload = str(uuid.uuid4()), task_workload(task)
            line.say("prepare", claim=claim, payload=workload.payload, server=api.url)
            line.say("go", claim=claim, token="t")
            ended = line.hear("ended", claim)
            assert (ended["exit_code"], ended["log_uploaded"]) == (code, True)
            assert (site.notes / "uploaded").read_bytes() == (site.logs / workload.log_path).read_bytes()
            assert ("trace_id" in (site.logs / workload.log_path).read_text()) == (code == 0)

        never = task_workload("hello", bundle="nowhere")
        line.say("prepare", claim="n", payload=never.payload, server=api.url)
        line.say("go", claim="n", token="t")
        assert line.hear("not_started", "n")["fault"] == "host"


def test_a_plugin_that_cannot_be_imported_is_logged_and_the_task_goes_on(
    site: Site, api: ExecutionApi, tmp_path: Path
) -> None:
    """As with Airflow's own executors: plugins are loaded in the task's process, and not in the host."""
    (tmp_path / "broken.py").write_text("raise RuntimeError('no such machine')")
    environment = site.environment(AIRFLOW__CORE__PLUGINS_FOLDER=str(tmp_path))
    with raw_host(site.folder / "broken-plugin", environment) as host:
        line, workload = host.connect(), task_workload("hello")
        assert line.hello()["ready"]
        assert line.hear("ended", go(line, api, workload))["exit_code"] == 0
        assert api.states_of(workload.id) == ["success"]
        log = (site.logs / workload.log_path).read_text()
        assert "Failed to import plugin" in log
        assert "no such machine" in log
        assert "hello from the task" in log

        # One that ends the process ends each task's, as there, and never the host.
        (tmp_path / "broken.py").write_text("raise SystemExit(3)")
        workload = task_workload("hello")
        ended = line.hear("ended", go(line, api, workload))
        assert (ended["exit_code"], ended["detail"]) == (3, "the task's process exited with code 3")
        assert api.states_of(workload.id) == ["failed"]
        assert line.hello()["ready"]


def test_tasks_reach_the_execution_api_as_the_worker_does(
    site: Site, api: ExecutionApi, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    own, behind = authority.client(), urlsplit(api.url).port
    dead = f"http://127.0.0.1:{free_port()}"
    environment = site.environment(
        AIRFLOW__API__SSL_CA_FILE=str(authority.file),
        AIRFLOW__API__CLIENT_USE_PUBLIC_CERTS="False",
        AIRFLOW__API__CLIENT_SSL_CERT=str(own.both),
        AIRFLOW__API__CLIENT_SSL_KEY=str(own.both),
        # For what the task itself connects to; the way to the centre is told with the job.
        HTTPS_PROXY=dead,
    )
    context = server_context(authority.server(), authority.file)
    secure = server_context(authority.server("proxy"))
    with (
        open_entrance(Entrance(target=behind, context=context)) as entrance,
        open_entrance(Entrance(credentials="me:geh@im")) as proxy,
        open_entrance(Entrance(credentials="me:geh@im", context=secure)) as secure_proxy,
        raw_host(site.folder / "ways", environment) as host,
    ):
        line = host.connect()
        assert line.hello()["versions"]["job_start"] == "fork"
        server = f"https://localhost:{entrance.port}/execution/"
        for way in (
            None,
            f"http://me:geh%40im@localhost:{proxy.port}",
            f"https://me:geh%40im@localhost:{secure_proxy.port}",
        ):
            claim, workload = str(uuid.uuid4()), task_workload("hello")
            line.say("prepare", claim=claim, payload=workload.payload, server=server, proxy=way)
            line.say("go", claim=claim, token="t")
            assert line.hear("ended", claim)["exit_code"] == 0
            assert api.states_of(workload.id)[-1] == "success"
            told = dict(one.split("=", 1) for one in (site.notes / "environment").read_text().splitlines())
            assert (told["HTTPS_PROXY"], "geh" in str(told)) == (dead, False)
            assert "Deprecat" not in (site.logs / workload.log_path).read_text()
        asked = [f"CONNECT localhost:{entrance.port} HTTP/1.1"]
        assert set(proxy.asked) == set(secure_proxy.asked) == set(asked)


def test_what_the_user_has_set_stays(site: Site, tmp_path: Path) -> None:
    authorities = subprocess.run(
        [PYTHON, "-c", "import certifi; print(open(certifi.where()).read())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (tmp_path / "ca.pem").write_text(authorities)
    home = tmp_path / "home"
    home.mkdir()
    (home / "airflow.cfg").write_text("[workers]\nmax_failed_heartbeats = 7\n")
    environment = site.environment(AIRFLOW__API__SSL_CERT=str(tmp_path / "ca.pem"), AIRFLOW_HOME=str(home))
    done = subprocess.run([PYTHON, "-c", _CA], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.pop("version").startswith("3.")
    assert told == {"same": True, "renewed": True, "heartbeats": None, "otel": None}


def test_an_import_has_no_effect() -> None:
    script = "import edge_ws.host.server, sys; print([name for name in ('airflow', 'pydantic', 'sqlalchemy') if name in sys.modules])"
    done = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_how_a_process_ended() -> None:
    assert sentences.how_it_ended(3) == "exited with code 3"
    assert sentences.how_it_ended(-15) == "was killed by SIGTERM"
    assert sentences.how_it_ended(-40) == "was killed by signal 40"


def test_a_sentence_about_an_error() -> None:
    assert sentences.one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert sentences.one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(sentences.one_line(ValueError("x" * 1000))) < 320
