"""What a worker's frames about itself do: it registers, applies wishes, leaves.

Each verb takes the Principal on whose behalf it runs and touches only that worker's claims; each is one
transaction, may be repeated, and changes nothing for a claim that is not live.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.errors import ConflictError, RefusedError
from edge_ws.protocol.frames import LONGEST_DURATION_S, Applied, Asked, Bye, Inventory, Refusal
from edge_ws.protocol.ids import (
    HINDRANCE,
    HINDRANCE_CODE,
    ClaimId,
    HostId,
    SiteId,
    WorkerName,
    is_setting,
    new_id,
)
from edge_ws.protocol.states import Phase
from edge_ws.store import twins
from edge_ws.store.bulk import one_of
from edge_ws.store.claims import back_to_queue, end_claim, open_claims
from edge_ws.store.connections import check_room, former_connections, has_name, site_of
from edge_ws.store.database import Database
from edge_ws.store.live import (
    FAILED,
    held,
    locking,
    set_claim,
)
from edge_ws.store.records import (
    RETURNS,
    Principal,
    Registered,
    Registration,
    Room,
)
from edge_ws.store.tables import (
    claim,
    edge_job,
    edge_worker,
    epoch_now,
    maintenance,
    silent_after_s,
    utc_now,
    worker,
)
from edge_ws.store.wishes import join_queues, may_come_back, next_number, read_wish
from edge_ws.store.worker_states import AWAY, Event, WorkerState, after, said, state_of

TRANSPORT_SINCE = "transport_since"
"""In `sysinfo`: since when this life of the worker has had the transport that it has now."""
CONNECTED_SINCE = "connected_since"
"""In `sysinfo`: since when the worker has been connected without a loss."""
LOSSES = "connection_losses"
"""In `sysinfo`: connections that this life of the worker has lost."""
COMMENT_LENGTH = 1024
"""Characters of edge3's column."""
NOT_READY = "not_ready"
"""In `sysinfo`, where it is so: True (see `records.Room`)."""
STALE_SLOTS = "stale_slots"
"""In `sysinfo`, where there are any: how many (see `records.Room`)."""
CAPABILITIES = "capabilities"
"""In `sysinfo`: what the worker can do beyond the first release, as the gateway that it is connected to, or
was last, has heard it; words with blanks between them."""
MARK = "edge_ws_version"
"""The key in `edge_worker.sysinfo` that tells our workers from edge3's."""


def move(connection: Connection, name: WorkerName, event: Event, **values: object) -> WorkerState:
    """Move the worker to the state that the event leads to, and write the values; return the state."""
    column = sa.select(edge_worker.c.state).where(edge_worker.c.worker_name == name)
    row = connection.execute(column.with_for_update()).one_or_none()
    before = state_of(row.state) if row is not None else WorkerState.UNKNOWN
    state = after(before, event)
    if state is not None and state is not before:
        values["state"] = state.value
    if row is not None and values:
        connection.execute(edge_worker.update().where(edge_worker.c.worker_name == name).values(**values))
    return state or before


def _says(one: Inventory | Applied, jobs: int) -> Event:
    return said(jobs, maintenance=one.maintenance, leaving=one.leaving)


def _with_room(sysinfo: Mapping[str, Any], room: Room) -> dict[str, Any]:
    """Return the sysinfo with what keeps slots from new jobs; nothing of it where nothing does."""
    of_room = {NOT_READY, HINDRANCE, HINDRANCE_CODE, STALE_SLOTS}
    told = {key: value for key, value in sysinfo.items() if key not in of_room}
    if not room.ready:
        told[NOT_READY] = True
    if room.why:
        told[HINDRANCE] = room.why
    if room.code:
        told[HINDRANCE_CODE] = room.code
    if room.stale_slots:
        told[STALE_SLOTS] = room.stale_slots
    return told


def renewed(before: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sysinfo with what a heartbeat says of the machine; nothing of its room for jobs changes."""
    return _with_room(_anew(before, said), room_of(before))


def _anew(before: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sysinfo with what a heartbeat says: what it does not name any more is over."""
    ours = {CAPABILITIES, TRANSPORT_SINCE, CONNECTED_SINCE, NOT_READY, HINDRANCE, HINDRANCE_CODE, STALE_SLOTS}
    kept = {key: value for key, value in before.items() if key in ours or is_setting(key)}
    return {**kept, MARK: before.get(MARK, ""), **said}


def _same_since(before: Mapping[str, Any], now: Mapping[str, Any], *, is_same_way: bool) -> dict[str, Any]:
    """Return since when what has not changed in a life of the worker's daemon has been so."""
    is_unbroken = LOSSES in now and before.get(LOSSES) == now[LOSSES]
    kept = {TRANSPORT_SINCE: is_same_way, CONNECTED_SINCE: is_unbroken}
    return {name: before[name] for name, is_kept in kept.items() if is_kept and name in before}


def _count(told: object) -> int:
    return told if isinstance(told, int) else 0


def _expires_in_s(connection: Connection, principal: Principal) -> float | None:
    """Return when the credential expires, by the database's clock; None: never."""
    if principal.expires_at is None:
        return None
    left_s = principal.expires_at - float(connection.scalar(sa.select(epoch_now())) or 0.0)
    return min(max(0.0, left_s), LONGEST_DURATION_S)


def room_of(sysinfo: Mapping[str, Any]) -> Room:
    """Return what the sysinfo says of it."""
    return Room(
        ready=not sysinfo.get(NOT_READY),
        stale_slots=_count(sysinfo.get(STALE_SLOTS)),
        why=str(sysinfo.get(HINDRANCE, "")),
        code=str(sysinfo.get(HINDRANCE_CODE, "")),
    )


def capabilities_of(sysinfo: Mapping[str, Any]) -> frozenset[str]:
    """Return what the worker can do beyond the first release, as far as gateways know."""
    return frozenset(str(sysinfo.get(CAPABILITIES, "")).split())


def _note_state(
    connection: Connection,
    name: WorkerName,
    applied: Applied,
    room: Room | None,
    said: Mapping[str, Any] | None,
) -> None:
    taken = sa.select(sa.func.count(), sa.func.sum(claim.c.slots)).select_from(claim.join(edge_job, held))
    jobs, slots = connection.execute(taken.where(claim.c.worker == name)).one()
    query = sa.select(edge_worker.c.sysinfo).where(edge_worker.c.worker_name == name)
    sysinfo = connection.scalar(query) or {}
    told = _with_room(_anew(sysinfo, said) if said else sysinfo, room or room_of(sysinfo))
    if told.get("concurrency") != applied.concurrency:
        # What edge3's CLI and page show.
        free = max(0, applied.concurrency - int(slots or 0))
        told |= {"concurrency": applied.concurrency, "free_concurrency": free}
    values: dict[str, Any] = {"sysinfo": told} if told != sysinfo else {}
    move(connection, name, _says(applied, jobs), **values)


def _take_in(connection: Connection, name: WorkerName, asked: Asked) -> None:
    taken = connection.execute(
        worker.update()
        .where(worker.c.worker_name == name, worker.c.asked_number < asked.number)
        .values(asked_number=asked.number)
    )
    if not taken.rowcount:
        return
    if asked.maintenance:
        event, comment = Event.REQUEST_MAINTENANCE, asked.comment[:COMMENT_LENGTH]
    else:
        event, comment = Event.EXIT_MAINTENANCE, None
    state = move(connection, name, event, maintenance_comment=comment)
    # The host's word is the later one: no end that an operator gave before holds for it.
    connection.execute(maintenance.delete().where(maintenance.c.worker_name == name))
    if state is WorkerState.SHUTDOWN_REQUEST:
        # The column cannot say both: it holds for the worker's next life.
        connection.execute(
            worker.update().where(worker.c.worker_name == name).values(wish_maintenance=asked.maintenance)
        )


class WorkerStore:
    """What a worker's frames do to the database."""

    def __init__(self, database: Database, edge3_alive_s: float) -> None:
        self._database = database
        self._edge3_alive_s = edge3_alive_s

    def register(self, principal: Principal, said: Registration) -> Registered:
        """Make the worker known and connected to `said.gateway`.

        Raises:
            RefusedError: the name is in use by a live worker of another site, or by a live one of edge3's.
            ConflictError: another connection registers the same new worker at this moment.
        """
        try:
            return self._register(principal, said)
        except sa.exc.IntegrityError as error:
            raise ConflictError(f"{principal.worker} is being registered by another connection") from error

    def _register(self, principal: Principal, said: Registration) -> Registered:
        name = principal.worker
        with self._database.write() as connection:
            is_here = worker.c.seen_at > epoch_now() - silent_after_s(worker)
            ours = sa.select(worker, is_here.label("is_here")).where(worker.c.worker_name == name)
            # Locked before edge3's row, as everywhere.
            before = connection.execute(ours.with_for_update()).one_or_none()
            self._check_name(connection, name, said.inventory.site)
            returns = twins.returns(before, said)
            twin = None if returns < RETURNS - 1 else twins.where(connection, name)
            if returns >= RETURNS:
                raise RefusedError(Refusal.NAME_IN_USE.value, twins.sentence(twin))
            self._write_edge_worker(connection, principal, said)
            this = new_id()
            values = {
                "site": said.inventory.site,
                "gateway": said.gateway,
                "connection": this,
                "former_connections": former_connections(before, said.inventory.site),
                "transport": said.transport,
                "seen_at": epoch_now(),
                "token_id": principal.token_id,
                "secret_hash": principal.secret_hash,
                "address": said.address[:64] if said.address is not None else None,
                "local_concurrency": said.concurrency,
                "local_queues": list(said.queues) if said.queues is not None else None,
                "applied_revision": said.inventory.revision,
                "applied_concurrency": said.inventory.concurrency,
                "applied_queues": list(said.inventory.queues) if said.inventory.queues is not None else None,
                "life": said.life,
                "heartbeat_s": said.heartbeat_s,
                "returns": returns,
            }
            if before is not None and said.life != before.life:
                values["former_lives"] = twins.former_lives(before)
            issued = before.wish_revision if before is not None else 0
            if said.inventory.revision > issued:
                # It knows wishes that this database does not, such as a restored one, or says so: its number
                # counts for nothing, and what is wished now is told under a new one of ours.
                values |= {"applied_revision": 0, **next_number(issued)}
            if before is None:
                check_room(connection, principal)
                connection.execute(worker.insert().values(worker_name=name, **values))
            else:
                if before.site != said.inventory.site:
                    # Another host counts its requests by itself.
                    values["asked_number"] = 0
                connection.execute(worker.update().where(worker.c.worker_name == name).values(**values))
            if said.inventory.asked is not None:
                _take_in(connection, name, said.inventory.asked)
            wish = read_wish(connection, name)
            assert wish is not None
            held_here = open_claims(connection, claim.c.worker == name)
            left_s = _expires_in_s(connection, principal)
        return Registered(connection=this, wish=wish, open=held_here, twin=twin, expires_in_s=left_s)

    def _check_name(self, connection: Connection, name: WorkerName, site: SiteId) -> None:
        theirs = connection.execute(
            sa.select(
                edge_worker.c.state,
                edge_worker.c.sysinfo,
                edge_worker.c.last_update,
                utc_now().label("now"),
            ).where(edge_worker.c.worker_name == name)
        ).one_or_none()
        if theirs is not None and MARK not in (theirs.sysinfo or {}) and state_of(theirs.state) not in AWAY:
            is_dead = theirs.last_update is None or (
                (theirs.now - theirs.last_update).total_seconds() >= self._edge3_alive_s
            )
            if not is_dead:
                raise RefusedError(
                    Refusal.NAME_IN_USE.value,
                    f"the name {name} is in use by a live edge3 worker (state {theirs.state}); "
                    "stop it first, or give this worker another name with --edge-hostname",
                )
        ours = connection.execute(
            sa.select(worker.c.site).where(
                worker.c.worker_name == name,
                worker.c.site != site,
                worker.c.gateway.is_not(None),
                worker.c.seen_at > epoch_now() - silent_after_s(worker),
            )
        ).one_or_none()
        if ours is not None:
            raise RefusedError(
                Refusal.NAME_IN_USE.value,
                f"the name {name} is in use by a connected worker with another state directory; "
                "stop that one, or give this worker another name with --edge-hostname",
            )

    @staticmethod
    def _write_edge_worker(connection: Connection, principal: Principal, said: Registration) -> None:
        name = principal.worker
        now = datetime.now(UTC).isoformat(timespec="seconds")
        room = Room.of(said.inventory, said.sysinfo)
        since = {TRANSPORT_SINCE: now, CONNECTED_SINCE: now}
        # Not in the worker's own words: an older gateway would pass them on, and know nothing of them.
        of_worker = {key: value for key, value in said.sysinfo.items() if key != CAPABILITIES}
        known = {CAPABILITIES: " ".join(sorted(said.capabilities))} if said.capabilities else {}
        sysinfo = _with_room({MARK: "", **of_worker, **since, **known}, room)
        values: dict[str, Any] = {
            "last_update": utc_now(),
            "sysinfo": sysinfo,
            "team_name": principal.team,
        }
        row = connection.execute(
            sa.select(
                edge_worker.c.sysinfo,
                edge_worker.c.queues,
                worker.c.transport,
                worker.c.wish_queues,
                worker.c.local_queues,
                worker.c.worker_name,
                worker.c.life,
                worker.c.wish_shutdown,
                edge_worker.c.state,
            )
            .outerjoin(worker, worker.c.worker_name == edge_worker.c.worker_name)
            .where(edge_worker.c.worker_name == name)
        ).one_or_none()
        queues = join_queues(said.queues)
        if row is None:
            connection.execute(
                edge_worker.insert().values(
                    worker_name=name,
                    state="idle",
                    queues=queues,
                    first_online=utc_now(),
                    jobs_active=0,
                    **values,
                )
            )
            return
        if said.life == row.life:
            sysinfo |= _same_since(row.sysinfo or {}, sysinfo, is_same_way=row.transport == said.transport)
        is_news = row.worker_name is None or MARK not in (row.sysinfo or {})
        if is_news or (row.wish_queues is None and row.queues == join_queues(row.local_queues)):
            # No wish: the column shows the worker's own queues, as edge3's registration writes them; here it
            # may be that of an edge3 worker, which has had the name.
            values["queues"] = queues
        state = state_of(row.state)
        if state in AWAY or (said.life is not None and said.life != row.life):
            comes_back = may_come_back(row, state) and said.life == row.life
            state = after(state, Event.CONNECT) or state
            if comes_back:
                state = after(state, Event.REQUEST_SHUTDOWN) or state
        state = after(state, _says(said.inventory, len(said.inventory.claims))) or state
        connection.execute(
            edge_worker.update()
            # Compare-and-set: a request that is written meanwhile is not lost.
            .where(edge_worker.c.worker_name == name)
            .values(
                state=sa.case((edge_worker.c.state == row.state, state.value), else_=edge_worker.c.state),
                **values,
            )
        )

    def note_token(self, principal: Principal, connection_id: str) -> float | None:
        """Note by which token the worker's connection goes on; return when it expires, seconds; None: never.

        For an older connection nothing is noted.
        """
        with self._database.write() as connection:
            connection.execute(
                worker.update()
                .where(worker.c.worker_name == principal.worker, worker.c.connection == connection_id)
                .values(token_id=principal.token_id, secret_hash=principal.secret_hash)
            )
            return _expires_in_s(connection, principal)

    def disconnected(self, principal: Principal, connection_id: str, *, left: Bye | None) -> bool:
        """Note that the connection is closed; its un-accepted offers are free at once.

        Args:
            principal: the worker's.
            connection_id: what `register` gave; an older connection's end changes nothing.
            left: the worker's goodbye, if it said one.

        Returns:
            Whether the connection was the worker's last one.
        """
        name = principal.worker
        with self._database.write() as connection:
            ours = connection.execute(
                worker.update()
                .where(worker.c.worker_name == name, worker.c.connection == connection_id)
                .values(gateway=None)
            )
            if not ours.rowcount:
                return False
            if left is not None:
                event = Event.LEAVE_IN_MAINTENANCE if left.maintenance else Event.LEAVE
                move(connection, name, event, jobs_active=0, last_update=utc_now())
                connection.execute(worker.update().where(worker.c.worker_name == name).values(life=None))
            query = sa.select(claim).join(edge_job, held)
            offered = query.where(claim.c.worker == name, claim.c.phase == Phase.OFFERED.value)
            for row in connection.execute(locking(offered)).all():
                back_to_queue(connection, row, "expired", "the worker's connection closed before it accepted")
        return True

    def site_of(self, principal: Principal, connection_id: str) -> SiteId | None:
        """Return the site for which a worker's connection speaks; None: it is not the worker's."""
        with self._database.read() as connection:
            return site_of(connection, principal, connection_id)

    def host_dead(
        self, principal: Principal, host: HostId, ended: Collection[ClaimId] = ()
    ) -> tuple[ClaimId, ...]:
        """End what ran under a host that its own site says is dead; return those claims.

        What was accepted but is not known to have started is left to the reaper, which asks the task's state.

        Args:
            principal: the worker's.
            host: the dead one.
            ended: claims that are not touched: they had ended before, and the worker reports that itself.
        """
        query = sa.select(claim).join(edge_job, held)
        is_its_own = sa.and_(claim.c.worker == principal.worker, claim.c.site == principal.site)
        theirs = locking(query.where(is_its_own, claim.c.host == host))
        detail = "the job host died, and its processes with it"
        with self._database.write() as connection:
            rows = [row for row in connection.execute(theirs) if row.id not in ended]
            for row in rows:
                if Phase(row.phase) is Phase.STARTED:
                    end_claim(connection, row, result="lost", state=FAILED, detail=detail)
                else:
                    set_claim(connection, row.id, result="lost", detail=detail)
        return tuple(ClaimId(row.id) for row in rows)

    def note_applied(
        self,
        principal: Principal,
        applied: Applied,
        room: Room | None = None,
        sysinfo: Mapping[str, Any] | None = None,
    ) -> None:
        """Note what the worker has in force; a word about an older wish, or one never made, changes nothing.

        Args:
            principal: the worker's.
            applied: what is in force.
            room: what else keeps it from jobs; None: nobody knows, what was noted holds.
            sysinfo: what it says of its machine; None: likewise.
        """
        name = principal.worker
        with self._database.write() as connection:
            noted = connection.execute(
                worker.update()
                .where(
                    has_name(principal),
                    worker.c.applied_revision <= applied.revision,
                    worker.c.wish_revision >= applied.revision,
                )
                .values(
                    applied_revision=applied.revision,
                    applied_concurrency=applied.concurrency,
                    applied_queues=list(applied.queues) if applied.queues is not None else None,
                    applied_at=epoch_now(),
                )
            )
            if noted.rowcount:
                _note_state(connection, name, applied, room, sysinfo)

    def take_in(self, principal: Principal, asked: Asked) -> None:
        """Make what the worker's own host has asked for the wish, once."""
        with self._database.write() as connection:
            here = sa.select(worker.c.site).where(has_name(principal))
            if connection.execute(here.with_for_update()).one_or_none() is not None:
                _take_in(connection, principal.worker, asked)

    def open_ids(self, workers: Sequence[WorkerName]) -> set[ClaimId]:
        """Return the ids of these workers' live claims."""
        with self._database.read() as connection:
            query = sa.select(claim.c.id).join(edge_job, held)
            query = query.where(one_of(self._database.dialect, claim.c.worker, "workers"))
            return {ClaimId(row.id) for row in connection.execute(query, {"workers": list(workers)})}
