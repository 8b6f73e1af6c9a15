"""The operators' operations on a real store, whoever calls them."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from edge_ws.errors import UsageError
from edge_ws.server.admin import LONGEST_USER, OPERATIONS, perform
from edge_ws.server.parameters import LONGEST_COMMENT
from edge_ws.store.operators import OperatorStore
from edge_ws.store.records import Wished
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, worker
from tests.support.workers import register_worker

COMMENT = "remote-edge-worker-request-maintenance"


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    store = Store(sqlite_engine)
    for name in ("oven", "press-1", "press-2"):
        register_worker(store, name, queues=("a", "b") if name == "oven" else ("c",))
    register_worker(store, "any", queues=None)
    return store


@pytest.fixture
def _edge3s_worker(store: Store, sqlite_engine: sa.Engine) -> None:
    row = {"worker_name": "theirs", "state": "idle", "queues": "['a']", "jobs_active": 0}
    with sqlite_engine.begin() as connection:
        connection.execute(edge_worker.insert().values(**row))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ["any", "oven", "press-1", "press-2"]),
        ({"worker_name_pattern": "press-?"}, ["press-1", "press-2"]),
        ({"queues": ["b", "x"]}, ["any", "oven"]),
        ({"state": ["idle", "running"]}, ["any", "oven", "press-1", "press-2"]),
        ({"state": ["offline"]}, []),
        ({"worker_name_pattern": None, "queues": ["c"], "state": ["idle"]}, ["any", "press-1", "press-2"]),
    ],
)
def test_workers_are_listed_as_asked(store: Store, given: dict[str, object], names: list[str]) -> None:
    rows = perform(store, "list-workers", given)
    assert [row["worker_name"] for row in rows] == names


def test_one_worker_is_one_result(store: Store) -> None:
    told = perform(store, "set-worker-concurrency", {"worker": "oven", "concurrency": 3})
    assert told == {
        "worker_name": "oven",
        "kind": "edge-ws",
        "state": "idle",
        "revision": 1,
        "told": "concurrency 3",
        "error": None,
    }
    assert perform(store, "applied", {"worker": "oven"}) == {"oven": 0}
    assert perform(store, "applied", {}) == dict.fromkeys(("any", "oven", "press-1", "press-2"), 0)


def test_many_workers_are_a_list_and_one_fault_keeps_nothing_from_the_others(store: Store) -> None:
    told = perform(store, "remove-worker-queues", {"worker": ["oven", "nobody", "press-1"], "queues": ["a"]})
    oven, nobody, press = told
    assert (oven["worker_name"], oven["told"], oven["error"]) == ("oven", "queues b now", None)
    assert (nobody["worker_name"], nobody["revision"]) == ("nobody", None)
    assert "no worker named nobody" in nobody["error"]
    assert press["error"] is None
    json.dumps(told)


def test_a_glob_must_be_meant(store: Store) -> None:
    asked = {"worker": "press-*", "concurrency": 0}
    with pytest.raises(UsageError, match="yes must be true"):
        perform(store, "set-worker-concurrency", asked)
    told = perform(store, "set-worker-concurrency", {**asked, "yes": True})
    assert [row["worker_name"] for row in told] == ["press-1", "press-2"]
    assert perform(store, "set-worker-concurrency", {**asked, "worker": "x*", "yes": True}) == []


@pytest.mark.usefixtures("_edge3s_worker")
def test_all_that_are_or_may_be_here_are_shut_down(store: Store, sqlite_engine: sa.Engine) -> None:
    def be(name: str, state: str) -> None:
        with sqlite_engine.begin() as connection:
            here = edge_worker.update().where(edge_worker.c.worker_name == name)
            connection.execute(here.values(state=state))

    with sqlite_engine.begin() as connection:
        # It has said no goodbye, as the oven has.
        connection.execute(worker.update().where(worker.c.worker_name == "any").values(life="1"))
    be("oven", "offline maintenance")
    be("any", "unknown")
    be("theirs", "unknown")
    with pytest.raises(UsageError, match="yes must be true"):
        perform(store, "shutdown-all-workers", {})
    told = perform(store, "shutdown-all-workers", {"yes": True})
    assert [row["worker_name"] for row in told] == ["any", "press-1", "press-2"]
    assert [row["state"] for row in told] == ["unknown", "shutdown request", "shutdown request"]
    assert told[0]["revision"]


@pytest.mark.usefixtures("_edge3s_worker")
def test_edge3s_workers_are_told_too(store: Store) -> None:
    told = perform(store, "set-worker-concurrency", {"worker": "theirs", "concurrency": 2})
    assert (told["kind"], told["revision"]) == ("edge3", 0)
    assert perform(store, "add-worker-queues", {"worker": "theirs", "queues": ["b"]})["error"] is None


def _comment(store: Store) -> str | None:
    (row,) = perform(store, "list-workers", {"worker_name_pattern": "oven"})
    return row["maintenance_comment"]


def test_a_comment_is_kept_as_given_at_the_centre(store: Store) -> None:
    perform(store, COMMENT, {"worker": "oven", "comment": " new belt "})
    assert _comment(store) == "new belt"
    again = {"worker": "oven", "comment": "and oil"}
    perform(store, "remote-edge-worker-update-maintenance-comment", again)
    assert _comment(store) == "and oil"
    perform(store, "remote-edge-worker-exit-maintenance", {"worker": "oven"})
    assert _comment(store) is None


def test_a_comment_by_http_says_whose_it_is(store: Store) -> None:
    perform(store, COMMENT, {"worker": "oven", "comment": "new belt"}, user="vera")
    first, second = (_comment(store) or "").split("\n")
    assert first.startswith("[20")
    assert first.endswith("] - vera put node into maintenance mode")
    assert second == "Comment: new belt"
    again = {"worker": "oven", "comment": "and oil"}
    perform(store, "remote-edge-worker-update-maintenance-comment", again, user="otto")
    first, then, why = (_comment(store) or "").split("\n")
    assert first.endswith("] - vera put node into maintenance mode")
    assert then.endswith("] - otto updated comment:")
    assert why == "and oil"


UPDATE = "remote-edge-worker-update-maintenance-comment"


def test_the_new_comment_is_never_cut(store: Store) -> None:
    """What is cut is the old first line, and a user's name that fills it all."""
    user, why = "v" * 2000, "x" * LONGEST_COMMENT
    perform(store, COMMENT, {"worker": "oven", "comment": why}, user=user)
    assert (_comment(store) or "").endswith(f" put node into maintenance mode\nComment: {why}")
    perform(store, COMMENT, {"worker": "oven", "comment": "o" * LONGEST_COMMENT})
    perform(store, UPDATE, {"worker": "oven", "comment": why}, user=user)
    first, then, new = (_comment(store) or "").split("\n")
    assert new == why
    assert then.endswith(f" - {'v' * LONGEST_USER} updated comment:")
    assert set(first) == {"o"}
    assert len(_comment(store) or "") == 1024


def test_the_store_refuses_a_comment_that_has_no_room(store: Store) -> None:
    store.operators.request_maintenance("oven", "belt")
    with pytest.raises(UsageError, match="is 2 characters too long"):
        store.operators.update_maintenance_comment("oven", "x" * 1020, "v" * 5)
    assert _comment(store) == "belt"
    # With no room for the old line, it goes.
    store.operators.update_maintenance_comment("oven", "x" * 1018, "v" * 5)
    assert _comment(store) == "v" * 5 + "\n" + "x" * 1018


def test_a_comment_of_many_workers_takes_no_look_at_all_of_them_each(
    store: Store, sqlite_engine: sa.Engine
) -> None:
    names = ["any", "oven", "press-1", "press-2"]
    perform(store, COMMENT, {"worker": names, "comment": "belt"})
    looks: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "FROM edge_worker" in statement and "worker_name = " not in statement.partition("WHERE")[2]:
            looks.append(statement)

    sa.event.listen(sqlite_engine, "before_cursor_execute", note)
    told = perform(store, UPDATE, {"worker": names, "comment": "oil"}, user="otto")
    sa.event.remove(sqlite_engine, "before_cursor_execute", note)
    assert [row["error"] for row in told] == [None] * 4
    assert looks == []


def test_a_worker_that_is_away_can_be_forgotten(store: Store, sqlite_engine: sa.Engine) -> None:
    with pytest.raises(UsageError, match="cannot remove oven"):
        perform(store, "remove-remote-edge-worker", {"worker": "oven"})
    with sqlite_engine.begin() as connection:
        connection.execute(edge_worker.update().values(state="offline"))
    assert perform(store, "remove-remote-edge-worker", {"worker": "oven"})["told"] == "removed"
    assert perform(store, "list-workers", {"worker_name_pattern": "oven"}) == []


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("set-worker-color", {}, "there is no 'set-worker-color'; there are list-workers, "),
        ("list-workers", {"color": "red"}, "list-workers takes state, .* not 'color'"),
        ("list-workers", {"state": "idle"}, "state must be a list of texts, not 'idle'"),
        ("list-workers", {"state": []}, "state must be a list of texts"),
        ("list-workers", {"state": ["sad"]}, "state: there is no 'sad'; there are idle, "),
        ("set-worker-concurrency", {"worker": "oven"}, "set-worker-concurrency needs concurrency: a whole"),
        ("set-worker-concurrency", {"concurrency": 1}, "needs worker: a worker's name, or a list of names"),
        ("set-worker-concurrency", {"worker": "oven", "concurrency": -1}, "-1 is not between 0 and 1024"),
        ("set-worker-concurrency", {"worker": "oven", "concurrency": 1025}, "not between 0 and 1024"),
        ("set-worker-concurrency", {"worker": "oven", "concurrency": True}, "must be a whole number"),
        ("set-worker-concurrency", {"worker": "oven", "concurrency": 1.5}, "must be a whole number"),
        ("set-worker-concurrency", {"worker": ["oven", 1], "concurrency": 1}, "worker must be a worker's"),
        ("set-worker-concurrency", {"worker": "*", "concurrency": 1, "yes": "yes"}, "must be true or false"),
        ("add-worker-queues", {"worker": "oven", "queues": ["a,b"]}, "queues: 'a,b' cannot name a queue"),
        (COMMENT, {"worker": "oven", "comment": "  "}, "comment: say why"),
        (COMMENT, {"worker": "oven", "comment": "x" * (LONGEST_COMMENT + 1)}, "801 characters; 800 fit"),
        (
            "shutdown-all-workers",
            {"worker": "oven"},
            "shutdown-all-workers takes yes, deadline, not 'worker'",
        ),
        ("show-worker", {"worker": "a\0"}, r"worker: 'a\\x00' has a character that no text can have"),
        ("list-jobs", {"dag": "\udcff"}, r"dag_id: '\\udcff' has a character"),
        ("list-workers", {"queues": ["a", "\ud800"]}, "queues: .* has a character"),
        (
            "set-worker-concurrency",
            {"worker": ["oven", "\0"], "concurrency": 1},
            "worker: .* has a character",
        ),
        (COMMENT, {"worker": "oven", "comment": "\0"}, "comment: .* has a character"),
        ("list-jobs", {"limit": 2**31}, "limit: the number is not between -2147483647 and 2147483647"),
        ("list-jobs", {"limit": 10**4000}, "limit: the number is not between"),
    ],
)
def test_a_wrong_parameter_is_a_sentence(
    store: Store, name: str, given: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        perform(store, name, given)
    (row,) = perform(store, "list-workers", {"worker_name_pattern": "oven"})
    assert (row["wished_concurrency"], row["state"], row["queues"]) == (None, "idle", ["a", "b"])


def test_what_changes_takes_a_worker_and_whether_it_is_meant() -> None:
    for name, operation in OPERATIONS.items():
        if operation.changes and "queue" not in operation.parameters and not name.startswith("token-"):
            assert "yes" in operation.parameters
            assert "worker" in operation.parameters or name == "shutdown-all-workers"


def test_a_row_that_nobody_foresaw_hides_no_other(store: Store, sqlite_engine: sa.Engine) -> None:
    with sqlite_engine.begin() as connection:
        strange = edge_worker.update().where(edge_worker.c.worker_name == "oven")
        connection.execute(strange.values(sysinfo=["not", "an", "object"]))
    rows = perform(store, "list-workers", {})
    assert [row["worker_name"] for row in rows] == ["any", "oven", "press-1", "press-2"]
    assert "cannot be read" in str(rows[1]["maintenance_comment"])
    assert [row["worker_name"] for row in perform(store, "show-worker", {"worker": "*"})] == [
        row["worker_name"] for row in rows
    ]
    perform(store, "list-queues", {})


class _Cursed(OperatorStore):
    """The real one, for which one worker cannot be changed."""

    def request_shutdown(self, name: str, deadline_s: float | None = None) -> Wished:
        if name == "oven":
            raise ValueError("integer out of range")
        return super().request_shutdown(name, deadline_s)


@pytest.mark.usefixtures("store")
def test_one_that_cannot_be_shut_down_is_named_and_the_others_are(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    store.operators = _Cursed(store._database)
    rows = perform(store, "shutdown-all-workers", {"yes": True})
    failed = {str(row["worker_name"]): str(row["error"]) for row in rows if row["error"]}
    assert list(failed) == ["oven"]
    assert "a fault of this program" in failed["oven"]
    done = [row["state"] for row in rows if not row["error"]]
    assert done == ["shutdown request"] * 3
