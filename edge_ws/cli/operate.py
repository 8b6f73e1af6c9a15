"""The operators' verbs: read their arguments, ask the centre, show; ask first where many workers are meant.

What is seen is `edge_ws.server.views`'s, and what is done `edge_ws.server.admin`'s, on the database or, with
`--url`, at a gateway. Loads neither Airflow nor the store: with `--url` there may be none.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_ws.cli import output
from edge_ws.cli.backend import Centre, reach, split
from edge_ws.cli.output import Row, cells, render, render_one, show, tell, terminal_width
from edge_ws.cli.until import until
from edge_ws.errors import EdgeWsError, TimedOutError, UsageError
from edge_ws.store.worker_states import AWAY, WorkerState, state_of
from edge_ws.texts import printable

_GAP = len(" | ")
_WORKERS = (
    "worker_name",
    "state",
    "takes_jobs",
    "queues",
    "jobs_active",
    "concurrency",
    "transport",
    "last_seen_s",
    "airflow_version",
    "edge_ws_version",
    "kind",
    "wished_concurrency",
    "applied",
    "team_name",
    "connection_losses",
    "disk_free_gb",
    "maintenance_until",
    "maintenance_by",
    "maintenance_comment",
)
"""The columns of tables, the most wanted first: as many are shown as the terminal is wide."""
_QUEUES = (
    "queue",
    "queued",
    "running",
    "workers",
    "free_slots",
    "oldest_wait_s",
    "paused_since",
    "paused_by",
    "pause_note",
)
_OF_PAUSES = frozenset({"paused_since", "paused_by", "pause_note"})
_OF_ENDS = frozenset({"maintenance_until", "maintenance_by"})
"""Columns that a table has only where there is something to tell."""
_JOBS = (
    "dag_id",
    "run_id",
    "task_id",
    "state",
    "worker",
    "queue",
    "waited_s",
    "try_number",
    "map_index",
    "phase",
    "slots",
    "priority",
    "team_name",
    "queued_at",
)


def list_workers(arguments: Namespace) -> int:
    """List the workers."""
    given = {
        "state": arguments.state,
        "worker_name_pattern": arguments.worker_name_pattern,
        "queues": split(arguments.queues),
    }
    asked = output.wanted(arguments, limit=arguments.limit)
    waiting = None
    with reach(arguments) as centre:
        rows = centre("list-workers", given, changes=False)
        if rows and arguments.output == "table":
            waiting = _queues_waiting(centre)
    shown = output.arrange(rows, asked)
    if arguments.output in {"table", "plain"} and asked.columns is None:
        columns = _told_of(shown, _WORKERS, _OF_ENDS)
        shown = output.usual([{**row, "takes_jobs": _readiness(row)} for row in shown], columns)
    summary = output.worker_summary(rows, waiting) + output.expiring(rows, time.time()) if rows else ""
    _show(shown, arguments, {"queues": "all", "team_name": "any"}, _nothing("worker", given), summary)
    return 0


def _told_of(rows: Sequence[Row], columns: Sequence[str], rare: frozenset[str]) -> list[str]:
    """Return the columns without those of the rare ones that no row has anything of."""
    told = {name for name in rare if any(row.get(name) is not None for row in rows)}
    return [name for name in columns if name not in rare or name in told]


def _readiness(row: Mapping[str, Any]) -> str | None:
    """Return in a word or two whether a worker takes jobs; None: a gateway of an older release answers."""
    if row.get("takes_jobs") is None:
        return None
    return "yes" if row["takes_jobs"] else f"no: {row['no_jobs_code']}"


def _queues_waiting(centre: Centre) -> int | None:
    try:
        return sum(bool(row.get("queued")) for row in centre("list-queues", {}, changes=False))
    except EdgeWsError:
        # Of less account than the list: it is shown without.
        return None


def list_queues(arguments: Namespace) -> int:
    """List the queues."""
    asked = output.wanted(arguments, limit=arguments.limit)
    with reach(arguments) as centre:
        rows = centre("list-queues", {}, changes=False)
    shown = output.arrange(rows, asked)
    if arguments.output in {"table", "plain"} and asked.columns is None:
        shown = output.usual(shown, _told_of(shown, _QUEUES, _OF_PAUSES))
    summary = output.queue_summary(rows) if rows else ""
    _show(shown, arguments, {}, "there is no queue: no job, and no worker that names one", summary)
    return 0


def list_jobs(arguments: Namespace) -> int:
    """List the jobs."""
    only = {
        "state": arguments.state,
        "queue": arguments.queue,
        "worker": arguments.edge_hostname,
        "dag_id": arguments.dag_id,
    }
    asked = output.wanted(arguments, limit=None)
    with reach(arguments) as centre:
        rows = centre("list-jobs", {**only, "limit": arguments.limit}, changes=False)
    shown = output.arrange(rows, asked)
    if arguments.output in {"table", "plain"} and asked.columns is None:
        shown = output.usual(shown, _JOBS)
    summary = output.job_summary(rows) if rows else ""
    if len(rows) == arguments.limit:
        summary += "; there may be more: --limit"
    _show(shown, arguments, {"team_name": "none"}, _nothing("job", only), summary)
    return 0


def _show(
    rows: Sequence[Row], arguments: Namespace, absent: Mapping[str, str], nothing: str, summary: str
) -> None:
    """Print the rows; as a table no wider than the terminal, with a summary below."""
    if arguments.output != "table" or not rows:
        show(rows, arguments.output, absent, nothing)
        return
    width, left_out = terminal_width(), 0
    if width is not None and arguments.columns is None:
        lines = cells(rows, absent)
        left_out = len(lines[0]) - output.fit(lines, width, _GAP)
    names = list(rows[0])[: len(rows[0]) - left_out]
    table = render([{name: row[name] for name in names} for row in rows], "table", absent)
    if left_out:
        columns = "1 more column" if left_out == 1 else f"{left_out} more columns"
        summary += f" ({columns} in a wider terminal; see --columns and -o json)"
    tell(f"{table}\n\n{printable(summary)}")


def show_worker(arguments: Namespace) -> int:
    """Show one worker, or all whose names are like a pattern."""
    with reach(arguments) as centre:
        found = centre("show-worker", {"worker": arguments.edge_hostname}, changes=False)
    if isinstance(found, list) and arguments.output != "text":
        tell(render(found, arguments.output, {}))
        return 0
    rows = found if isinstance(found, list) else [found]
    tell("\n\n".join(render_one(row, arguments.output) for row in rows))
    return 0


def show_job(arguments: Namespace) -> int:
    """Show one job, the verdict first."""
    names = ("dag_id", "run_id", "task_id", "map_index", "try_number")
    with reach(arguments) as centre:
        row = centre("show-job", {name: getattr(arguments, name) for name in names}, changes=False)
    first = []
    if arguments.output == "text":
        said = (row.pop("verdict"), row.pop("advice"))
        first = [*(printable(one) for one in said if one is not None), ""]
    tell("\n".join([*first, render_one(row, arguments.output)]))
    return 0


def _nothing(what: str, only: dict[str, object]) -> str:
    """Return what to say where there are no rows, with these filters; None: not filtered."""
    is_filtered = any(value is not None for value in only.values())
    return f"there is no {what}{' like that' if is_filtered else ''}"


WAIT_S = 30.0
LONGEST_WAIT_S = 86400.0

Outcome = dict[str, Any]
"""What became of one worker's change; see `edge_ws.server.admin`."""


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of a change."""

    told: Outcome | list[Outcome]
    """As the centre has told it: one, or a list where many were meant."""
    late: str = ""
    """Who has not applied it in time, as a sentence."""

    @property
    def outcomes(self) -> list[Outcome]:
        """All of them, as a list."""
        return self.told if isinstance(self.told, list) else [self.told]


def set_worker_concurrency(arguments: Namespace) -> int:
    """Wish for workers' concurrency."""
    wanted = arguments.concurrency
    return _change(
        arguments, "set-worker-concurrency", f"set the concurrency to {wanted} for", concurrency=wanted
    )


def add_worker_queues(arguments: Namespace) -> int:
    """Wish for more queues."""
    queues = split(arguments.queues)
    return _change(arguments, "add-worker-queues", f"add the queues {arguments.queues} to", queues=queues)


def remove_worker_queues(arguments: Namespace) -> int:
    """Wish for fewer queues."""
    doing = f"remove the queues {arguments.queues} from"
    return _change(arguments, "remove-worker-queues", doing, queues=split(arguments.queues))


def remote_edge_worker_request_maintenance(arguments: Namespace) -> int:
    """Wish for maintenance."""
    operation = "remote-edge-worker-request-maintenance"
    # Not an attribute's name: `for` is a word of Python's.
    for_time = getattr(arguments, "for")
    if arguments.until is not None and for_time is not None:
        raise UsageError("--until and --for: give one of them")
    ends_at = None if arguments.until is None else until(arguments.until)
    end: dict[str, object] = {"until": ends_at, "for": for_time}
    return _change(arguments, operation, "begin the maintenance of", comment=arguments.comments, **end)


def remote_edge_worker_exit_maintenance(arguments: Namespace) -> int:
    """Wish for an end of maintenance."""
    return _change(arguments, "remote-edge-worker-exit-maintenance", "end the maintenance of")


def remote_edge_worker_update_maintenance_comment(arguments: Namespace) -> int:
    """Say anew why there is maintenance."""
    operation = "remote-edge-worker-update-maintenance-comment"
    return _change(arguments, operation, "change the maintenance comment of", comment=arguments.comments)


def shutdown_remote_edge_worker(arguments: Namespace) -> int:
    """Wish that workers leave."""
    return _change(arguments, "shutdown-remote-edge-worker", "shut down", deadline=arguments.deadline)


def shutdown_all_workers(arguments: Namespace) -> int:
    """Wish that all workers leave that are there, or may be: those that were cut off without a goodbye."""
    wait_s = _wait_s(arguments)
    done = _Done([])
    with reach(arguments) as centre:
        rows = centre("list-workers", {}, changes=False)
        names = [row["worker_name"] for row in rows if _may_be_there(row)]
        if names:
            _ask_first("shut down", names, arguments)
            given = {"worker": names, "deadline": arguments.deadline}
            done = _do(centre, "shutdown-remote-edge-worker", given, wait_s)
    # What is left away has said goodbye: there was nothing to shut down.
    done = _Done([one for one in done.outcomes if one["error"] or _is_told(one)], done.late)
    if not done.told:
        _say("there is no worker to shut down")
    return _report(arguments, done)


def _may_be_there(row: Outcome) -> bool:
    state = state_of(row["state"])
    return state not in AWAY or (row["kind"] == "edge-ws" and state is not WorkerState.OFFLINE)


def _is_told(outcome: Outcome) -> bool:
    return bool(outcome["revision"]) or state_of(outcome["state"]) not in AWAY


def remove_remote_edge_worker(arguments: Namespace) -> int:
    """Forget workers that are away."""
    return _change(arguments, "remove-remote-edge-worker", "forget")


def _change(arguments: Namespace, operation: str, doing: str, **given: object) -> int:
    """Do it with the workers of these names, and with those whose names are like them.

    `doing` is the same in words, for the question.
    """
    wait_s = _wait_s(arguments)
    named: list[str] = arguments.edge_hostname
    meant: str | list[str] = named if len(named) > 1 else named[0]
    with reach(arguments) as centre:
        if any(map(_is_pattern, named)):
            meant = list(dict.fromkeys(name for one in named for name in _names_like(centre, one)))
            _ask_first(doing, meant, arguments)
        elif wait_s is not None and isinstance(meant, str):
            rows = centre("list-workers", {"worker_name_pattern": meant}, changes=False)
            if any(row["kind"] == "edge3" for row in rows):
                raise UsageError(
                    f"--wait: {meant} is an edge3 worker, which never says what it has applied;"
                    " leave --wait out"
                )
        done = _do(centre, operation, {"worker": meant, **given}, wait_s)
    return _report(arguments, done)


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?")


def _names_like(centre: Centre, name: str) -> list[str]:
    """Return the workers whose names are like a pattern, in their order; a name means itself."""
    if not _is_pattern(name):
        return [name]
    rows = centre("list-workers", {"worker_name_pattern": name}, changes=False)
    if not rows:
        raise UsageError(f"no worker matches {name}; see: edge-ws list-workers")
    return [row["worker_name"] for row in rows]


def _wait_s(arguments: Namespace) -> float | None:
    """Return for how long to wait, None for not at all."""
    given: float | None = getattr(arguments, "wait_timeout", None)
    if not getattr(arguments, "wait", False):
        if given is not None:
            raise UsageError("--wait-timeout: it is of no use without --wait")
        return None
    wait_s = WAIT_S if given is None else given
    if not 0 < wait_s <= LONGEST_WAIT_S:
        raise UsageError(
            f"--wait-timeout: give more than 0 and at most {LONGEST_WAIT_S:g} seconds, not {wait_s:g}"
        )
    return wait_s


def _ask_first(doing: str, names: Sequence[str], arguments: Namespace) -> None:
    """Have the operator confirm that this is to be done with these workers.

    Raises:
        UsageError: there is nobody to ask.
        EdgeWsError: it was not confirmed.
    """
    if arguments.yes:
        return
    question = printable(f"{doing} {_count(names)}: {', '.join(names)}")
    if not sys.stdin.isatty():
        raise UsageError(f"this is to {question}; there is no terminal to ask at; confirm with --yes")
    # What reads our output is not to get the question.
    print(f"{question}\nProceed? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise EdgeWsError("nothing was changed")


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} worker{'' if len(names) == 1 else 's'}"


def _say(sentence: str) -> None:
    print(printable(sentence), file=sys.stderr, flush=True)


def _do(centre: Centre, operation: str, given: dict[str, object], wait_s: float | None) -> _Done:
    """Do it, and wait if asked to."""
    begun = time.monotonic()
    done = _Done(centre(operation, given, changes=True))
    for outcome in done.outcomes:
        outcome["applied_ms"] = None
        if outcome["error"]:
            _say(outcome["error"])
    if wait_s is None:
        return done
    silent = [one["worker_name"] for one in done.outcomes if one["kind"] == "edge3"]
    if silent:
        _say(f"not waited for: {', '.join(silent)} (edge3's workers never say what they have applied)")
    pending = [outcome for outcome in done.outcomes if outcome["revision"]]
    if not pending:
        return done
    try:
        _say_what_is_waited_for(centre, pending, wait_s)
        return _Done(done.told, _wait(centre, pending, begun, wait_s))
    except KeyboardInterrupt:
        _say("stopped waiting; the wish stands")
        raise


def _say_what_is_waited_for(centre: Centre, pending: Sequence[Outcome], wait_s: float) -> None:
    names = [outcome["worker_name"] for outcome in pending]
    for outcome in pending:
        # What a single one is told says so as well.
        if len(pending) > 1 and state_of(outcome["state"]) in AWAY:
            _say(f"{outcome['worker_name']} is {outcome['state']}: waiting until it connects")
    if not centre.has_gateway():
        _say("no gateway is alive, so nobody can tell workers of it; see: edge-ws check")
    who, until = (names[0], "it has") if len(names) == 1 else (_count(names), "they have")
    told = {outcome["told"] for outcome in pending}
    what = told.pop() if len(told) == 1 else "told"
    _say(f"{who}: {what}; waiting up to {wait_s:g} s until {until} applied it")


def _wait(centre: Centre, outcomes: Sequence[Outcome], begun: float, wait_s: float) -> str:
    """Wait until the workers have applied it and note how long each took; return a sentence on those left.

    `begun` is the moment before it was wished.
    """
    pending = {outcome["worker_name"]: outcome for outcome in outcomes}
    while pending:
        applied = centre(
            "applied", {"worker": next(iter(pending)) if len(pending) == 1 else None}, changes=False
        )
        waited_s = time.monotonic() - begun
        for name, outcome in list(pending.items()):
            if applied.get(name, 0) >= outcome["revision"]:
                outcome["applied_ms"] = round(waited_s * 1000, 1)
                del pending[name]
        if waited_s >= wait_s:
            break
        if pending:
            # Ask often at first, when each millisecond counts in the answer, and seldom later.
            time.sleep(min(max(0.005, waited_s / 10), 0.25, wait_s - waited_s))
    if not pending:
        return ""
    return (
        f"{', '.join(pending)} {'has' if len(pending) == 1 else 'have'} not applied it within {wait_s:g} s;"
        " the wish stands, and a worker that is away applies it when it connects"
        + ("" if centre.has_gateway() else "; no gateway is alive that it could connect to: edge-ws check")
    )


def _report(arguments: Namespace, done: _Done) -> int:
    """Print what became of it.

    Raises:
        TimedOutError: some workers have not applied it in time.
    """
    if arguments.output == "json":
        tell(json.dumps(done.told))
    else:
        for outcome in done.outcomes:
            if not outcome["error"]:
                tell(_line(outcome))
    if done.late:
        raise TimedOutError(done.late)
    return UsageError.exit_code if any(outcome["error"] for outcome in done.outcomes) else 0


def _line(outcome: Outcome) -> str:
    took = "" if outcome["applied_ms"] is None else f"; applied in {outcome['applied_ms']:.0f} ms"
    return printable(f"{outcome['worker_name']}: {outcome['told']}{took}")
