"""The operators' verbs: reads their arguments, asks first where many workers are meant, waits, shows.

What they do is `edge_ws.server.admin`'s, on the database or, with `--url`, at a gateway. Loads neither
Airflow nor the store: with `--url` there may be none.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from edge_ws.cli.output import render_one, show
from edge_ws.errors import EdgeWsError, TimedOutError, UsageError
from edge_ws.store.worker_states import AWAY, state_of

LONGEST_WAIT_S = 86400.0
_ABSENT = {"queues": "all", "team_name": "any"}

Outcome = dict[str, Any]
"""What became of one worker's change; see `edge_ws.server.admin`."""


class Centre(Protocol):
    """The data centre, near or far."""

    def __call__(self, operation: str, given: dict[str, object], *, changes: bool) -> Any:  # noqa: ANN401 - JSON
        """Return the operation's result as plain data; parameters that are None are left out."""
        ...


@contextmanager
def _centre(arguments: Namespace) -> Iterator[Centre]:
    if arguments.url:
        from edge_ws.cli.remote import gateway

        with gateway(arguments, os.environ) as centre:
            yield centre
        return
    for name in ("token_file", "ca_file", "allow_insecure"):
        if getattr(arguments, name):
            raise UsageError(f"--{name.replace('_', '-')}: it is of no use without --url")
    from edge_ws.provider.commands import database

    with database() as centre:
        yield centre


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


# To see


def list_workers(arguments: Namespace) -> int:
    """List the workers."""
    given = {
        "state": arguments.state,
        "worker_name_pattern": arguments.worker_name_pattern,
        "queues": _split(arguments.queues),
    }
    with _centre(arguments) as centre:
        rows = centre("list-workers", given, changes=False)
    hidden = ("transport_since", "transport_reason")
    show(rows, arguments.output, _ABSENT, "there is no such worker", hidden)
    return 0


def list_queues(arguments: Namespace) -> int:
    """List the queues."""
    with _centre(arguments) as centre:
        rows = centre("list-queues", {}, changes=False)
    show(rows, arguments.output, {}, "there is no queue: no job, and no worker that names one")
    return 0


def list_jobs(arguments: Namespace) -> int:
    """List the jobs."""
    given = {
        "state": arguments.state,
        "queue": arguments.queue,
        "worker": arguments.edge_hostname,
        "dag": arguments.dag_id,
        "limit": arguments.limit,
    }
    with _centre(arguments) as centre:
        rows = centre("list-jobs", given, changes=False)
    show(rows, arguments.output, {"team_name": "none"}, "there is no such job")
    return 0


def show_worker(arguments: Namespace) -> int:
    """Show one worker."""
    with _centre(arguments) as centre:
        row = centre("show-worker", {"worker": arguments.edge_hostname}, changes=False)
    print(render_one(row, arguments.output))
    return 0


def show_job(arguments: Namespace) -> int:
    """Show one job, the verdict first."""
    names = ("dag_id", "run_id", "task_id", "map_index", "try_number")
    with _centre(arguments) as centre:
        row = centre("show-job", {name: getattr(arguments, name) for name in names}, changes=False)
    if arguments.output == "text":
        print(row.pop("verdict"))
        if (advice := row.pop("advice")) is not None:
            print(advice)
        print()
    print(render_one(row, arguments.output))
    return 0


# To change


def set_worker_concurrency(arguments: Namespace) -> int:
    """Wish for workers' concurrency."""
    return _change(arguments, "set-worker-concurrency", concurrency=arguments.concurrency)


def add_worker_queues(arguments: Namespace) -> int:
    """Wish for more queues."""
    return _change(arguments, "add-worker-queues", queues=_split(arguments.queues))


def remove_worker_queues(arguments: Namespace) -> int:
    """Wish for fewer queues."""
    return _change(arguments, "remove-worker-queues", queues=_split(arguments.queues))


def remote_edge_worker_request_maintenance(arguments: Namespace) -> int:
    """Wish for maintenance."""
    return _change(arguments, "remote-edge-worker-request-maintenance", comment=arguments.comments)


def remote_edge_worker_exit_maintenance(arguments: Namespace) -> int:
    """Wish for an end of maintenance."""
    return _change(arguments, "remote-edge-worker-exit-maintenance")


def remote_edge_worker_update_maintenance_comment(arguments: Namespace) -> int:
    """Say anew why there is maintenance."""
    return _change(arguments, "remote-edge-worker-update-maintenance-comment", comment=arguments.comments)


def shutdown_remote_edge_worker(arguments: Namespace) -> int:
    """Wish that workers leave."""
    return _change(arguments, "shutdown-remote-edge-worker")


def shutdown_all_workers(arguments: Namespace) -> int:
    """Wish that all workers leave that are there."""
    wait_s = _wait_s(arguments)
    with _centre(arguments) as centre:
        rows = centre("list-workers", {}, changes=False)
        here = [row for row in rows if state_of(row["state"]) not in AWAY]
        if here:
            _must_ack(here, wait_s)
            _ask_first([row["worker_name"] for row in here], arguments)
        else:
            print("there is no worker to shut down", file=sys.stderr)
        names = [row["worker_name"] for row in here]
        told, late = _do(centre, "shutdown-remote-edge-worker", {"worker": names}, wait_s)
    return _report(arguments, told, late)


def remove_remote_edge_worker(arguments: Namespace) -> int:
    """Forget workers that are away."""
    return _change(arguments, "remove-remote-edge-worker")


def _change(arguments: Namespace, operation: str, **given: object) -> int:
    wait_s = _wait_s(arguments)
    meant: str | list[str] = arguments.edge_hostname
    with _centre(arguments) as centre:
        is_glob = any(sign in meant for sign in "*?")
        if is_glob or wait_s is not None:
            rows = centre("list-workers", {"worker_name_pattern": meant}, changes=False)
            if is_glob:
                if not rows:
                    raise UsageError(f"no worker's name is like {meant}; see: edge-ws list-workers")
                meant = [row["worker_name"] for row in rows]
            _must_ack(rows, wait_s)
        if is_glob:
            _ask_first(meant, arguments)
        told, late = _do(centre, operation, {"worker": meant, **given}, wait_s)
    return _report(arguments, told, late)


def _wait_s(arguments: Namespace) -> float | None:
    """Return for how long to wait, None for not at all."""
    if not getattr(arguments, "wait", False):
        return None
    wait_s: float = arguments.wait_timeout
    if not (math.isfinite(wait_s) and 0 < wait_s <= LONGEST_WAIT_S):
        raise UsageError(f"--wait-timeout: {wait_s:g} s is not between 0 and {LONGEST_WAIT_S:g} s")
    return wait_s


def _must_ack(rows: Sequence[Outcome], wait_s: float | None) -> None:
    silent = [row["worker_name"] for row in rows if row["kind"] == "edge3"]
    if silent and wait_s is not None:
        raise UsageError(
            f"--wait: edge3's workers never say what they have applied: {', '.join(silent)}; leave it out"
        )


def _ask_first(names: Sequence[str], arguments: Namespace) -> None:
    """Have the operator confirm that these workers are meant.

    Raises:
        UsageError: there is nobody to ask.
        EdgeWsError: it was not confirmed.
    """
    if arguments.yes:
        return
    which = f"{len(names)} worker{'' if len(names) == 1 else 's'}: {', '.join(names)}"
    if not sys.stdin.isatty():
        raise UsageError(f"this is for {which}; nobody can be asked here, so say that you mean it: --yes")
    # What reads our output is not to get the question.
    print(f"{which}\nProceed? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise EdgeWsError("nothing was changed")


def _do(
    centre: Centre, operation: str, given: dict[str, object], wait_s: float | None
) -> tuple[Outcome | list[Outcome], list[str]]:
    """Do it and wait if asked to; return what became of it, and who has not applied it in time."""
    begun = time.monotonic()
    told: Any = centre(operation, given, changes=True) if given["worker"] else []
    outcomes = _listed(told)
    for outcome in outcomes:
        outcome["applied_ms"] = None
    return told, [] if wait_s is None else _wait(centre, outcomes, begun, wait_s)


def _listed(told: Outcome | list[Outcome]) -> list[Outcome]:
    return told if isinstance(told, list) else [told]


def _report(arguments: Namespace, told: Outcome | list[Outcome], late: Sequence[str]) -> int:
    """Print what became of it.

    Raises:
        TimedOutError: some workers have not applied it in time.
    """
    if arguments.output == "json":
        print(json.dumps(told))
    outcomes = _listed(told)
    for outcome in outcomes:
        if outcome["error"]:
            print(outcome["error"], file=sys.stderr)
        elif arguments.output == "plain":
            print(_line(outcome))
    if late:
        which = f"{', '.join(late)} {'has' if len(late) == 1 else 'have'}"
        raise TimedOutError(
            f"{which} not applied it within {arguments.wait_timeout:g} s; the wish stands, and a worker that"
            " is away applies it when it connects"
        )
    return UsageError.exit_code if any(outcome["error"] for outcome in outcomes) else 0


def _line(outcome: Outcome) -> str:
    took = "" if outcome["applied_ms"] is None else f"; applied in {outcome['applied_ms']:.0f} ms"
    return f"{outcome['worker_name']}: {outcome['told']}{took}"


def _wait(centre: Centre, outcomes: Sequence[Outcome], begun: float, wait_s: float) -> list[str]:
    """Wait until the workers have applied it and note how long each took; return those that have not.

    `begun` is the moment before it was wished.
    """
    pending = {outcome["worker_name"]: outcome for outcome in outcomes if outcome["revision"]}
    for name, outcome in pending.items():
        if state_of(outcome["state"]) in AWAY:
            print(f"{name} is {outcome['state']}: waiting until it connects", file=sys.stderr)
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
    return list(pending)
