"""Which page of the fleet is asked for, and the page: filtered, sorted and cut from a picture. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

import orjson
from starlette.datastructures import QueryParams

from edge_ws.errors import UsageError
from edge_ws.server.fleet_picture import STATUSES, Picture, Seen
from edge_ws.server.view_rows import Row
from edge_ws.server.views import JOB_STATES
from edge_ws.store.view_records import JobView

PAGE = 50
MOST = 500
"""Rows of a page."""
MOST_VALUES = 50
"""Of one filter."""
LONGEST = 260
"""Characters of a value: no name that there is has more."""
MOST_RENDERED = 300
"""Pages of one picture that are kept."""
NOBODYS = "-"
"""Of a filter: no team, or no transport."""
OPEN = "open"
"""Of the filter of jobs' states: not over."""
WITHOUT_JOBS = frozenset({"workers", "queues", "summary"})
"""Views that show no job."""

_PAGING = frozenset({"of", "offset", "limit", "sort", "desc"})
_FILTERS: Mapping[str, frozenset[str]] = {
    "workers": frozenset({"q", "queue", "state", "team", "transport", "version_mismatch"}),
    "worker": frozenset({"worker"}),
    "queues": frozenset({"q"}),
    "jobs": frozenset({"q", "dag_id", "run_id", "task_id", "map_index", "queue", "worker", "state"}),
    "summary": frozenset(),
}
VIEWS = tuple(_FILTERS)

_T = TypeVar("_T")
_Key = Callable[[_T], object]


def _of_sysinfo(name: str) -> _Key[Seen]:
    return lambda one: one.view.sysinfo.get(name)


_WORKER_KEYS: Mapping[str, _Key[Seen]] = {
    "worker_name": lambda one: one.view.name,
    "status": lambda one: STATUSES.index(one.status),
    "state": lambda one: one.view.state,
    "team_name": lambda one: one.view.team,
    "transport": lambda one: one.view.transport,
    "queues": lambda one: ",".join(one.view.queues or ()),
    "concurrency": lambda one: one.view.concurrency,
    "slots_used": lambda one: one.view.busy,
    "free_slots": lambda one: one.view.free if one.takes_jobs else 0,
    "jobs_active": lambda one: one.view.jobs,
    "last_seen_at": lambda one: one.view.seen_at,
    "version_mismatch": lambda one: one.mismatch,
    "token_expires": lambda one: one.view.token.expires_at if one.view.token is not None else None,
    **{
        name: _of_sysinfo(name)
        for name in (
            "cpu_usage",
            "memory_usage",
            "disk_free_gb",
            "disk_usage",
            "sys_load",
            "round_trip_ms",
            "edge_ws_version",
            "airflow_version",
        )
    },
}
_JOB_KEYS: Mapping[str, _Key[JobView]] = {
    "dag_id": lambda one: one.key.dag_id,
    "run_id": lambda one: one.key.run_id,
    "task_id": lambda one: one.key.task_id,
    "map_index": lambda one: one.key.map_index,
    "state": lambda one: one.state,
    "queue": lambda one: one.queue,
    "worker": lambda one: one.worker,
    "slots": lambda one: one.slots,
    "priority": lambda one: one.priority,
    "team_name": lambda one: one.team,
    "queued_at": lambda one: one.queued_at.timestamp() if one.queued_at is not None else None,
    "offered_at": lambda one: one.claim.offered_at if one.claim is not None else None,
    "ended_at": lambda one: one.claim.ended_at if one.claim is not None else None,
}
_QUEUE_KEYS = ("queue", "queued", "running", "workers", "free_slots", "oldest_queued_at", "workers_all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A page that is asked for; two that are the same are answered by the same bytes."""

    of: str
    filters: tuple[tuple[str, tuple[str, ...]], ...] = ()
    sort: str = ""
    """Empty: the view's own order."""
    descending: bool = False
    offset: int = 0
    limit: int = PAGE

    @property
    def jobs(self) -> bool:
        """Whether it takes a picture with jobs."""
        return self.of not in WITHOUT_JOBS

    def values(self, name: str) -> tuple[str, ...] | None:
        """Return what a filter lets through; None: everything."""
        return dict(self.filters).get(name)


def read_query(params: QueryParams) -> Query:
    """Return the page that is asked for.

    Raises:
        UsageError: there is no such page.
    """
    of = _one(params, "of") or ""
    if of not in _FILTERS:
        raise UsageError(f"of: there is no view {of[:60]!r}; there are {', '.join(VIEWS)}")
    known = _FILTERS[of]
    unknown = sorted(params.keys() - known - _PAGING)
    if unknown:
        raise UsageError(f"the view {of} takes {', '.join(sorted(known | _PAGING))}, not {unknown[0][:60]!r}")
    filters = tuple((name, values) for name in sorted(known) if (values := _filter(params, name)))
    sort = _one(params, "sort") or ""
    if sort and sort not in _sorts(of):
        raise UsageError(f"sort: the view {of} can be sorted by {', '.join(_sorts(of)) or 'nothing'}")
    if of == "worker" and len(dict(filters).get("worker", ())) != 1:
        raise UsageError("the view worker needs worker: a worker's name")
    return Query(
        of=of,
        filters=filters,
        sort=sort,
        descending=_one(params, "desc") in {"1", "true"},
        offset=_number(params, "offset", 0, most=10_000_000),
        limit=_number(params, "limit", PAGE, most=MOST),
    )


def _sorts(of: str) -> Collection[str]:
    keys: Mapping[str, Collection[str]] = {"workers": _WORKER_KEYS, "jobs": _JOB_KEYS, "queues": _QUEUE_KEYS}
    return keys.get(of, ())


def _one(params: QueryParams, name: str) -> str | None:
    given = params.getlist(name)
    if len(given) > 1:
        raise UsageError(f"{name} is there more than once")
    return given[0] if given else None


def _number(params: QueryParams, name: str, default: int, *, most: int) -> int:
    text = _one(params, name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
        raise UsageError(f"{name}: {text[:60]!r} is not a whole number from 0 to {most}")
    return int(text)


def _filter(params: QueryParams, name: str) -> tuple[str, ...]:
    values = tuple(dict.fromkeys(one for one in params.getlist(name) if one))
    if len(values) > MOST_VALUES or any(len(one) > LONGEST for one in values):
        raise UsageError(f"{name}: at most {MOST_VALUES} values of {LONGEST} characters fit")
    if name == "map_index" and not all(one.removeprefix("-").isdigit() for one in values):
        raise UsageError("map_index: a whole number, -1 for a task that is not mapped")
    if name == "state":
        _check_states(values, {*STATUSES, *JOB_STATES, OPEN})
    return values


def _check_states(values: Iterable[str], known: Collection[str]) -> None:
    for one in values:
        if one not in known:
            raise UsageError(f"state: there is no {one[:60]!r}; there are {', '.join(sorted(known))}")


# The page


def render(picture: Picture, query: Query) -> bytes:
    """Return the page as JSON, without what differs between two who ask for it."""
    known = picture.rendered.get(query)
    if known is None:
        if len(picture.rendered) >= MOST_RENDERED:
            picture.rendered.clear()
        known = picture.rendered[query] = orjson.dumps(_page(picture, query))
    return known


def _page(picture: Picture, query: Query) -> Row:
    make = {"workers": _workers, "worker": _worker, "queues": _queues, "jobs": _jobs, "summary": _nothing}
    return {
        "of": query.of,
        "offset": query.offset,
        "limit": query.limit,
        **make[query.of](picture, query),
        "summary": picture.summary,
    }


def _cut(rows: Sequence[_T], query: Query) -> Sequence[_T]:
    return rows[query.offset : query.offset + query.limit]


def _sorted(rows: Iterable[_T], key: _Key[_T] | None, query: Query) -> list[_T]:
    """Return the rows in order; those without a value come last, whichever way the others go."""
    if key is None:
        return list(rows)
    valued = [(value, one) for one in rows if (value := key(one)) is not None]
    without = [one for one in rows if key(one) is None]
    # What a worker says of itself may be a text in one row and a number in another.
    numbers = [pair for pair in valued if isinstance(pair[0], int | float)]
    texts = [pair for pair in valued if not isinstance(pair[0], int | float)]
    numbers.sort(key=lambda pair: pair[0], reverse=query.descending)  # type: ignore[arg-type, return-value]
    texts.sort(key=lambda pair: str(pair[0]), reverse=query.descending)
    return [*(one for _, one in (*numbers, *texts)), *without]


def _nothing(picture: Picture, query: Query) -> Row:  # noqa: ARG001 - as the others
    return {"total": 0, "rows": []}


def _workers(picture: Picture, query: Query) -> Row:
    among = [one for one in picture.workers if _is_meant(one, query)]
    totals = Counter(one.status for one in among)
    states = query.values("state")
    found = among if states is None else [one for one in among if one.status in states]
    found = _sorted(found, _WORKER_KEYS.get(query.sort), query)
    return {
        "total": len(found),
        "rows": [picture.worker_row(one) for one in _cut(found, query)],
        "totals": {status: totals[status] for status in STATUSES if totals[status]},
    }


def _is_meant(one: Seen, query: Query) -> bool:
    queues = query.values("queue")
    return (
        _has_name(one.view.name, query.values("q"))
        and (queues is None or one.served is None or not one.served.isdisjoint(queues))
        and _is_any(one.view.team, query.values("team"))
        and _is_any(one.view.transport, query.values("transport"))
        and (query.values("version_mismatch") is None or one.mismatch is not None)
    )


def _has_name(name: str, asked: tuple[str, ...] | None) -> bool:
    """Tell whether a name is like one of the patterns, or has one of the texts in it."""
    if asked is None:
        return True
    name = name.lower()
    return any(
        fnmatchcase(name, one) if "*" in one or "?" in one else one in name for one in map(str.lower, asked)
    )


def _is_any(value: str | None, asked: tuple[str, ...] | None) -> bool:
    return asked is None or (value or NOBODYS) in asked


def _worker(picture: Picture, query: Query) -> Row:
    (name,) = query.values("worker") or ("",)
    row = picture.whole_worker(name)
    return {"total": int(row is not None), "rows": [] if row is None else [row], "row": row}


def _queues(picture: Picture, query: Query) -> Row:
    among = [one for one in picture.queues if _has_name(str(one["queue"]), query.values("q"))]
    key: _Key[Row] | None = (lambda one: one[query.sort]) if query.sort else None
    found = _sorted(among, key, query)
    return {"total": len(found), "rows": _cut(found, query)}


def _jobs(picture: Picture, query: Query) -> Row:
    among = [one for one in picture.record.jobs or () if _is_job_meant(one, query)]
    totals = Counter(one.state for one in among)
    states = query.values("state")
    found = among if states is None else [one for one in among if _is_in(one, states)]
    found = _sorted(found, _JOB_KEYS.get(query.sort), query)
    return {
        "total": len(found),
        "rows": [picture.job_row(one) for one in _cut(found, query)],
        "totals": dict(totals),
        "complete": picture.record.has_all_jobs,
    }


def _is_job_meant(one: JobView, query: Query) -> bool:
    key = one.key
    exact = {
        "dag_id": key.dag_id,
        "run_id": key.run_id,
        "task_id": key.task_id,
        "map_index": str(key.map_index),
        "queue": one.queue,
        "worker": one.worker or NOBODYS,
    }
    for name, asked in query.filters:
        if name in exact and exact[name] not in asked:
            return False
    asked_q = query.values("q")
    return asked_q is None or any(_has_name(text, asked_q) for text in (key.dag_id, key.run_id, key.task_id))


def _is_in(one: JobView, states: Collection[str]) -> bool:
    claim = one.held_by
    is_open = one.state in {"queued", "restarting", "running"}
    return (
        one.state in states
        or (OPEN in states and is_open)
        or (claim is not None and claim.phase.value in states)
    )
