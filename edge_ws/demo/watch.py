"""Sees what becomes of the run's tasks, and when: looks into the demo's SQLite file and the worker's log.

Only reads. All moments are this machine's wall clock, seconds since the epoch.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

LOOK_EVERY_S = 0.001
Key = tuple[str, str, int, int]
"""task_id, run_id, map_index, try_number."""
_KEY = "task_id, run_id, map_index, try_number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task instance, as far as it has come."""

    name: str
    queue: str
    worker: str | None
    state: str | None
    committed_at: float | None
    """No later than this was its job row committed."""
    offered_at: float | None
    """When the worker had its offer."""
    started_at: float | None
    """Airflow's start_date: when the worker asked Airflow to let it start."""

    @property
    def push_ms(self) -> float | None:
        """From the row's commit to the offer's arrival."""
        return _between_ms(self.committed_at, self.offered_at)

    @property
    def start_ms(self) -> float | None:
        """From the row's commit to the task's start."""
        return _between_ms(self.committed_at, self.started_at)


def _between_ms(first: float | None, then: float | None) -> float | None:
    return None if first is None or then is None else (then - first) * 1000


class CommitWatch:
    """A thread that notes for each job row a moment just before it became visible to others.

    It asks the database every millisecond whether anything was committed (microseconds, no lock), and takes
    the moment of the last look that did not show the row: what is counted from there is never too short.
    """

    def __init__(self, database: Path, dag: str) -> None:
        self._database = database
        self._dag = dag
        self._seen: dict[Key, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-ws demo: commits", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def moments(self) -> Mapping[Key, float]:
        """Return the moment of each row."""
        return dict(self._seen)

    def _run(self) -> None:
        with closing(_connect(self._database)) as connection:
            version = None
            before = time.time()
            while not self._ended.wait(LOOK_EVERY_S):
                looked_at = time.time()
                (now,) = connection.execute("PRAGMA data_version").fetchone()
                if now != version:
                    version = now
                    rows = connection.execute(f"SELECT {_KEY} FROM edge_job WHERE dag_id = ?", (self._dag,))  # noqa: S608
                    for key in rows.fetchall():
                        self._seen.setdefault(key, before)
                before = looked_at


class OfferLog:
    """Reads the moments of offers out of the worker's log as it grows."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offset = 0
        self._moments: dict[str, float] = {}

    def moments(self) -> Mapping[str, float]:
        """Return the moment of each claim's offer."""
        with self._log.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._read(line.decode(errors="replace"))
        return self._moments

    def _read(self, line: str) -> None:
        _, found, words = line.partition(" offer: ")
        if found:
            told = dict(word.split("=", 1) for word in words.split())
            self._moments[told["claim"]] = float(told["at"])


class RunWatch:
    """Looks at one DAG run."""

    def __init__(self, database: Path, dag: str, run: str, commits: CommitWatch, offers: OfferLog) -> None:
        self._connection = _connect(database)
        self._dag = dag
        self._run = run
        self._commits = commits
        self._offers = offers
        self._query = _tasks_query(self._connection)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def state(self) -> str:
        """Return the run's state."""
        rows = self._connection.execute(
            "SELECT state FROM dag_run WHERE dag_id = ? AND run_id = ?", (self._dag, self._run)
        )
        (state,) = rows.fetchone()
        return str(state)

    def transport(self, worker: str) -> str:
        """Return how the worker is connected."""
        rows = self._connection.execute(
            "SELECT transport FROM edge_ws_worker WHERE worker_name = ?", (worker,)
        )
        (transport,) = rows.fetchone()
        return str(transport)

    def tasks(self) -> list[Task]:
        """Return the run's tasks in the order in which they were queued; those never queued are left out."""
        committed = self._commits.moments()
        offered: dict[Key, tuple[str, float | None]] = {}
        moments = self._offers.moments()
        claims = self._connection.execute(
            f"SELECT {_KEY}, id, worker FROM edge_ws_claim WHERE dag_id = ? ORDER BY created_at",  # noqa: S608
            (self._dag,),
        )
        for *key, claim, worker in claims.fetchall():
            # A refused offer is followed by another: the first one counts, and the last worker.
            first = offered.get(tuple(key), ("", None))[1]
            offered[tuple(key)] = worker, moments.get(claim) if first is None else first
        tasks = self._connection.execute(self._query, (self._dag, self._run))
        found = []
        for *parts, label, queue, state, started in tasks.fetchall():
            key = tuple(parts)
            worker, offered_at = offered.get(key, (None, None))
            found.append(
                Task(
                    name=_name(key, label),
                    queue=queue,
                    worker=worker,
                    state=state,
                    committed_at=committed.get(key),
                    offered_at=offered_at,
                    started_at=_moment(started),
                )
            )
        return found


def _tasks_query(connection: sqlite3.Connection) -> str:
    """Return the query for a run's tasks, as this Airflow's table has them."""
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(task_instance)")}
    # From 3.4 on the index has another name, and the attempts of the past are in the same table.
    index = "map_index" if "map_index" in columns else "region_index"
    present = "AND working_set" if "working_set" in columns else ""
    return (
        f"SELECT task_id, run_id, {index}, try_number, rendered_map_index, queue, state, start_date"  # noqa: S608
        f" FROM task_instance WHERE dag_id = ? AND run_id = ? AND queued_dttm IS NOT NULL {present}"
        f" ORDER BY queued_dttm, {index}"
    )


def _name(key: Key, label: str | None) -> str:
    task, _, index, _ = key
    if index < 0:
        return task
    return f"{task} [{label or index}]"


def _moment(text: str | None) -> float | None:
    """Read a timestamp as SQLAlchemy writes it into SQLite: UTC without a zone."""
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=5.0)
