"""What a task wants of Airflow while the Execution API is away: asked for again for minutes, and stopped at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.execution_api import ExecutionApi
from tests.support.host_jobs import events_in, go, is_running, note_of
from tests.support.jobs import Site, TaskWorkload, task_workload
from tests.support.raw_host import Line, RawHost, raw_host
from tests.support.waiting import wait_until

AIRFLOWS_TRIES = 5
SLOWLY_S = 8.0


@contextmanager
def host_that_waits(
    site: Site, name: str, least_s: float, most_s: float, **settings: str
) -> Iterator[RawHost]:
    """Run a host whose clients wait so long before they try again."""
    environment = site.environment(
        AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN=str(least_s),
        AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX=str(most_s),
        AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL="1",
        **settings,
    )
    with raw_host(site.folder / name, environment) as host:
        host.connect().hello()
        yield host


@pytest.fixture(scope="module")
def quick(site: Site) -> Iterator[RawHost]:
    with host_that_waits(site, "quick", 0.02, 0.05) as host:
        yield host


@pytest.fixture(scope="module")
def slow(site: Site) -> Iterator[RawHost]:
    with host_that_waits(site, "slow", SLOWLY_S, SLOWLY_S) as host:
        yield host


@pytest.fixture(autouse=True)
def _anew(site: Site, api: ExecutionApi) -> Iterator[None]:
    for path in site.notes.iterdir():
        path.unlink()
    api.turned_away.clear()
    yield
    api.away = api.away_for = ""


def begun(site: Site, line: Line, api: ExecutionApi) -> tuple[TaskWorkload, str, int]:
    workload = task_workload("asks")
    claim = go(line, api, workload)
    line.hear("started", claim)
    return workload, claim, int(wait_until((lambda: note_of(site, "asks")), 20))


def pushed(api: ExecutionApi) -> int:
    """Return how often the task's push came in vain."""
    return sum("/xcoms/" in path for path in list(api.turned_away))


@pytest.mark.parametrize("away", ["reset", "502", "503", "504"])
def test_what_a_task_asks_for_outlives_an_outage(
    site: Site, api: ExecutionApi, quick: RawHost, away: str
) -> None:
    line = quick.connect()
    workload, claim, _ = begun(site, line, api)
    api.away = away
    (site.notes / "enough").touch()
    # Airflow's own client would have given up long ago.
    wait_until(lambda: pushed(api) > 4 * AIRFLOWS_TRIES, 30)
    assert note_of(site, "answer") == ""
    api.away = ""
    assert line.hear("ended", claim)["exit_code"] == 0
    assert note_of(site, "answer") == "pushed"
    assert [call.body for call in api.calls if call.path.endswith("/xcoms/jobs/r1/asks/press")][
        -1
    ] == "pressed"
    assert api.states_of(workload.id) == ["success"]


def test_what_airflow_stumbles_over_is_repeated_as_often_as_airflow_does(
    site: Site, api: ExecutionApi, quick: RawHost
) -> None:
    """It may stumble each time; the task is to fail of it, and not of the heartbeats that are missing meanwhile."""
    line = quick.connect()
    workload, claim, _ = begun(site, line, api)
    api.away = "500"
    (site.notes / "enough").touch()
    wait_until((lambda: note_of(site, "answer")), 20)
    api.away = ""
    line.hear("ended", claim)
    assert "Error" in note_of(site, "answer")
    assert pushed(api) == AIRFLOWS_TRIES
    assert api.states_of(workload.id) == ["failed"]


def test_the_users_number_of_tries_is_in_force(site: Site, api: ExecutionApi) -> None:
    tries = {"AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "7"}
    with host_that_waits(site, "users", 0.02, 0.05, **tries) as host:
        line = host.connect()
        _, claim, _ = begun(site, line, api)
        api.away = "reset"
        (site.notes / "enough").touch()
        wait_until((lambda: note_of(site, "answer")), 20)
        api.away = ""
        line.hear("ended", claim)
        assert pushed(api) == 7


def test_heartbeats_are_not_repeated_so_the_task_is_served_meanwhile(
    site: Site, api: ExecutionApi, quick: RawHost
) -> None:
    line = quick.connect()
    _, claim, _ = begun(site, line, api)
    api.away, began = "502", time.monotonic()
    wait_until(lambda: len(api.turned_away) >= 3, 20)
    # One a second; repeated, they would have come within a tenth of one.
    assert time.monotonic() - began >= 1.9
    assert {path.rpartition("/")[2] for path in api.turned_away} == {"heartbeat"}
    api.away = ""
    (site.notes / "enough").touch()
    assert line.hear("ended", claim)["exit_code"] == 0


@pytest.mark.parametrize("look", [True, False])
def test_a_cancel_stops_a_task_whose_request_is_being_repeated(
    site: Site, api: ExecutionApi, slow: RawHost, *, look: bool
) -> None:
    line = slow.connect()
    workload, claim, pid = begun(site, line, api)
    api.away = "reset"
    (site.notes / "enough").touch()
    wait_until(lambda: pushed(api), 20)
    began = time.monotonic()
    line.say("cancel", claim=claim, grace_s=1.0, reason="cleared", look=look)
    wait_until(lambda: not is_running(pid), 20)
    # The next try was 8 s away.
    assert time.monotonic() - began < SLOWLY_S - 2
    api.away = ""
    line.hear("ended", claim)
    # It has not learnt that its push had failed: it was stopped as if it were still waiting.
    assert (note_of(site, "killed"), note_of(site, "answer")) == ("begun done ", "")
    stopping = [event for event in events_in(site.logs / workload.log_path) if "Stopping" in event]
    why = "cleared; the Execution API has not answered for 1 s" if look else "cleared"
    # By its own supervisor, which has heard it while it waited.
    assert stopping[0] == f"Stopping the task ({why}): SIGTERM to its process group"


def test_a_task_that_airflow_counts_as_running_goes_on_after_a_question(
    site: Site, api: ExecutionApi, slow: RawHost
) -> None:
    line = slow.connect()
    workload, claim, _ = begun(site, line, api)
    api.away = "reset"
    (site.notes / "enough").touch()
    wait_until(lambda: pushed(api), 20)
    api.away = ""
    line.say("cancel", claim=claim, grace_s=5.0, reason="its row is missing", look=True)
    # The question ends the pause: the push is tried again at once.
    line.hear("ended", claim, within_s=SLOWLY_S - 2)
    assert note_of(site, "answer") == "pushed"
    assert api.states_of(workload.id) == ["success"]
    assert note_of(site, "killed") == ""


def test_what_has_failed_while_airflow_was_asked_is_told_to_a_task_that_goes_on(
    site: Site, api: ExecutionApi, slow: RawHost
) -> None:
    line = slow.connect()
    workload, claim, _ = begun(site, line, api)
    api.away, api.away_for = "502", "/xcoms/"
    (site.notes / "enough").touch()
    wait_until(lambda: pushed(api), 20)
    line.say("cancel", claim=claim, grace_s=5.0, reason="its row is missing", look=True)
    line.hear("ended", claim, within_s=SLOWLY_S - 2)
    assert "Error" in note_of(site, "answer")
    assert api.states_of(workload.id) == ["failed"]
    assert note_of(site, "killed") == ""


def test_an_outcome_is_handed_to_the_daemon_after_airflows_number_of_tries(
    site: Site, api: ExecutionApi, quick: RawHost
) -> None:
    line, workload = quick.connect(), task_workload("wait")
    claim = go(line, api, workload)
    wait_until((lambda: note_of(site, "wait")), 20)
    api.away = "reset"
    (site.notes / "enough").touch()
    owes = line.hear("owes", claim)
    assert (owes["outcome"], owes["handed_over"]) == ("success", True)
    assert sum(path.endswith("/state") for path in api.turned_away) == AIRFLOWS_TRIES
    # Nothing of what follows waits for the line.
    assert line.hear("ended", claim, within_s=20)["owed"] is not None
