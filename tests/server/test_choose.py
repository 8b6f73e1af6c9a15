"""Which job goes where: examples, and properties over many."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge_ws.protocol.ids import CALLBACK_DAG_ID, SiteId, WorkerName
from edge_ws.server.choose import RESERVE_AFTER_S, choose
from edge_ws.store.records import Candidate, Capacity, JobKey, Principal


def job(name: str, queue: str = "q", slots: int = 1, **more: object) -> Candidate:
    dag = str(more.pop("dag", "d"))
    return Candidate(
        key=JobKey(dag, name, "r", -1, 1),
        queue=queue,
        slots=slots,
        priority=1,
        team=None if "team" not in more else str(more.pop("team")),
        **more,
    )


def worker(name: str, free: int = 1, queues: set[str] | None = None, **more: object) -> Capacity:
    principal = Principal(worker=WorkerName(name), queues=more.get("admitted"), team=more.get("team"))
    return Capacity(
        principal=principal,
        site=SiteId("s"),
        queues=frozenset(queues) if queues is not None else None,
        concurrency=int(more.get("concurrency", 8)),
        stale_slots=0,
        free=free,
    )


def fits(jobs: list[Candidate], workers: list[Capacity]) -> dict[str, str]:
    return {one.key.task_id: one.worker for one in choose(jobs, workers)}


def test_jobs_are_spread_over_the_least_loaded() -> None:
    assert Counter(fits([job(str(n)) for n in range(4)], [worker("a", 3), worker("b", 3)]).values()) == {
        "a": 2,
        "b": 2,
    }


def test_order_is_kept_and_callbacks_go_first() -> None:
    jobs = [job("1"), job("2"), job("cb", dag=CALLBACK_DAG_ID)]
    assert list(fits(jobs, [worker("a", 2)])) == ["cb", "1"]


def test_queues_teams_and_credentials_are_respected() -> None:
    workers = [
        worker("x-only", 9, {"x"}),
        worker("token", 9, None, admitted=frozenset({"y"})),
        worker("team", 9, {"q"}, team="t"),
    ]
    jobs = [job("1", "x"), job("2", "y"), job("3", "q"), job("4", "q", team="t"), job("5", "z")]
    assert fits(jobs, workers) == {"1": "x-only", "2": "token", "4": "team"}


def test_a_wide_job_reserves_a_worker_after_a_while() -> None:
    narrow = [job("narrow")]
    assert fits([job("wide", slots=3), *narrow], [worker("a", 2)]) == {"narrow": "a"}
    waiting = job("wide", slots=3, waited_s=RESERVE_AFTER_S)
    assert fits([waiting, *narrow], [worker("a", 2)]) == {}
    assert fits([waiting, *narrow], [worker("a", 2, concurrency=2)]) == {"narrow": "a"}
    assert fits([waiting, *narrow], [worker("a", 2), worker("b", 1)]) == {"narrow": "b"}


JOBS = st.lists(
    st.builds(
        job,
        st.uuids().map(str),
        st.sampled_from("qxy"),
        st.integers(1, 4),
        waited_s=st.sampled_from([0.0, 100.0]),
    ),
    max_size=30,
)
WORKERS = st.lists(
    st.builds(
        worker,
        st.uuids().map(str),
        st.integers(1, 6),
        st.none() | st.sets(st.sampled_from("qxy"), max_size=2),
    ),
    max_size=8,
)


@given(JOBS, WORKERS)
def test_no_seat_breaks_a_rule(jobs: list[Candidate], workers: list[Capacity]) -> None:
    by_name = {one.principal.worker: one for one in workers}
    by_key = {one.key: one for one in jobs}
    chosen = choose(jobs, workers)
    assert len({one.key for one in chosen}) == len(chosen)
    taken: Counter[str] = Counter()
    for one in chosen:
        assert by_name[one.worker].serves(by_key[one.key])
        taken[one.worker] += one.slots
    assert all(taken[name] <= by_name[name].free for name in taken)


@given(JOBS, WORKERS)
def test_nothing_is_left_that_could_be_seated(jobs: list[Candidate], workers: list[Capacity]) -> None:
    narrow = [one for one in jobs if one.waited_s == 0.0]
    chosen = choose(narrow, workers)
    left = {one.principal.worker: one.free for one in workers}
    for one in chosen:
        left[one.worker] -= one.slots
    seated = {one.key for one in chosen}
    for one in narrow:
        if one.key not in seated:
            assert not any(w.serves(one) and left[w.principal.worker] >= one.slots for w in workers)


@given(JOBS, WORKERS)
def test_each_job_goes_to_one_of_the_freest(jobs: list[Candidate], workers: list[Capacity]) -> None:
    by_key = {one.key: one for one in jobs}
    left = {one.principal.worker: one.free for one in workers}
    for one in choose([one for one in jobs if one.waited_s == 0.0], workers):
        serving = [w.principal.worker for w in workers if w.serves(by_key[one.key])]
        assert left[one.worker] == max(left[name] for name in serving)
        left[one.worker] -= one.slots
