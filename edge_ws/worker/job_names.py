"""What a job is, for people to read: the task or the callback that its payload tells of.

Nothing is decided by it: a payload of another shape runs all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from edge_ws.protocol.ids import CALLBACK_DAG_ID, ClaimId


@dataclass(frozen=True, slots=True, kw_only=True)
class JobName:
    """The names under which the centre lists the job."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    """-1: the task is not mapped."""
    try_number: int

    def __str__(self) -> str:
        """Return it as the log and the host's verbs show it."""
        if self == _callback(self.task_id):
            return f"callback {self.task_id}"
        index = f" map index {self.map_index}" if self.map_index >= 0 else ""
        return f"{self.dag_id} {self.run_id} {self.task_id}{index} try {self.try_number}"


def _callback(number: str) -> JobName:
    return JobName(
        dag_id=CALLBACK_DAG_ID,
        run_id=f"{CALLBACK_DAG_ID}-{number}",
        task_id=number,
        map_index=-1,
        try_number=0,
    )


def read(told: object) -> JobName | None:
    """Take it from anything that has its fields among others; None if that has not."""
    if not isinstance(told, dict):
        return None
    try:
        return JobName(
            dag_id=str(told["dag_id"]),
            run_id=str(told["run_id"]),
            task_id=str(told["task_id"]),
            map_index=int(told["map_index"]),
            try_number=int(told["try_number"]),
        )
    except (LookupError, TypeError, ValueError):
        return None


def of_payload(payload: str) -> JobName | None:
    """Take it from a workload's JSON; None if it is of no known kind."""
    try:
        body = orjson.loads(payload)
        callback = body.get("callback")
        return _of_task(body["ti"]) if callback is None else _callback(str(callback["id"]))
    except (ValueError, AttributeError, LookupError, TypeError):
        return None


def _of_task(ti: dict[str, object]) -> JobName | None:
    # From Airflow 3.4 on: the index under which the centre lists it, which counts the passes of a loop, too.
    index = ti.get("region_index")
    return read(ti if index is None else {**ti, "map_index": index})


def title(subject: JobName | None, claim: ClaimId) -> str:
    """Return what to call the job; one that nothing is known of by its claim."""
    return f"claim {claim}" if subject is None else str(subject)
