"""What must hold after a round, whatever happened in it: each check returns the promises it found broken."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import sqlalchemy as sa

from edge_ws.store.live import held
from edge_ws.store.tables import claim, edge_job
from tests.chaos.centre import OWNER, Attempt, Task
from tests.chaos.fleet import Fleet


def unsettled(fleet: Fleet) -> list[str]:
    """Return what is still open somewhere: a round is over when nothing is."""
    found = list(fleet.centre.open_tasks())
    try:
        with fleet.engine.connect() as connection:
            rows = connection.execute(
                sa.select(edge_job.c.run_id, edge_job.c.state).where(edge_job.c.edge_ws_owner == OWNER)
            )
            found += [f"row of {row.run_id} is {row.state}" for row in rows]
            open_ = connection.execute(sa.select(claim.c.id, claim.c.run_id).join(edge_job, held))
            found += [f"claim {row.id} of {row.run_id} is open" for row in open_]
            waiting = connection.execute(
                sa.select(claim.c.run_id).where(claim.c.phase == "ended", claim.c.log_state == "held")
            )
            found += [f"a log of {row.run_id} is not moved" for row in waiting]
    except sa.exc.DBAPIError:
        return [*found, "the database is away"]
    for worker in fleet.workers:
        found += [f"{worker.name} keeps {path.name}" for path in worker.kept()]
        found += [f"{worker.name} has process {one.pid}" for one in worker.job_processes()]
    return found


def broken(fleet: Fleet, tasks: list[Task]) -> list[str]:
    """Return the promises that the round has broken."""
    found = list(fleet.centre.broken)
    with fleet.engine.connect() as connection:
        claims = connection.execute(sa.select(claim).order_by(claim.c.log_base, claim.c.created_at)).all()
    dead = {host for worker in fleet.workers for host in worker.dead_hosts()}
    for task in tasks:
        found += _bodies(fleet, task)
        for attempt in task.attempts:
            mine = [one for one in claims if one.subject == attempt.id]
            found += _event(attempt, mine, dead)
            found += _log(fleet, attempt, mine, dead)
    for one in fleet.programs():
        text = one.log.read_text(errors="replace")
        if "Traceback" in text:
            at = text.index("Traceback")
            found.append(f"{one.name} shows a traceback: {text[at : at + 3000]}")
    return found


def _bodies(fleet: Fleet, task: Task) -> list[str]:
    with suppress(FileNotFoundError):
        lines = [line.split() for line in (fleet.notes / f"{task.name}.trace").read_text().splitlines()]
        found = [f"{task.name}: {' '.join(line)}" for line in lines if line[0] in {"overlap", "overcommit"}]
        begins = Counter(line[1] for line in lines if line[0] == "begin")
        ends = Counter(line[1] for line in lines if line[0] == "end")
        found += [
            f"{task.name} began {begins[one.id]} times and ended {ends[one.id]} times"
            f" in try {one.number} of {task.rounds} rounds: {lines}"
            for one in task.attempts
            if begins[one.id] > task.rounds or (one.state == "success" and ends[one.id] != task.rounds)
        ]
        return found
    return [f"{task.name} never ran"]


def _event(attempt: Attempt, claims: list[sa.Row[tuple[object, ...]]], dead: set[str]) -> list[str]:
    """A task may be failed from outside only because its host is dead."""
    if attempt.event is None or any(one.result == "lost" and one.host in dead for one in claims):
        return []
    told = [(one.id, one.phase, one.result, one.detail, one.host) for one in claims]
    meddled = " (its row was meddled with)" if attempt.meddled else ""
    return [f"{attempt.task.name}, try {attempt.number}, was failed{meddled}: {attempt.event}, claims {told}"]


def _log(
    fleet: Fleet, attempt: Attempt, claims: list[sa.Row[tuple[object, ...]]], dead: set[str]
) -> list[str]:
    """The central log is, byte for byte, what the workers' files hold, claim after claim."""
    whole = all(one.phase == "ended" and one.host not in dead for one in claims)
    if attempt.meddled or not whole or attempt.state != "success":
        return []
    files = {}
    for worker in fleet.workers:
        with suppress(FileNotFoundError):
            files[worker.name] = (worker.logs / attempt.log_path).read_bytes()
    wanted = b""
    for one in claims:
        if one.log_state == "moved":
            mine = files.get(one.worker, b"")
            wanted, files[one.worker] = wanted + mine[: one.log_end], mine[one.log_end :]
    path = fleet.central_logs / attempt.log_path
    there = path.read_bytes() if path.exists() else b""
    rest = {name: len(data) for name, data in files.items() if data}
    if there == wanted and not rest:
        return []
    told = [(one.worker, one.result, one.log_state, one.log_base, one.log_end) for one in claims]
    what = f"the log of {attempt.task.name}, try {attempt.number}, differs"
    return [f"{what}: {len(there)} bytes of {len(wanted)}, left on the workers {rest}, claims {told}"]
