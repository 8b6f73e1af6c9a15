"""Jobs, workers and claims for tests of the store and the gateway."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from edge_ws.protocol.frames import Inventory
from edge_ws.protocol.ids import ClaimId, GatewayId, HostId, LifeId, SiteId, WorkerName, new_id
from edge_ws.store.records import (
    Assignment,
    Claimed,
    JobKey,
    NewJob,
    Principal,
    Registered,
    Registration,
    WishRecord,
)
from edge_ws.store.store import Store
from edge_ws.store.tables import claim, edge_job, epoch_now
from tests.support.reports import SingleReports

OWNER = 7
LIFE, NEXT_LIFE = LifeId("life-1"), LifeId("life-2")
"""Two lives of a worker's daemon."""


def new_job(name: str = "t", **changes: Any) -> NewJob:
    """Return a job for queue `q`, of one slot."""
    ti_id = str(changes.pop("ti_id", None) or uuid.uuid4())
    command = json.dumps(
        {"token": "secret", "ti": {"id": ti_id}, "log_path": f"{name}.log", "type": "ExecuteTask"}
    )
    values: dict[str, Any] = {
        "key": JobKey("dag", name, "run", -1, 1),
        "queue": "q",
        "slots": 1,
        "priority": 1,
        "command": command,
        "team": None,
        "owner": OWNER,
    }
    return NewJob(**{**values, **changes})


def enqueue(engine: sa.Engine, *jobs: NewJob) -> None:
    with engine.begin() as connection:
        for job in jobs:
            Store(engine).jobs.enqueue(connection, job)


def job_row(engine: sa.Engine, key: JobKey) -> sa.Row[Any] | None:
    with engine.connect() as connection:
        query = sa.select(edge_job).where(edge_job.c.dag_id == key.dag_id, edge_job.c.task_id == key.task_id)
        return connection.execute(query).one_or_none()


def claim_row(engine: sa.Engine, claim_id: ClaimId) -> sa.Row[Any]:
    with engine.connect() as connection:
        return connection.execute(sa.select(claim).where(claim.c.id == claim_id)).one()


def change_job(engine: sa.Engine, key: JobKey, **values: Any) -> None:
    """Write into a row as edge3 (or psql) would."""
    with engine.begin() as connection:
        connection.execute(edge_job.update().where(edge_job.c.task_id == key.task_id).values(**values))


def end_leases(engine: sa.Engine) -> None:
    """Let all leases be over, without waiting."""
    with engine.begin() as connection:
        connection.execute(
            claim.update().where(claim.c.lease_until.is_not(None)).values(lease_until=epoch_now() - 1)
        )


def wish_of(store: Store, name: str) -> WishRecord:
    """Return what operators wish of a worker, numbered, as a gateway reads it."""
    one = WorkerName(name)
    return store.dispatch.new_wishes({one: -1})[one].wish


@dataclass
class FakeWorker:
    """One worker as the store sees it."""

    store: Store
    name: str = "w1"
    concurrency: int = 4
    queues: tuple[str, ...] | None = ("q",)
    site: str = field(default_factory=new_id)
    host: HostId = field(default_factory=lambda: HostId(new_id()))
    gateway: str = field(default_factory=new_id)

    token_id: str | None = None
    secret_hash: str | None = None

    @property
    def principal(self) -> Principal:
        return Principal(
            worker=WorkerName(self.name),
            token_id=self.token_id,
            secret_hash=self.secret_hash,
            site=SiteId(self.site),
        )

    def register(self, **changes: Any) -> Registered:
        return self.store.workers.register(
            self.principal,
            Registration(
                **{
                    "gateway": GatewayId(self.gateway),
                    "transport": "websocket",
                    "concurrency": self.concurrency,
                    "queues": self.queues,
                    "inventory": self.inventory(),
                    "sysinfo": {"concurrency": self.concurrency},
                    **changes,
                }
            ),
        )

    def inventory(self) -> Inventory:
        return Inventory(
            site=SiteId(self.site),
            hosts=(self.host,),
            dead_hosts=(),
            claims=(),
            revision=0,
            concurrency=self.concurrency,
            queues=self.queues,
            stale_slots=0,
            draining=False,
        )

    def assignment(self, job: NewJob) -> Assignment:
        return Assignment(
            key=job.key,
            slots=job.slots,
            worker=WorkerName(self.name),
            site=SiteId(self.site),
            concurrency=self.concurrency,
        )

    def claim(self, *jobs: NewJob) -> list[Claimed]:
        places = {one.key: one.place for one in self.store.dispatch.candidates(None, 100_000)}
        chosen = [replace(self.assignment(job), place=places.get(job.key)) for job in jobs]
        return self.store.dispatch.claim(GatewayId(self.gateway), chosen, 10.0)

    def accept(self, claim_id: ClaimId, host: HostId | None = None) -> object:
        return SingleReports(self.store.reports).accept(
            self.principal, claim_id, host or self.host, start_within_s=70.0
        )

    def start(self, job: NewJob) -> ClaimId:
        """Bring a queued job to running; return its claim."""
        (claimed,) = self.claim(job)
        self.accept(claimed.claim)
        SingleReports(self.store.reports).started(self.principal, claimed.claim, self.host)
        return claimed.claim

    def finish(self, claim_id: ClaimId, exit_code: int = 0) -> object:
        return SingleReports(self.store.reports).finished(
            self.principal, claim_id, exit_code, "", log_uploaded=False
        )
