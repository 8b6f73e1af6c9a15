"""The operators' verbs that only see: read their arguments, ask the centre, show.

What is seen is `edge_ws.server.views`'s, on the database or, with `--url`, at a gateway.
"""

from __future__ import annotations

from argparse import Namespace

from edge_ws.cli.output import printable, render_one, show, tell
from edge_ws.cli.reach import reach, split

_ABSENT = {"queues": "all", "team_name": "any"}
_HIDDEN = ("wished_queues", "wished_maintenance", "wished_shutdown", "transport_since", "transport_reason")
"""Of workers, in tables."""


def list_workers(arguments: Namespace) -> int:
    """List the workers."""
    given = {
        "state": arguments.state,
        "worker_name_pattern": arguments.worker_name_pattern,
        "queues": split(arguments.queues),
    }
    with reach(arguments) as centre:
        rows = centre("list-workers", given, changes=False)
    show(rows, arguments.output, _ABSENT, _nothing("worker", given), _HIDDEN)
    return 0


def list_queues(arguments: Namespace) -> int:
    """List the queues."""
    with reach(arguments) as centre:
        rows = centre("list-queues", {}, changes=False)
    show(rows, arguments.output, {}, "there is no queue: no job, and no worker that names one")
    return 0


def list_jobs(arguments: Namespace) -> int:
    """List the jobs."""
    only = {
        "state": arguments.state,
        "queue": arguments.queue,
        "worker": arguments.edge_hostname,
        "dag": arguments.dag_id,
    }
    with reach(arguments) as centre:
        rows = centre("list-jobs", {**only, "limit": arguments.limit}, changes=False)
    show(rows, arguments.output, {"team_name": "none"}, _nothing("job", only))
    return 0


def show_worker(arguments: Namespace) -> int:
    """Show one worker."""
    with reach(arguments) as centre:
        row = centre("show-worker", {"worker": arguments.edge_hostname}, changes=False)
    tell(render_one(row, arguments.output))
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
