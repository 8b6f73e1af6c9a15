"""Workers, queues and tokens as `check` judges them, read from a real database."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from edge_ws.protocol.ids import EXPIRY_TOLD_S
from edge_ws.provider import check, compat
from edge_ws.provider.check import Finding, Verdict
from edge_ws.store.store import Store
from edge_ws.store.tables import epoch_now, token, worker
from tests.support.centre import Centre
from tests.support.rows import FakeWorker, enqueue, new_job

DAY_S = 86_400.0


@pytest.fixture
def store(centre: Centre) -> Store:
    return Store(centre.engine)


@pytest.fixture
def press(store: Store) -> FakeWorker:
    """A worker of queue q that is connected."""
    made = FakeWorker(store, "press-1")
    made.register()
    return made


def found(centre: Centre) -> dict[str, Finding]:
    by_name = {one.check: one for one in check.look(centre.engine, compat.conf)}
    return {name: by_name[name] for name in ("workers", "queues", "tokens")}


def exit_code(centre: Centre) -> int:
    return check.exit_code(list(found(centre).values()))


def be_away(centre: Centre, seconds: float = 3600.0) -> None:
    with centre.engine.begin() as connection:
        connection.execute(worker.update().values(seen_at=epoch_now() - seconds, gateway=None))
        connection.execute(sa.text("UPDATE edge_worker SET state = 'unknown'"))


def test_a_fleet_that_works(centre: Centre, press: FakeWorker) -> None:
    enqueue(centre.engine, new_job())
    said = found(centre)
    assert {one.verdict for one in said.values()} == {Verdict.OK}
    assert said["workers"].says == "1 of 1 connected"
    assert said["queues"].says.startswith("workers are there for all that waits: queue q: 1 job(s) wait")


def test_every_worker_away_and_jobs_waiting(centre: Centre, press: FakeWorker) -> None:
    enqueue(centre.engine, new_job())
    be_away(centre)
    said = found(centre)
    assert said["workers"].verdict is said["queues"].verdict is Verdict.WRONG
    assert said["workers"].says == "0 of 1 connected: press-1 is not connected (last seen 60 min ago)"
    assert "queue q: 1 job(s) wait" in said["queues"].says
    assert "press-1 is not connected" in said["queues"].says
    assert "edge-ws status" in said["workers"].do
    assert exit_code(centre) == 1


def test_one_of_two_away(centre: Centre, press: FakeWorker) -> None:
    be_away(centre)
    FakeWorker(Store(centre.engine), "press-2").register()
    said = found(centre)
    assert said["workers"].verdict is Verdict.WARNING
    assert said["workers"].says.startswith("1 of 2 connected: press-1 is not connected")
    assert exit_code(centre) == 0


def test_who_left_as_it_should_is_no_fault(centre: Centre, press: FakeWorker) -> None:
    be_away(centre)
    with centre.engine.begin() as connection:
        connection.execute(sa.text("UPDATE edge_worker SET state = 'offline'"))
    assert found(centre)["workers"].verdict is Verdict.OK
    enqueue(centre.engine, new_job())
    assert found(centre)["queues"].verdict is Verdict.WRONG


def test_a_queue_that_nobody_serves(centre: Centre, press: FakeWorker) -> None:
    for number in range(2):
        enqueue(centre.engine, new_job(f"t{number}", queue="paint"))
    said = found(centre)["queues"]
    assert said.verdict is Verdict.WRONG
    assert said.says.startswith("queue paint: 2 job(s) wait")
    assert said.says.endswith("nobody takes them: no worker serves that queue")


def test_a_full_worker_is_no_fault(centre: Centre, store: Store) -> None:
    full = FakeWorker(store, "press-1", concurrency=1)
    full.register()
    jobs = [new_job("t1"), new_job("t2")]
    enqueue(centre.engine, *jobs)
    full.start(jobs[0])
    assert found(centre)["queues"].verdict is Verdict.OK


def test_a_paused_queue_is_told_and_hides_no_other(centre: Centre, store: Store, press: FakeWorker) -> None:
    store.queues.pause("q", "hydraulics", "ann")
    enqueue(centre.engine, new_job("waits"))
    said = found(centre)["queues"]
    assert said.verdict is Verdict.WARNING
    assert said.says.startswith("queue q is paused since 20")
    assert said.says.endswith(" by ann: hydraulics (1 job(s) wait); elsewhere no job waits")
    assert "resume-queue" in said.do
    enqueue(centre.engine, new_job("nobodys", queue="z"))
    said = found(centre)["queues"]
    assert said.verdict is Verdict.WRONG
    assert "hydraulics" in said.says
    assert "queue z: 1 job(s) wait" in said.says


def test_without_workers(centre: Centre) -> None:
    assert found(centre)["workers"].verdict is Verdict.WARNING
    enqueue(centre.engine, new_job())
    said = found(centre)["queues"]
    assert (said.verdict, "no worker has connected yet" in said.says) == (Verdict.WRONG, True)


class TestTokens:
    @pytest.fixture
    def _tokens(self, store: Store) -> None:
        for name in ("press", "unused"):
            store.tokens.create_token(
                name, worker_pattern="*", queues=None, team=None, expires_in_s=30 * DAY_S
            )
        (by,) = (one for one in store.tokens.all_tokens() if one.name == "press")
        FakeWorker(store, "press-1", token_id=by.id).register()

    @staticmethod
    def let_expire(centre: Centre, name: str, in_s: float) -> None:
        with centre.engine.begin() as connection:
            connection.execute(
                token.update().where(token.c.name == name).values(expires_at=epoch_now() + in_s)
            )

    @pytest.mark.usefixtures("_tokens")
    def test_one_by_which_a_worker_came_has_expired(self, centre: Centre) -> None:
        assert found(centre)["tokens"].verdict is Verdict.OK
        self.let_expire(centre, "press", -DAY_S)
        be_away(centre)
        said = found(centre)
        assert said["tokens"].verdict is Verdict.WRONG
        assert said["tokens"].says.startswith("press expired ")
        assert said["tokens"].says.endswith(", and press-1 came by it")
        assert "token create" in said["tokens"].do
        assert "its token 'press' has expired" in said["workers"].says
        assert exit_code(centre) == 1

    @pytest.mark.usefixtures("_tokens")
    def test_one_that_nobody_uses_may(self, centre: Centre) -> None:
        self.let_expire(centre, "unused", -DAY_S)
        assert found(centre)["tokens"].verdict is Verdict.OK
        assert found(centre)["tokens"].says.startswith("1 valid")

    @pytest.mark.usefixtures("_tokens")
    def test_one_that_expires_soon(self, centre: Centre) -> None:
        self.let_expire(centre, "press", EXPIRY_TOLD_S - 60)
        said = found(centre)["tokens"]
        assert said.verdict is Verdict.WARNING
        assert said.says.startswith("press expires ")
        assert exit_code(centre) == 0

    @pytest.mark.usefixtures("_tokens")
    def test_a_revoked_one_is_named_with_its_worker_alone(self, centre: Centre, store: Store) -> None:
        store.tokens.revoke_token("press")
        be_away(centre)
        said = found(centre)
        assert said["tokens"].verdict is Verdict.OK
        assert "its token 'press' is revoked" in said["workers"].says
