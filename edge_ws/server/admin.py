"""What operators ask and wish, each operation described once: for both command lines and for `v1/admin/`.

An operation takes checked parameters and returns what JSON can hold. Knows no HTTP, no terminal and no SQL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from edge_ws.errors import EdgeWsError, UnreachableError, UsageError
from edge_ws.protocol.ids import GatewayId
from edge_ws.server import happenings, queue_admin, token_admin, views
from edge_ws.server.figure_rows import figures_row
from edge_ws.server.parameters import (
    LONGEST_DEADLINE_S,
    Kind,
    Parameter,
    check_comment,
    check_concurrency,
    check_moment,
    check_one_or_more_queues,
    check_queues,
    check_states,
)
from edge_ws.server.ports import Audit, AuditEntry, Tasks
from edge_ws.store.events import EventStore, NewEvent
from edge_ws.store.figures import FigureStore
from edge_ws.store.operators import MOST_AHEAD_S, End, OperatorStore
from edge_ws.store.queues import QueueStore
from edge_ws.store.records import Wished
from edge_ws.store.store import Store
from edge_ws.store.tokens import TokenStore
from edge_ws.store.views import ViewStore
from edge_ws.store.worker_states import AWAY, WorkerState, state_of
from edge_ws.times import moment, seconds

log = logging.getLogger(__name__)

LONGEST_USER = 100
"""Characters of a user's name that are written there."""
_GLOB = frozenset("*?")

Row = dict[str, object]


Own = tuple[GatewayId, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an operation, its parameters checked."""

    operators: OperatorStore
    views: ViewStore
    events: EventStore
    figures: FigureStore
    tokens: TokenStore
    queues: QueueStore
    given: Mapping[str, Any]
    user: str | None = None
    """Who asks by HTTP; None: the command line, on the database."""
    tasks: Tasks | None = None
    """Asks Airflow about a task; None: nobody is asked."""
    name: str = ""
    """The operation's."""
    operator: str | None = None
    """Who runs the command line; None: by HTTP, or not known."""
    audit: Audit | None = None
    """Where changes are written down."""
    own: Own | None = None
    """What the gateway that is asked has in memory of its last hour."""

    def note(self, workers: Sequence[str], refused: str | None = None) -> None:
        """Write down what is asked of these workers; before it is done, or why it was refused."""
        if self.audit is None:
            return
        self._record("worker_name", workers, refused)

    def note_queues(self, queues: Sequence[str], refused: str | None = None) -> None:
        """Likewise of these queues."""
        self._record("queue", queues, refused)

    def _record(self, what: str, names: Sequence[str], refused: str | None) -> None:
        if self.audit is None:
            return
        asked = {one: value for one, value in self.given.items() if one not in {"worker", "queue", "yes"}}
        more = {} if refused is None else {"refused": refused}
        self.audit.record(
            [
                AuditEntry(event=self.name, user=self.user, extra={what: name, **asked, **more})
                for name in names
            ]
        )

    def note_token(self, refused: str | None = None) -> None:
        """Write down what is asked of a token; before it is done, or why it was refused."""
        if self.audit is not None:
            more = {} if refused is None else {"refused": refused}
            self.audit.record([AuditEntry(event=self.name, user=self.user, extra={**self.given, **more})])

    @property
    def by(self) -> str | None:
        """Who asks, as far as that is known."""
        return self.user if self.user is not None else self.operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation; its name is the verb's of the command line."""

    changes: bool
    """It changes something: it takes the right to manage, and by HTTP it is a POST."""
    parameters: Mapping[str, Parameter]
    run: Callable[[Call], object]
    formerly: Mapping[str, str] = field(default_factory=dict)
    """Old names of parameters."""
    manages: bool = False
    """It changes nothing, and takes the right to manage all the same."""

    @property
    def is_for_managers(self) -> bool:
        """Whether it takes the right to manage."""
        return self.changes or self.manages


def perform(
    store: Store,
    name: str,
    given: Mapping[str, object],
    *,
    user: str | None = None,
    operator: str | None = None,
    tasks: Tasks | None = None,
    audit: Audit | None = None,
    own: Own | None = None,
    note: Callable[[list[NewEvent]], None] | None = None,
) -> object:
    """Check the parameters and do what they ask; the result is plain data for JSON (blocking).

    Every change is in the audit log before it is made, and among the events afterwards.

    Args:
        store: the database.
        name: the operation's.
        given: its parameters.
        user: who asks by HTTP; None: the command line.
        operator: who sits at the command line, as far as that is known.
        tasks: asks Airflow about a task.
        audit: where changes are written down.
        own: the figures of the gateway that is asked.
        note: takes what was changed as events; None: it is written at once.

    Raises:
        UsageError: there is no such operation, a parameter is wrong, or the store refuses.
        UnreachableError: the database, or the audit log, is away.
    """
    operation = OPERATIONS.get(name)
    if operation is None:
        raise UsageError(f"there is no {name[:60]!r}; there are {', '.join(OPERATIONS)}")
    # What was public under another name once is taken under it still.
    for old, new in operation.formerly.items():
        if old in given and new in given:
            raise UsageError(f"{old} is an old name of {new}: give one of them")
    given = {operation.formerly.get(one, one): value for one, value in given.items()}
    unknown = sorted(set(given) - set(operation.parameters))
    if unknown:
        known = ", ".join(operation.parameters) or "no parameters"
        raise UsageError(f"{name} takes {known}, not {unknown[0][:60]!r}")
    for one, parameter in operation.parameters.items():
        if parameter.required and given.get(one) is None:
            raise UsageError(f"{name} needs {one}: {parameter.kind.value}")
    checked = {
        one: operation.parameters[one].read(one, value) for one, value in given.items() if value is not None
    }
    result = operation.run(
        Call(
            operators=store.operators,
            views=store.views,
            events=store.events,
            figures=store.figures,
            tokens=store.tokens,
            queues=store.queues,
            given=checked,
            user=user,
            operator=operator,
            tasks=tasks,
            name=name,
            audit=audit,
            own=own,
        )
    )
    if operation.changes:
        _tell(happenings.doings(name, checked, result, user or operator), note or store.events.add)
    return result


def _tell(events: list[NewEvent], note: Callable[[list[NewEvent]], None]) -> None:
    """Have what was done noted; it is done, whatever becomes of that."""
    try:
        if events:
            note(events)
    except EdgeWsError as error:
        log.warning("An operator's change was made, but could not be written to the events: %s", error)


# Views


def _list_workers(call: Call) -> list[Row]:
    return views.list_workers(call.views, **call.given)


def _applied(call: Call) -> dict[str, int]:
    """Return the revision that the worker has acknowledged, or each has: what `--wait` waits for."""
    name = call.given.get("worker")
    return call.operators.all_applied() if name is None else {name: call.operators.applied(name)}


def _list_jobs(call: Call) -> list[Row]:
    return views.list_jobs(call.views, **call.given)


def _list_queues(call: Call) -> list[Row]:
    return views.list_queues(call.views)


def _show_worker(call: Call) -> Row | list[Row]:
    worker = call.given["worker"]
    if _GLOB.isdisjoint(worker):
        return views.show_worker(call.views, worker)
    return views.show_workers(call.views, worker)


def _show_job(call: Call) -> Row:
    return views.show_job(call.views, **call.given, tasks=call.tasks)


def _events(call: Call) -> list[Row]:
    return happenings.list_events(call.events, **call.given)


def _figures(call: Call) -> Row:
    gateways, now = call.figures.figures()
    return figures_row(gateways, now, call.own)


# Changes


def _change(wish: Callable[[Call, str], Wished]) -> Callable[[Call], object]:
    """Return the operation that does `wish` for each worker that is meant."""

    def run(call: Call) -> object:
        asked = call.given["worker"]
        if isinstance(asked, str) and _GLOB.isdisjoint(asked):
            call.note([asked])
            return _told(_wished(wish, call, asked))
        if isinstance(asked, str):
            _must_be_sure(call, f"{asked} may mean many workers")
            asked = [worker.name for worker in call.views.workers(asked)]
        call.note(asked)
        return [_one_of_many(wish, call, name) for name in asked]

    return run


def _shutdown_all(call: Call) -> list[Row]:
    _must_be_sure(call, "it is for all workers")
    # One that was cut off may be running, and is told when it is heard again.
    may_be = [one.name for one in call.views.workers() if state_of(one.state) is not WorkerState.OFFLINE]
    call.note(may_be)
    rows = [_one_of_many(_shutdown, call, name) for name in may_be]
    return [row for row in rows if row["error"] or row["revision"] or state_of(str(row["state"])) not in AWAY]


def _must_be_sure(call: Call, why: str) -> None:
    if not call.given.get("yes"):
        raise UsageError(f"{why}; confirm it: yes must be true")


def _wished(wish: Callable[[Call, str], Wished], call: Call, name: str) -> Wished:
    try:
        return wish(call, name)
    except UsageError as error:
        call.note([name], refused=str(error))
        raise


def _one_of_many(wish: Callable[[Call, str], Wished], call: Call, name: str) -> Row:
    """Do it for one worker; if it fails, the others are still changed.

    Raises:
        UnreachableError: the database is away, for the others as well.
    """
    try:
        return _told(_wished(wish, call, name))
    except UnreachableError:
        raise
    except UsageError as error:
        why = str(error)
    except Exception as error:
        log.exception("Nothing is changed of worker %s, by a fault of this program", name)
        why = (
            f"a fault of this program ({type(error).__name__}), of which the log says more; please report it"
        )
    nothing = dict.fromkeys(("kind", "state", "revision", "told"))
    return {"worker_name": name, **nothing, "error": why}


def _told(wished: Wished) -> Row:
    row = asdict(wished)
    return {"worker_name": row.pop("worker"), **row, "error": None}


def _set_concurrency(call: Call, name: str) -> Wished:
    return call.operators.wish_concurrency(name, call.given["concurrency"])


def _add_queues(call: Call, name: str) -> Wished:
    return call.operators.add_queues(name, call.given["queues"])


def _remove_queues(call: Call, name: str) -> Wished:
    return call.operators.remove_queues(name, call.given["queues"])


def _by(user: str, did: str) -> str:
    # Cut, so that the longest comment has room behind it.
    return f"[{datetime.now(UTC):%Y-%m-%d %H:%M}] - {user[:LONGEST_USER]} {did}"


def _request_maintenance(call: Call, name: str) -> Wished:
    comment = call.given["comment"]
    until, for_s = call.given.get("until"), call.given.get("for")
    if until is not None and for_s is not None:
        raise UsageError("until and for: give one of them")
    end = None if until is None and for_s is None else End(at=_epoch(until), in_s=for_s)
    if call.user is not None:
        # In the form that edge3's page writes and shows (worker_api/routes/ui.py).
        comment = f"{_by(call.user, 'put node into maintenance mode')}\nComment: {comment}"
    return call.operators.request_maintenance(name, comment, end=end, by=call.by)


def _epoch(text: str | None) -> float | None:
    return None if text is None else moment(text).timestamp()


def _update_comment(call: Call, name: str) -> Wished:
    by = None if call.user is None else _by(call.user, "updated comment:")
    return call.operators.update_maintenance_comment(name, call.given["comment"], by)


def _exit_maintenance(call: Call, name: str) -> Wished:
    return call.operators.exit_maintenance(name)


def _shutdown(call: Call, name: str) -> Wished:
    return call.operators.request_shutdown(name, call.given.get("deadline"))


def _remove(call: Call, name: str) -> Wished:
    return call.operators.remove_worker(name)


# Tokens


def _change_token(change: Callable[..., Row], parameters: Mapping[str, Parameter]) -> Operation:
    """Return the operation that does `change`, one of `token_admin`, and has it written down before."""

    def run(call: Call) -> Row:
        call.note_token()
        try:
            return change(call.tokens, **call.given)
        except UsageError as error:
            call.note_token(refused=str(error))
            raise

    return Operation(changes=True, parameters=parameters, run=run)


def _see_tokens(see: Callable[..., list[Row]], parameters: Mapping[str, Parameter]) -> Operation:
    return Operation(
        changes=False, manages=True, parameters=parameters, run=lambda call: see(call.tokens, **call.given)
    )


def _change_queues(wish: Callable[..., Row]) -> Callable[[Call], object]:
    """Return the operation that does `wish` for each queue that is meant."""

    def run(call: Call) -> object:
        asked = call.given["queue"]
        names = [asked] if isinstance(asked, str) else asked
        call.note_queues(names)
        rows = []
        for name in names:
            try:
                rows.append(wish(call.queues, call.views, name, note=call.given.get("note"), by=call.by))
            except UsageError as error:
                call.note_queues([name], refused=str(error))
                if isinstance(asked, str):
                    raise
                rows.append({"queue": name, "paused": None, "told": None, "error": str(error)})
        return rows[0] if isinstance(asked, str) else rows

    return run


# What there is


def _reads(run: Callable[[Call], object], **parameters: Parameter) -> Operation:
    return Operation(changes=False, parameters=parameters, run=run)


_SURE = Parameter(kind=Kind.SWITCH)


def _changes(wish: Callable[[Call, str], Wished], **parameters: Parameter) -> Operation:
    worker = Parameter(kind=Kind.WORKERS, required=True)
    return Operation(
        changes=True, parameters={"worker": worker, **parameters, "yes": _SURE}, run=_change(wish)
    )


_TEXT = Parameter(kind=Kind.TEXT)
_THIS = Parameter(kind=Kind.TEXT, required=True)
_NUMBER = Parameter(kind=Kind.NUMBER)
_STATES = Parameter(kind=Kind.TEXTS, check=check_states)
_QUEUES = Parameter(kind=Kind.TEXTS, required=True, check=check_queues)
_OF_QUEUES = Parameter(kind=Kind.TEXTS, check=check_queues)
_CONCURRENCY = Parameter(kind=Kind.NUMBER, required=True, check=check_concurrency)
_COMMENT = Parameter(kind=Kind.TEXT, required=True, check=check_comment)
_NOTE = Parameter(kind=Kind.TEXT, required=True, check=partial(check_comment, name="note"))
_QUEUE = Parameter(kind=Kind.QUEUES, required=True, check=check_one_or_more_queues)
_UNTIL = Parameter(kind=Kind.TEXT, check=check_moment)
_FOR = Parameter(kind=Kind.LENGTH, check=partial(seconds, name="for", least_s=1.0, most_s=MOST_AHEAD_S))
_DEADLINE = Parameter(
    kind=Kind.LENGTH, check=partial(seconds, name="deadline", least_s=0.0, most_s=LONGEST_DEADLINE_S)
)

OPERATIONS: Mapping[str, Operation] = {
    "list-workers": _reads(_list_workers, state=_STATES, worker_name_pattern=_TEXT, queues=_OF_QUEUES),
    "list-jobs": replace(
        _reads(_list_jobs, state=_TEXT, queue=_TEXT, worker=_TEXT, dag_id=_TEXT, limit=_NUMBER),
        formerly={"dag": "dag_id"},
    ),
    "list-queues": _reads(_list_queues),
    "show-worker": _reads(_show_worker, worker=_THIS),
    "show-job": _reads(
        _show_job, dag_id=_THIS, run_id=_THIS, task_id=_THIS, map_index=_NUMBER, try_number=_NUMBER
    ),
    "applied": _reads(_applied, worker=_TEXT),
    "events": _reads(_events, since=_NUMBER, limit=_NUMBER, worker=_TEXT, kind=_TEXT, within_s=_NUMBER),
    "figures": _reads(_figures),
    "set-worker-concurrency": _changes(_set_concurrency, concurrency=_CONCURRENCY),
    "add-worker-queues": _changes(_add_queues, queues=_QUEUES),
    "remove-worker-queues": _changes(_remove_queues, queues=_QUEUES),
    "remote-edge-worker-request-maintenance": _changes(
        _request_maintenance, comment=_COMMENT, until=_UNTIL, **{"for": _FOR}
    ),
    "remote-edge-worker-exit-maintenance": _changes(_exit_maintenance),
    "remote-edge-worker-update-maintenance-comment": _changes(_update_comment, comment=_COMMENT),
    "shutdown-remote-edge-worker": _changes(_shutdown, deadline=_DEADLINE),
    "shutdown-all-workers": Operation(
        changes=True, parameters={"yes": _SURE, "deadline": _DEADLINE}, run=_shutdown_all
    ),
    "remove-remote-edge-worker": _changes(_remove),
    "token-list": _see_tokens(token_admin.listed, {}),
    "token-show": _see_tokens(token_admin.shown, token_admin.SHOW),
    "token-create": _change_token(token_admin.create, token_admin.CREATE),
    "token-rotate": _change_token(token_admin.rotate, token_admin.ROTATE),
    "token-narrow": _change_token(token_admin.narrow, token_admin.NARROW),
    "token-revoke": _change_token(token_admin.revoke, token_admin.SHOW),
    "pause-queue": Operation(
        changes=True, parameters={"queue": _QUEUE, "note": _NOTE}, run=_change_queues(queue_admin.pause)
    ),
    "resume-queue": Operation(
        changes=True, parameters={"queue": _QUEUE}, run=_change_queues(queue_admin.resume)
    ),
}
"""Name -> operation."""
