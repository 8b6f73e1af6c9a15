"""The operators' verbs from the command line, on a real Airflow's database: what is asked first, what is said."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from edge_ws.cli import main
from edge_ws.protocol.frames import Applied
from edge_ws.protocol.ids import ClaimId, GatewayId
from edge_ws.provider.audit import operating_user
from edge_ws.server.figures import Figures
from edge_ws.store.events import NewEvent
from edge_ws.store.records import Principal
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, worker
from tests.support.centre import Centre
from tests.support.databases import Databases, using
from tests.support.programs import clean_environment, run_edge_ws
from tests.support.rows import enqueue, new_job, wish_of
from tests.support.waiting import wait_until
from tests.support.workers import register_worker


@pytest.fixture
def store(centre: Centre) -> Store:
    return Store(centre.engine)


@pytest.fixture
def workers(store: Store) -> dict[str, Principal]:
    return {name: register_worker(store, name, queues=("a",)) for name in ("oven", "press-1", "press-2")}


@pytest.fixture
def _edge3s_worker(store: Store, centre: Centre) -> None:
    row = {"worker_name": "theirs", "state": "idle", "queues": "['a']", "jobs_active": 0}
    with centre.engine.begin() as connection:
        connection.execute(edge_worker.insert().values(**row))


def _set_state(centre: Centre, name: str, state: str) -> None:
    with centre.engine.begin() as connection:
        connection.execute(edge_worker.update().where(edge_worker.c.worker_name == name).values(state=state))


Told = tuple[int, str, str]
Run = Callable[..., Told]


@pytest.fixture
def run(centre: Centre, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `edge-ws` in this process; returns its exit code, its stdout and its stderr."""

    def run(*words: str) -> Told:
        capsys.readouterr()
        code = main(list(words))
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    return run


def _json(told: Told) -> Any:
    assert told[0] == 0, told[2]
    assert len(told[1].splitlines()) == 1
    return json.loads(told[1])


@contextmanager
def _applying(store: Store, *principals: Principal) -> Iterator[None]:
    """Acknowledge the next wish of each, as a connected worker does."""

    def apply_it(principal: Principal, old: int) -> None:
        wait_until(lambda: wish_of(store, principal.worker).revision > old, 30.0)
        wish = wish_of(store, principal.worker)
        applied = Applied(
            revision=wish.revision,
            concurrency=8 if wish.concurrency is None else wish.concurrency,
            queues=wish.queues,
            maintenance=wish.maintenance,
            leaving=wish.shutdown,
        )
        store.workers.note_applied(principal, applied)

    with ThreadPoolExecutor(len(principals)) as pool:
        begun = [pool.submit(apply_it, one, wish_of(store, one.worker).revision) for one in principals]
        yield
        for one in begun:
            one.result()


# To see


def test_workers_are_listed(run: Run, workers: dict[str, Principal], centre: Centre) -> None:
    _set_state(centre, "press-2", "offline")
    rows = _json(run("list-workers", "--worker-name-pattern", "press-*", "-q", "a,z", "-o", "json"))
    assert [row["worker_name"] for row in rows] == ["press-1", "press-2"]
    assert (rows[0]["kind"], rows[0]["queues"], rows[0]["concurrency"]) == ("edge-ws", ["a"], 8)
    code, table, _ = run("list-workers", "-s", "idle", "running")
    assert code == 0
    assert table.startswith("worker_name | state | takes_jobs | queues | jobs_active | concurrency | ")
    assert table.endswith("\n2 workers: 2 connected; no queue waits\n")
    assert "oven" in table
    assert "press-2" not in table
    assert "transport_reason" not in table
    assert "wished_queues" not in table
    assert "transport_reason" in run("list-workers", "-o", "yaml")[1]


def test_nothing_to_list_is_empty_json(run: Run) -> None:
    for verb in ("list-workers", "list-queues", "list-jobs"):
        code, out, err = run(verb, "-o", "json")
        assert (code, json.loads(out)) == (0, [])
        assert "there is no" in err
        assert "like that" not in err
    assert run("list-jobs", "--dag-id", "d")[2] == "there is no job like that\n"
    assert run("list-workers", "-q", "a")[2] == "there is no worker like that\n"


def test_a_worker_and_a_job_are_shown(run: Run, workers: dict[str, Principal], centre: Centre) -> None:
    enqueue(centre.engine, new_job("press", queue="nobodys"))
    assert _json(run("list-queues", "-o", "json"))[1]["queued"] == 1
    assert [row["task_id"] for row in _json(run("list-jobs", "-q", "nobodys", "-o", "json"))] == ["press"]
    worker = _json(run("show-worker", "-H", "oven", "-o", "json"))
    assert (worker["worker_name"], worker["queues"], worker["wished_concurrency"]) == ("oven", ["a"], None)
    text = run("show-worker", "-H", "oven")[1]
    assert "\nqueues               a\n" in text
    job = _json(run("show-job", "dag", "run", "press", "-o", "json"))
    assert job["state"] == "queued"
    code, text, _ = run("show-job", "dag", "run", "press")
    assert code == 0
    verdict, advice, nothing, *details = text.splitlines()
    # A second may have passed between the two.
    assert verdict.partition(":")[2] == job["verdict"].partition(":")[2]
    assert (advice, nothing) == (job["advice"], "")
    assert "  oven     edge-ws" in "\n".join(details)


def test_a_worker_that_can_start_nothing_is_not_called_free(run: Run, store: Store, centre: Centre) -> None:
    """Its host has no Airflow, say: the usual failure of a first set-up."""
    store.liveness.announce(GatewayId("g"), "api-1", 7)
    register_worker(store, "oven", queues=("a",), draining=True)
    enqueue(centre.engine, new_job("press", queue="a"))
    code, text, _ = run("show-job", "dag", "run", "press")
    verdict, advice, *_ = text.splitlines()
    assert code == 0
    assert "oven is connected, but can start no jobs now" in verdict
    assert "edge-ws status on the host of oven" in advice
    worker = _json(run("show-worker", "-H", "oven", "-o", "json"))
    assert (worker["state"], worker["takes_jobs"], worker["free_slots"]) == ("idle", False, 0)
    (queue,) = _json(run("list-queues", "-o", "json"))
    assert (queue["queue"], queue["workers"], queue["free_slots"]) == ("a", 0, 0)


@pytest.mark.parametrize(
    "words",
    [
        ("show-worker", "-H", "\udcff"),
        ("list-jobs", "--dag-id", "\udcff"),
        ("show-job", "dag", "run", "\udcff"),
        ("show-job", "dag", "run", "task", "--map-index", "9" * 19),
        ("list-jobs", "--limit", "9" * 19),
        ("remote-edge-worker-request-maintenance", "-H", "oven", "-c", "\udcff"),
    ],
)
@pytest.mark.usefixtures("workers")
def test_what_no_database_takes_is_a_sentence(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "has a character that no text can have" in err or "the number is not between" in err


def test_a_task_that_has_no_job_is_looked_up_in_airflow(run: Run, centre: Centre) -> None:
    ti = centre.task(state="scheduled")
    job = _json(run("show-job", ti.dag_id, ti.run_id, ti.task_id, "-o", "json"))
    assert job["state"] == "scheduled"
    code, out, err = run("show-job", ti.dag_id, ti.run_id, "nothing")
    assert (code, out) == (2, "")
    assert "Airflow knows no task nothing" in err


# To change


@pytest.mark.usefixtures("workers")
def test_each_verb_says_what_it_has_wished(run: Run, store: Store, centre: Centre) -> None:
    said = {
        "set-worker-concurrency -H oven -c 0": "oven: concurrency 0\n",
        "add-worker-queues -H oven -q b,c": "oven: queues a, b, c now\n",
        "remove-worker-queues -H oven -q a": "oven: queues b, c now\n",
        "remote-edge-worker-request-maintenance -H oven -c belt": "oven: maintenance\n",
        "remote-edge-worker-update-maintenance-comment -H oven -c oil": "oven: another comment\n",
        "remote-edge-worker-exit-maintenance -H oven": "oven: end of maintenance\n",
        "shutdown-remote-edge-worker -H oven": "oven: shutdown\n",
    }
    for words, told in said.items():
        assert run(*words.split()) == (0, told, ""), words
    code, out, err = run("remove-remote-edge-worker", "-H", "oven")
    assert (code, out) == (2, "")
    assert "cannot remove oven" in err
    _set_state(centre, "oven", "offline")
    assert run("remove-remote-edge-worker", "-H", "oven") == (0, "oven: removed\n", "")
    assert [one.name for one in store.views.workers()] == ["press-1", "press-2"]


@pytest.mark.usefixtures("workers")
def test_json_is_one_document(run: Run) -> None:
    one = _json(run("set-worker-concurrency", "-H", "oven", "-c", "3", "-o", "json"))
    assert one == {
        "worker_name": "oven",
        "kind": "edge-ws",
        "state": "idle",
        "revision": 1,
        "told": "concurrency 3",
        "error": None,
        "applied_ms": None,
    }
    many = _json(run("set-worker-concurrency", "-H", "press-?", "-c", "3", "-y", "-o", "json"))
    assert [row["worker_name"] for row in many] == ["press-1", "press-2"]


def test_it_waits_until_it_is_applied(run: Run, store: Store, workers: dict[str, Principal]) -> None:
    with _applying(store, workers["oven"]):
        told = _json(run("set-worker-concurrency", "-H", "oven", "-c", "3", "-w", "-o", "json"))
    assert told["revision"] == store.operators.applied("oven")
    assert 0 < told["applied_ms"] < 30_000
    with _applying(store, workers["oven"]):
        code, out, _ = run("remote-edge-worker-request-maintenance", "-H", "oven", "-c", "belt", "-w")
    assert code == 0
    assert out.startswith("oven: maintenance; applied in ")
    assert out.endswith(" ms\n")


def test_it_waits_for_many(run: Run, store: Store, workers: dict[str, Principal]) -> None:
    with _applying(store, workers["press-1"], workers["press-2"]):
        told = _json(run("add-worker-queues", "-H", "press-*", "-q", "z", "-y", "-w", "-o", "json"))
    assert [row["applied_ms"] is not None for row in told] == [True, True]


def test_who_has_not_applied_it_in_time_is_named(
    run: Run, store: Store, workers: dict[str, Principal]
) -> None:
    words = ["set-worker-concurrency", "-H", "press-*", "-c", "3", "-y", "-w"]
    with _applying(store, workers["press-2"]):
        code, out, err = run(*words, "--wait-timeout", "2")
    assert code == 1
    first, second = out.splitlines()
    assert first == "press-1: concurrency 3"
    assert second.startswith("press-2: concurrency 3; applied in ")
    assert "edge-ws: press-1 has not applied it within 2 s; the wish stands" in err
    assert wish_of(store, workers["press-1"].worker).concurrency == 3


def test_the_wish_of_a_worker_that_is_away_is_kept(
    run: Run, store: Store, workers: dict[str, Principal], centre: Centre
) -> None:
    _set_state(centre, "oven", "offline")
    assert run("set-worker-concurrency", "-H", "oven", "-c", "3") == (
        0,
        "oven: concurrency 3; it is offline: kept until it connects\n",
        "",
    )
    code, _, err = run("set-worker-concurrency", "-H", "oven", "-c", "4", "-w", "--wait-timeout", "0.1")
    assert code == 1
    assert "oven: concurrency 4; it is offline: kept until it connects; waiting up to 0.1 s" in err
    assert "is offline: waiting" not in err
    assert wish_of(store, workers["oven"].worker).concurrency == 4


@pytest.mark.usefixtures("workers", "_edge3s_worker")
def test_edge3s_workers_are_not_waited_for(run: Run, store: Store) -> None:
    assert run("set-worker-concurrency", "-H", "theirs", "-c", "3") == (0, "theirs: concurrency 3\n", "")
    code, out, err = run("set-worker-concurrency", "-H", "theirs", "-c", "4", "-w")
    assert (code, out) == (2, "")
    assert "--wait: theirs is an edge3 worker" in err
    assert "leave --wait out" in err
    assert {one.wished_concurrency for one in store.views.workers()} == {None, 3}


@pytest.mark.usefixtures("_edge3s_worker")
def test_an_edge3_worker_keeps_nothing_from_the_others(
    run: Run, store: Store, workers: dict[str, Principal]
) -> None:
    not_waited_for = "not waited for: theirs (edge3's workers never say what they have applied)\n"
    with _applying(store, *workers.values()):
        code, out, err = run("set-worker-concurrency", "-H", "*", "-c", "4", "-w", "-y")
    assert (code, err.startswith(not_waited_for)) == (0, True)
    assert "3 workers: concurrency 4; waiting up to 30 s until they have applied it\n" in err
    *ours, theirs = out.splitlines()
    assert all("concurrency 4; applied in " in line for line in ours)
    assert theirs == "theirs: concurrency 4"
    with _applying(store, *workers.values()):
        code, out, err = run("shutdown-all-workers", "-w", "-y")
    assert (code, err.startswith(not_waited_for)) == (0, True)
    assert len(out.splitlines()) == 4
    assert {one.state for one in store.views.workers()} == {"shutdown request"}


@pytest.mark.usefixtures("workers")
def test_where_no_gateway_is_alive_who_waits_is_told_at_once(run: Run, store: Store) -> None:
    words = ("set-worker-concurrency", "-H", "oven", "-c", "3", "-w", "--wait-timeout", "0.1")
    code, _, err = run(*words)
    nobody, waiting, late = err.splitlines()
    assert (code, nobody) == (1, "no gateway is alive, so nobody can tell workers of it; see: edge-ws check")
    assert waiting == "oven: concurrency 3; waiting up to 0.1 s until it has applied it"
    assert late.endswith("; no gateway is alive that it could connect to: edge-ws check")
    store.liveness.announce(GatewayId("g"), "api-1", 7)
    code, _, err = run(*words)
    assert (code, "no gateway" in err) == (1, False)


@pytest.mark.usefixtures("workers")
def test_of_many_those_that_are_away_are_named(run: Run, centre: Centre) -> None:
    _set_state(centre, "press-2", "offline")
    words = ("set-worker-concurrency", "-H", "press-*", "-c", "3", "-y", "-w", "--wait-timeout", "0.1")
    code, _, err = run(*words)
    assert (code, err.startswith("press-2 is offline: waiting until it connects\n")) == (1, True)
    assert "2 workers: told; waiting" in err


@pytest.mark.usefixtures("workers")
def test_one_that_refuses_keeps_nothing_from_the_others(run: Run, centre: Centre) -> None:
    run("shutdown-remote-edge-worker", "-H", "press-1")
    code, out, err = run("remote-edge-worker-request-maintenance", "-H", "press-*", "-c", "belt", "-y")
    assert (code, out, err) == (2, "press-2: maintenance\n", "press-1 is shutting down\n")


@pytest.mark.usefixtures("workers")
def test_several_are_named_without_a_question(run: Run, store: Store) -> None:
    code, out, err = run("set-worker-concurrency", "-H", "oven", "nobody", "press-1", "-c", "3")
    assert (code, out) == (2, "oven: concurrency 3\npress-1: concurrency 3\n")
    assert err.startswith("no worker named nobody has connected yet")
    told = _json(
        run("set-worker-concurrency", "-H", "oven", "press-?", "oven", "-c", "2", "-y", "-o", "json")
    )
    assert [row["worker_name"] for row in told] == ["oven", "press-1", "press-2"]
    assert {one.wished_concurrency for one in store.views.workers()} == {2}


@pytest.mark.usefixtures("workers")
def test_maintenance_with_an_end(run: Run) -> None:
    words = ("remote-edge-worker-request-maintenance", "-H", "oven", "-c", "belt")
    code, out, _ = run(*words, "--for", "2h")
    assert (code, out.partition(" until ")[0]) == (0, "oven: maintenance")
    row = _json(run("show-worker", "-H", "oven", "-o", "json"))
    assert (row["maintenance_comment"], row["maintenance_by"]) == ("belt", operating_user())
    code, table, _ = run("list-workers", "-o", "plain")
    assert row["maintenance_until"] in table
    assert _json(run(*words, "--until", "23:59", "-o", "json"))["told"].startswith("maintenance until ")
    for wrong, why in (
        (("--until", "soon"), "--until: 'soon' is no time such as 18:00"),
        (("--until", "2020-01-01T00:00"), "is over: by the database's clock"),
        (("--until", "18:00", "--for", "2h"), "--until and --for: give one of them"),
        (("--for", "soon"), "for: 'soon' is no length of time"),
    ):
        code, _, err = run(*words, *wrong)
        assert (code, why in err) == (2, True), err
    run(*words)
    assert _json(run("show-worker", "-H", "oven", "-o", "json"))["maintenance_until"] is None


@pytest.mark.usefixtures("workers")
def test_a_deadline_that_a_worker_does_not_know_is_refused(run: Run) -> None:
    code, _, err = run("shutdown-all-workers", "--deadline", "30m", "-y")
    assert (code, err.count("is of a release that knows no deadline")) == (2, 3)
    assert {row["state"] for row in _json(run("list-workers", "-o", "json"))} == {"idle"}


@pytest.mark.usefixtures("workers")
def test_queues_are_paused_and_resumed(run: Run) -> None:
    code, out, _ = run("pause-queue", "a", "b", "-n", "hydraulics")
    assert (code, out) == (
        0,
        "a: paused; what runs goes on\nb: paused; what runs goes on; no job and no worker names it yet\n",
    )
    code, table, _ = run("list-queues")
    assert "2 queues: 0 with jobs that wait; 2 paused" in table
    code, plain, _ = run("list-queues", "-o", "plain")
    assert f"{operating_user()}" in plain
    assert "hydraulics" in plain
    told = _json(run("resume-queue", "a", "-o", "json"))
    assert told == {"queue": "a", "paused": False, "told": "resumed", "error": None}
    code, out, err = run("resume-queue", "a", "b")
    assert (code, out) == (2, "b: resumed\n")
    assert err == "queue a is not paused; see: edge-ws list-queues\n"
    assert "paused" not in run("list-queues")[1]


@pytest.mark.usefixtures("workers")
def test_all_are_shut_down_but_those_that_have_left(run: Run, store: Store, centre: Centre) -> None:
    _set_state(centre, "oven", "offline")
    _set_state(centre, "press-1", "offline maintenance")
    told = _json(run("shutdown-all-workers", "-y", "-o", "json"))
    assert [row["worker_name"] for row in told] == ["press-2"]
    states = {one.name: one.state for one in store.views.workers()}
    assert states == {"oven": "offline", "press-1": "offline maintenance", "press-2": "shutdown request"}
    _set_state(centre, "press-2", "offline")
    code, out, err = run("shutdown-all-workers", "-y", "-o", "json")
    assert (code, json.loads(out), err) == (0, [], "there is no worker to shut down\n")


@pytest.mark.parametrize("state", ["unknown", "offline maintenance"])
def test_one_that_was_cut_off_is_shut_down_too(
    run: Run, store: Store, centre: Centre, workers: dict[str, Principal], state: str
) -> None:
    _set_state(centre, "oven", state)
    with centre.engine.begin() as connection:
        # It has said no goodbye.
        connection.execute(worker.update().where(worker.c.worker_name == "oven").values(life="1"))
    told = _json(run("shutdown-all-workers", "-y", "-o", "json"))
    assert [row["worker_name"] for row in told] == ["oven", "press-1", "press-2"]
    assert told[0]["told"] == f"shutdown; it is {state}: kept until it connects"
    assert wish_of(store, workers["oven"].worker).shutdown


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("set-worker-concurrency -H nobody -c 3", "no worker named nobody"),
        ("set-worker-concurrency -H x* -c 3 -y", "no worker matches x*"),
        ("set-worker-concurrency -H oven -c 1025", "concurrency: 1025 is not between 0 and 1024"),
        ("set-worker-concurrency -H oven -c -1", "not between 0 and 1024"),
        (
            "set-worker-concurrency -H oven -c 3 -w --wait-timeout 0",
            "--wait-timeout: give more than 0 and at most",
        ),
        ("set-worker-concurrency -H oven -c 3 -w --wait-timeout nan", "86400 seconds, not nan"),
        ("set-worker-concurrency -H oven -c 3 --wait-timeout 3", "--wait-timeout: it is of no use without"),
        ("set-worker-concurrency -H oven -c 3 --token-file x", "--token-file: it is of no use without --url"),
        ("set-worker-concurrency -H oven -c 3 --allow-insecure", "--allow-insecure: it is of no use"),
        ("add-worker-queues -H oven -q a,,b", "queues: '' cannot name a queue"),
        ("list-workers -s sad", "state: there is no 'sad'"),
        ("show-worker -H nobody", "no worker named nobody"),
        ("list-jobs --limit 0", "limit 0 is not between"),
    ],
)
@pytest.mark.usefixtures("workers")
def test_wrong_arguments_are_one_sentence(run: Run, store: Store, words: str, part: str) -> None:
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert part in err
    assert len(err.splitlines()) == 1
    assert {one.wished_concurrency for one in store.views.workers()} == {None}


# To ask first


class Terminal(io.StringIO):
    """Somebody who has typed this."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("words", "doing"),
    [
        ("set-worker-concurrency -H press-* -c 3", "set the concurrency to 3 for 2"),
        ("add-worker-queues -H press-* -q b,c", "add the queues b,c to 2"),
        ("remove-worker-queues -H press-* -q b", "remove the queues b from 2"),
        ("remote-edge-worker-request-maintenance -H press-* -c belt", "begin the maintenance of 2"),
        ("remote-edge-worker-exit-maintenance -H press-*", "end the maintenance of 2"),
        (
            "remote-edge-worker-update-maintenance-comment -H press-* -c belt",
            "change the maintenance comment of 2",
        ),
        ("shutdown-remote-edge-worker -H press-*", "shut down 2"),
        ("remove-remote-edge-worker -H press-*", "forget 2"),
        ("shutdown-all-workers", "shut down 3"),
    ],
)
@pytest.mark.usefixtures("workers")
def test_with_nobody_to_ask_many_are_left_alone(
    run: Run, store: Store, words: str, doing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert f"this is to {doing} workers: " in err
    assert "press-1, press-2; there is no terminal to ask at; confirm with --yes" in err
    assert {(one.wished_concurrency, one.state) for one in store.views.workers()} == {(None, "idle")}


@pytest.mark.parametrize(("answer", "is_yes"), [("y\n", True), ("YES\n", True), ("n\n", False), ("", False)])
@pytest.mark.usefixtures("workers")
def test_many_are_asked_for(
    run: Run, store: Store, answer: str, is_yes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    code, out, err = run("set-worker-concurrency", "-H", "press-*", "-c", "3")
    assert err.startswith("set the concurrency to 3 for 2 workers: press-1, press-2\nProceed? [y/N] ")
    wished = {one.name: one.wished_concurrency for one in store.views.workers()}
    if is_yes:
        assert (code, out) == (0, "press-1: concurrency 3\npress-2: concurrency 3\n")
        assert wished == {"oven": None, "press-1": 3, "press-2": 3}
    else:
        assert (code, out) == (1, "")
        assert err.endswith("edge-ws: nothing was changed\n")
        assert set(wished.values()) == {None}


# As a program


@pytest.fixture
def program(databases: Databases, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with databases.new("sqlite", migrated=True) as url:
        yield url, clean_environment(tmp_path, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=url)


def test_a_terminal_is_asked(program: tuple[str, dict[str, str]]) -> None:
    url, environment = program
    with using(url) as engine:
        register_worker(Store(engine), "oven")
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n")
    done = subprocess.run(
        [sys.executable, "-m", "edge_ws.cli", "shutdown-all-workers"],
        env=environment,
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stdout) == (0, "oven: shutdown\n"), done.stderr
    assert "shut down 1 worker: oven\nProceed? [y/N] " in done.stderr


def test_on_every_kind_of_database(database_url: str, tmp_path: Path) -> None:
    environment = clean_environment(tmp_path, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=database_url)
    with using(database_url) as engine:
        store = Store(engine)
        principal = register_worker(store, "press-2")
        with _applying(store, principal):
            done = run_edge_ws(
                *("set-worker-concurrency", "-H", "press-2", "-c", "3", "-w", "-o", "json"),
                environment=environment,
            )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["revision"] == store.operators.applied("press-2")
        assert sa.inspect(engine).has_table("edge_worker")


@pytest.mark.usefixtures("workers")
def test_what_has_happened(run: Run, store: Store) -> None:
    assert run("events") == (0, "", "nothing has happened lately\n")
    run("set-worker-concurrency", "-H", "press-*", "-c", "3", "-y")
    store.events.add([NewEvent(kind="refused", worker="oven", words="token: expired")], "api-1/7")
    rows = _json(run("events", "-o", "json"))
    assert [(row["kind"], row["worker"]) for row in rows] == [
        ("wished", "press-1"),
        ("wished", "press-2"),
        ("refused", "oven"),
    ]
    assert rows[0]["words"] == "concurrency 3"
    code, out, _ = run("events", "-H", "ov*")
    assert code == 0
    assert re.search(r"(?m)^2.* refused +\| oven +\| - +\| - +\| token: expired$", out)
    assert len(_json(run("events", "--since", str(rows[0]["id"]), "-o", "json"))) == 2
    assert len(_json(run("events", "--since", "5m", "--kind", "refused", "-o", "json"))) == 1
    code, _, err = run("events", "--since", "yesterday")
    assert (code, "--since: 'yesterday' is neither a time" in err) == (2, True)
    code, _, err = run("events", "--kind", "party")
    assert (code, "kind: there is no 'party'" in err) == (2, True)


def test_what_happens_is_followed(centre: Centre, store: Store) -> None:
    store.events.add([NewEvent(kind="silent", worker="before")])
    # Whoever starts the tests in the background has SIGINT ignored by all that they start.
    python = ["env", "--default-signal=INT", sys.executable]
    command = [*python, "-m", "edge_ws.cli", "events", "-f", "-H", "press*"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            store.events.add([NewEvent(kind="silent", worker="press-1", words="first")])
            line = following.stdout.readline()
            while "first" not in line:
                assert line, following.stderr.read() if following.stderr else ""
                line = following.stdout.readline()
            store.events.add(
                [NewEvent(kind="silent", worker="oven"), NewEvent(kind="lost", worker="press-2")]
            )
            assert following.stdout.readline().split()[2:4] == ["lost", "press-2"]
        finally:
            following.send_signal(signal.SIGINT)
        assert following.wait(10) == 130


def test_how_the_last_hour_was(run: Run, store: Store) -> None:
    figures = Figures(lambda: {"websocket": 2, "longpoll": 1})
    figures.aligned(store.liveness.announce(GatewayId("g"), "api-1", 7), time.monotonic())
    for _ in range(3):
        figures.offered(ClaimId("c"), 0.3, 0.02)
    figures.count("ends", "success")
    store.liveness.announce(GatewayId("g"), "api-1", 7, figures=figures.as_text())
    row = _json(run("figures", "-o", "json"))
    assert (row["hour"]["offers"], row["hour"]["ends"]) == (3, {"success": 1})
    assert len(row["minutes"]) == 60
    code, out, _ = run("figures")
    lines = out.splitlines()
    assert code == 0
    assert lines[2].split("|")[0].strip() == "the hour"
    assert "20 ms" in lines[2]
    assert (
        lines[-1]
        == "1 gateway alive: api-1/7; 1 of them not notified of changes by the database: they poll it"
    )
    assert len(lines) == 15
