"""The verbs about logs: of ended jobs, which one gateway at a time moves to a file, and of running ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.protocol.ids import ClaimId, WorkerName
from edge_ws.store.bulk import one_of
from edge_ws.store.command import parse
from edge_ws.store.database import Database
from edge_ws.store.live import OPEN_STATES, REPORTED, held, is_job, key_of, same_job
from edge_ws.store.records import JobKey, LogToShow, LogToStore, RunningLog
from edge_ws.store.tables import claim, edge_job, edge_logs, epoch_now, log

SHOWN_LOG = 8 * 1024 * 1024
"""Bytes of a running job's log that are shown at the most (of edge3's at least one chunk)."""
_CHUNKS = 16
"""Rows that are read at a time: some mebibytes at the most."""


def _line(level: str, sentence: str) -> bytes:
    """Return a line as Airflow writes them."""
    line = {"timestamp": datetime.now(UTC).isoformat(), "level": level, "event": sentence}
    return orjson.dumps({**line, "logger": "edge_ws"}) + b"\n"


def write_last_line(connection: Connection, claim_id: ClaimId, sentence: str) -> None:
    """Append a line to the log of a claim whose row is locked."""
    data = _line("error", sentence)
    end = int(connection.scalar(sa.select(claim.c.log_end).where(claim.c.id == claim_id)) or 0)
    connection.execute(log.insert().values(claim=claim_id, log_offset=end, data=data))
    grown = claim.update().where(claim.c.id == claim_id)
    connection.execute(grown.values(log_end=end + len(data), log_state="held"))


def left_out(size: int) -> bytes:
    """Return the line in place of so many bytes."""
    return _line(
        "warning",
        f"{size} bytes of the log are left out here, for good: it was over a limit of [edge_ws], which are "
        "job_log_limit_mib, worker_log_limit_mib and log_table_limit_mib",
    )


class LogStore:
    """Logs of ended and of running jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Ended

    def logs_to_move(self, limit: int = 20) -> list[LogToStore]:
        """Return ended claims whose log is still in our table."""
        query = (
            sa.select(claim, edge_job.c.command)
            .outerjoin(edge_job, same_job)
            .where(
                claim.c.ended_at.is_not(None),
                # Written out, so that SQLite knows it for the index's own condition.
                claim.c.log_state == sa.literal_column("'held'"),
                sa.or_(claim.c.lease_until.is_(None), claim.c.lease_until < epoch_now()),
            )
            .order_by(claim.c.ended_at)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                LogToStore(
                    claim=ClaimId(row.id),
                    key=key_of(row),
                    log_path=row.log_path,
                    log_base=row.log_base,
                    uploaded=bool(row.log_uploaded),
                    command=row.command or "",
                )
                for row in connection.execute(query)
            ]

    def begin_move(self, claim_id: ClaimId, size: int, lease_s: float) -> int | None:
        """Take the move of the claim's log, for `lease_s`, and fix at which size of the file it begins.

        Alone, because a second mover would cut the file and then find the bytes deleted. A move that was cut
        short is begun again at its first size.

        Returns:
            The size to cut the file to; None if the log is moved, or another gateway is at it.
        """
        now = epoch_now()
        with self._database.write(is_news=False) as connection:
            ours = connection.execute(
                claim.update()
                .where(
                    claim.c.id == claim_id,
                    claim.c.log_state == "held",
                    sa.or_(claim.c.lease_until.is_(None), claim.c.lease_until < now),
                )
                .values(log_base=sa.func.coalesce(claim.c.log_base, size), lease_until=now + lease_s)
            )
            if not ours.rowcount:
                return None
            return int(
                connection.execute(sa.select(claim.c.log_base).where(claim.c.id == claim_id)).scalar_one()
            )

    def keep_move(self, claim_id: ClaimId, lease_s: float) -> None:
        """Go on alone with a move for another `lease_s`."""
        with self._database.write(is_news=False) as connection:
            ours = claim.update().where(claim.c.id == claim_id, claim.c.log_state == "held")
            connection.execute(ours.values(lease_until=epoch_now() + lease_s))

    def log_chunks(self, claim_id: ClaimId) -> Iterator[bytes]:
        """Yield the claim's log in order, a chunk at a time; where some is left out, a line says how much."""
        offset, end, last = -1, 0, b"\n"
        while True:
            with self._database.read() as connection:
                row = connection.execute(
                    sa.select(log.c.log_offset, log.c.data)
                    .where(log.c.claim == claim_id, log.c.log_offset > offset)
                    .order_by(log.c.log_offset)
                    .limit(1)
                ).one_or_none()
            if row is None:
                return
            offset, data = row.log_offset, row.data
            if offset > end:
                # It goes on with a line of its own.
                begun = data.find(b"\n") + 1
                yield (b"" if last.endswith(b"\n") else b"\n") + left_out(offset + begun - end)
                data = data[begun:]
            end = offset + len(row.data)
            if data:
                last = data
                yield data

    def end_move(self, claim_id: ClaimId) -> None:
        """Note that the log is in Airflow's log folder, and drop it here."""
        with self._database.write(is_news=False) as connection:
            connection.execute(claim.update().where(claim.c.id == claim_id).values(log_state="moved"))
            connection.execute(log.delete().where(log.c.claim == claim_id))

    # Running

    def running_log(self, key: JobKey) -> RunningLog | None:
        """Return the log of the row's claim as far as it is here, None if it has none."""
        with self._database.read() as connection:
            found = connection.execute(
                sa.select(claim.c.id, claim.c.worker, claim.c.log_end, claim.c.log_path)
                .join(edge_job, sa.and_(same_job, edge_job.c.edge_ws_claim == claim.c.id))
                # A row that edge3 queued again keeps the claim of the round before.
                .where(is_job(key), claim.c.worker == edge_job.c.edge_worker)
            ).one_or_none()
            if found is None:
                return None
            first = max(0, found.log_end - SHOWN_LOG)
            chunks = connection.execute(
                sa.select(log.c.log_offset, log.c.data)
                .where(log.c.claim == found.id, log.c.log_offset >= first)
                .order_by(log.c.log_offset)
            ).all()
            size = sa.func.sum(octets(self._database.dialect, log.c.data))
            # Of a log that is not shown from its begin; what is there of others is all there ever was.
            is_cut = first > 0 or _gap(chunks) > 0 or (bool(chunks) and chunks[0].log_offset > 0)
            there = connection.scalar(sa.select(size).where(log.c.claim == found.id)) if is_cut else None
        # What lies before a part that is left out is not shown along with what lies behind it.
        chunks = chunks[_gap(chunks) :]
        cut = chunks[0].log_offset if chunks else found.log_end
        return RunningLog(
            worker=WorkerName(found.worker),
            data=b"".join(chunk.data for chunk in chunks),
            cut=cut,
            log_path=found.log_path,
            lost=int(found.log_end) - int(there or 0) if is_cut else 0,
        )

    def edge3_log(self, key: JobKey) -> RunningLog | None:
        """Return what an edge3 worker that has the row has pushed of its log; None if none has it.

        All rounds of the attempt that edge3's workers ran are in it: edge3 keeps no record of rounds.
        """
        theirs = sa.and_(*(edge_logs.c[name] == getattr(key, name) for name in _EDGE3_KEY))
        size = octets(self._database.dialect, edge_logs.c.log_chunk_data)
        # The newest first, each with the bytes from its own first to the last of all.
        order = edge_logs.c.log_chunk_time.desc()
        sizes = sa.select(edge_logs.c.log_chunk_time, sa.func.sum(size).over(order_by=order).label("to_end"))
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(edge_job.c.edge_worker, edge_job.c.command)
                .outerjoin(claim, sa.and_(same_job, edge_job.c.edge_ws_claim == claim.c.id))
                .where(
                    is_job(key),
                    edge_job.c.state.in_(OPEN_STATES),
                    claim.c.worker.is_distinct_from(edge_job.c.edge_worker),
                )
            ).one_or_none()
            parsed = parse(row.command) if row is not None else None
            if row is None or row.edge_worker is None or parsed is None:
                return None
            there = connection.execute(sizes.where(theirs).order_by(order)).all()
            shown = [row for row in there if row.to_end <= SHOWN_LOG] or there[:1]
            begin = shown[-1] if shown else None
            chunks = (
                connection.scalars(
                    sa.select(edge_logs.c.log_chunk_data)
                    .where(theirs, edge_logs.c.log_chunk_time >= begin.log_chunk_time)
                    .order_by(edge_logs.c.log_chunk_time)
                ).all()
                if begin
                else []
            )
        return RunningLog(
            worker=WorkerName(row.edge_worker),
            data="".join(chunks).encode(),
            cut=int(there[-1].to_end - begin.to_end) if begin else 0,
            log_path=parsed.log_path,
        )

    def logs_to_show(self, claims: Collection[ClaimId]) -> list[LogToShow]:
        """Return which of the claims are live and of rows that edge3's executor wrote, with their logs' ends.

        Airflow asks ours for the log of a running task; edge3's has no answer, so that a file must be there.
        """
        query = sa.select(claim.c.id, claim.c.log_path, claim.c.log_end).join(edge_job, held)
        # One that ours has reported, and edge3's has queued for another round since, is edge3's.
        is_theirs = sa.func.coalesce(edge_job.c.edge_ws_owner, REPORTED) == REPORTED
        query = query.where(one_of(self._database.dialect, claim.c.id, "ids"), is_theirs)
        with self._database.read() as connection:
            rows = connection.execute(query, {"ids": list(claims)})
            return [LogToShow(ClaimId(row.id), row.log_path, int(row.log_end)) for row in rows]

    def log_part(self, claim_id: ClaimId, begin: int) -> bytes:
        """Return a mebibyte or so of the claim's log from that byte on; less at its end, or before a gap."""
        # The part may begin within a chunk: a write to a file may have been cut short.
        first = sa.select(sa.func.max(log.c.log_offset)).where(
            log.c.claim == claim_id, log.c.log_offset <= begin
        )
        query = sa.select(log.c.log_offset, log.c.data).where(
            log.c.claim == claim_id, log.c.log_offset >= first.scalar_subquery()
        )
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(log.c.log_offset).limit(_CHUNKS)).all()
        part, end = bytearray(), begin
        for row in rows:
            if row.log_offset > end:
                break
            part += row.data[end - row.log_offset :]
            end = max(end, row.log_offset + len(row.data))
        return bytes(part)


def _gap(chunks: Sequence[Any]) -> int:
    """Return the place of the first chunk behind the last gap, 0 if there is none."""
    for number in range(len(chunks) - 1, 0, -1):
        before = chunks[number - 1]
        if before.log_offset + len(before.data) < chunks[number].log_offset:
            return number
    return 0


_EDGE3_KEY = ("dag_id", "task_id", "run_id", "map_index", "try_number")


def octets(dialect: str, data: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """Return the bytes that a text (in UTF-8) or a binary value has."""
    # SQLite has no octet_length before 3.43.
    return (
        sa.func.length(sa.cast(data, sa.LargeBinary)) if dialect == "sqlite" else sa.func.octet_length(data)
    )
