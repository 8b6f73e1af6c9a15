"""Workers as the database knows them, without a process behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edge_ws.protocol.frames import Inventory
from edge_ws.protocol.ids import GatewayId, SiteId, WorkerName
from edge_ws.store.records import Principal, Registration
from edge_ws.store.store import Store


def register_worker(
    store: Store, name: str, *, queues: tuple[str, ...] | None = None, **changes: Any
) -> Principal:
    """Register a connected worker with eight free slots; `changes` are its inventory's."""
    inventory = Inventory(
        site=SiteId("5f0c7f0e-0000-4000-8000-000000000001"),
        hosts=(),
        dead_hosts=(),
        claims=(),
        revision=0,
        concurrency=8,
        queues=queues,
        stale_slots=0,
        draining=False,
    )
    said = Registration(
        gateway=GatewayId("5f0c7f0e-0000-4000-8000-000000000002"),
        transport="websocket",
        concurrency=8,
        queues=queues,
        inventory=replace(inventory, **changes),
        sysinfo={"status": 20, "concurrency": 8, "free_concurrency": 8},
    )
    principal = Principal(worker=WorkerName(name), site=inventory.site)
    store.workers.register(principal, said)
    return principal
