"""What a job is called: by its payload if that tells, else by its claim."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from edge_ws.protocol.ids import ClaimId
from edge_ws.worker.job_names import JobName, of_payload, read, title
from tests.support.jobs import callback_workload, task_workload

TASK = JobName(dag_id="jobs", run_id="r1", task_id="hello", map_index=-1, try_number=1)
CLAIM = ClaimId("c")


def test_a_task() -> None:
    found = of_payload(task_workload("hello").payload)
    assert found == TASK
    assert title(found, CLAIM) == "jobs r1 hello try 1"


def test_a_mapped_task() -> None:
    body = json.loads(task_workload("hello").payload)
    body["ti"] |= {"map_index": 0, "try_number": 3}
    assert str(of_payload(json.dumps(body))) == "jobs r1 hello map index 0 try 3"


def test_a_pass_of_a_loop_goes_by_its_number() -> None:
    body = json.loads(task_workload("hello").payload)
    body["ti"] |= {"region_id": "01a1ffa7-1579-75c6-bdc2-8433b5a57793", "region_index": 2}
    assert str(of_payload(json.dumps(body))) == "jobs r1 hello map index 2 try 1"


def test_a_callback_has_the_names_that_the_centre_gives_it() -> None:
    workload = callback_workload()
    found = of_payload(workload.payload)
    assert found is not None
    assert (found.dag_id, found.run_id) == ("ExecuteCallback", f"ExecuteCallback-{workload.id}")
    assert (found.task_id, found.map_index, found.try_number) == (workload.id, -1, 0)
    assert str(found) == f"callback {workload.id}"


@pytest.mark.parametrize(
    "payload",
    ["", "{", "[]", "null", "7", "{}", '{"ti": 7}', '{"ti": {}}', '{"callback": 7}', '{"callback": {}}'],
)
def test_what_tells_nothing_goes_by_its_claim(payload: str) -> None:
    assert of_payload(payload) is None
    assert title(None, CLAIM) == "claim c"


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({**asdict(TASK), "more": 1}, TASK),
        ({**asdict(TASK), "try_number": None}, None),
        (dict.fromkeys(asdict(TASK)), None),
        (None, None),
        ([], None),
    ],
)
def test_it_is_read_among_other_things(told: Any, found: JobName | None) -> None:
    assert read(told) == found
