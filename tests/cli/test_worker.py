"""`edge-ws worker` up to the daemon's start."""

from __future__ import annotations

from pathlib import Path

from tests.support.programs import clean_environment, run_edge_ws


def test_shows_where_each_value_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('team_name = "red"\n')
    environment = clean_environment(tmp_path, EDGE_WS_QUEUES="a,b", EDGE_WS_TOKEN="geheim")
    done = run_edge_ws(
        *("worker", "--url", "https://x/sub/", "-H", "press-2", "--config", str(file), "--show-config"),
        environment=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in done.stdout.splitlines()}
    assert lines["url"] == ["https://x/sub", "--url"]
    assert lines["edge_hostname"] == ["press-2", "--edge-hostname"]
    assert lines["queues"] == ["a,b", "EDGE_WS_QUEUES"]
    assert lines["team_name"] == ["red", f"team_name in {file}"]
    assert lines["concurrency"] == ["8", "default"]
    assert lines["token"] == ["***", "EDGE_WS_TOKEN"]


def test_a_wrong_setting_is_one_sentence(tmp_path: Path) -> None:
    environment = clean_environment(tmp_path, EDGE_WS_CONCURRENCY="lots")
    done = run_edge_ws("worker", "--url", "https://x", environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "edge-ws: EDGE_WS_CONCURRENCY: 'lots' is not an integer\n"


def test_a_token_in_the_arguments_is_refused(tmp_path: Path) -> None:
    done = run_edge_ws(
        "worker", "--url", "https://x", "--token", "t", environment=clean_environment(tmp_path)
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "unrecognized arguments" in done.stderr
