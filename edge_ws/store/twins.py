"""Several daemons with one state directory, or copies of it: told by lives that take each other's place."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from edge_ws.protocol.ids import WorkerName
from edge_ws.store.records import Registration
from edge_ws.store.tables import edge_worker

REMEMBERED = 20
"""Former lives: of so many machines with copies of one image each is known when it comes back."""


def returns(before: Row[Any] | None, said: Registration) -> int:
    """Return how often lives of one site's daemon have taken each other's place, with this time.

    A daemon that is started anew takes the place of one that is dead and never comes back. One that comes
    back while another is here lives beside it: its state directory, or a copy of it, is in use twice.
    """
    if before is None or said.life is None or before.life is None or before.site != said.inventory.site:
        return 0
    if said.life == before.life:
        return int(before.returns)
    is_contested = before.is_here and before.gateway is not None and said.life in (before.former_lives or [])
    return int(before.returns) + 1 if is_contested else 0


def former_lives(before: Row[Any]) -> list[str]:
    """Return the lives that a new one is to remember, once it has taken the place of the one before."""
    others = [one for one in before.former_lives or [] if one != before.life]
    return [before.life, *others][:REMEMBERED] if before.life is not None else others


def where(connection: Connection, name: WorkerName) -> str:
    """Return the machine of the daemon that has the name now."""
    query = sa.select(edge_worker.c.sysinfo).where(edge_worker.c.worker_name == name)
    told = connection.execute(query).scalar_one_or_none() or {}
    return f"{told.get('hostname', 'another machine')}, process {told.get('pid', 'unknown')}"


def sentence(place: str | None) -> str:
    """Return what is wrong when two daemons share one state directory, or each has a copy of it."""
    return (
        f"another worker uses this state directory, or a copy of it, at the same time ({place}); stop one of "
        "the two, and give it a state directory of its own: --state-dir, or remove the copied one"
    )
