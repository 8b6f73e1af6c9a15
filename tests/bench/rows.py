"""The rows by name: each measures both systems in turns and returns results."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench.report import Result
from tests.bench.row_applied import applied
from tests.bench.row_executor import queue, sync
from tests.bench.row_fleets import drain, idle, memory, reconnect
from tests.bench.row_longpoll import longpoll
from tests.bench.row_offer import offer
from tests.bench.site import Bench

ROWS: dict[str, Callable[[Bench], list[Result]]] = {
    "offer": offer,
    "drain": drain,
    "idle": idle,
    "memory": memory,
    "sync": sync,
    "queue": queue,
    "reconnect": reconnect,
    "longpoll": longpoll,
    "applied": applied,
}
