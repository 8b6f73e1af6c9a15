"""How much of everything: the full form, the quick one, and a tiny one for the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of a run."""

    rounds: int
    offer_workers: tuple[int, ...]
    """Fleets, for the time from commit to offer."""
    offer_edge3_workers: tuple[int, ...]
    offer_samples: int
    """Jobs in a round."""
    offer_edge3_samples: int
    offer_gap_s: float
    """Mean time between two jobs."""
    offer_edge3_gap_s: float
    offer_sqlite_workers: int
    drain_workers: int
    drain_slots: int
    drain_jobs: int
    drain_edge3_jobs: int
    idle_workers: tuple[int, ...]
    idle_edge3_workers: tuple[int, ...]
    idle_s: float
    """Of measuring CPU."""
    count_s: float
    """Of counting statements, which the server then logs."""
    memory_workers: tuple[int, ...]
    sync_rows: tuple[int, ...]
    sync_calls: int
    queue_batches: int
    reconnect_workers: int
    poll_offers: tuple[tuple[int, str], ...]
    """Fleets that come by long-poll, each with its kind of queues, for the time from commit to offer."""
    polls_held: int
    """Idle workers that come by long-poll."""
    polls_beside: int
    """Polls that are held while another route is asked."""
    route_samples: int
    route_gap_s: float
    """Mean time between two such requests."""
    applied_workers: int
    applied_samples: int
    """Wishes in a round; an edge3 worker has one."""
    applied_gap_s: float
    """Mean time between two of them."""
    applied_edge3_gap_s: float


FULL = Plan(
    rounds=3,
    offer_workers=(1, 50, 200, 1000),
    offer_edge3_workers=(1, 50, 200),
    offer_samples=200,
    offer_edge3_samples=60,
    offer_gap_s=0.05,
    offer_edge3_gap_s=0.25,
    offer_sqlite_workers=50,
    drain_workers=50,
    drain_slots=8,
    drain_jobs=5000,
    drain_edge3_jobs=600,
    idle_workers=(100, 500, 1000),
    idle_edge3_workers=(100, 500),
    idle_s=60.0,
    count_s=30.0,
    memory_workers=(1000, 5000),
    sync_rows=(0, 10_000, 50_000),
    sync_calls=15,
    queue_batches=30,
    reconnect_workers=2000,
    poll_offers=((50, "shared"), (200, "each")),
    polls_held=1000,
    polls_beside=500,
    route_samples=3000,
    route_gap_s=0.005,
    applied_workers=50,
    applied_samples=300,
    applied_gap_s=0.03,
    applied_edge3_gap_s=0.6,
)
QUICK = Plan(
    rounds=1,
    offer_workers=(50,),
    offer_edge3_workers=(50,),
    offer_samples=100,
    offer_edge3_samples=20,
    offer_gap_s=0.03,
    offer_edge3_gap_s=0.1,
    offer_sqlite_workers=50,
    drain_workers=50,
    drain_slots=8,
    drain_jobs=2000,
    drain_edge3_jobs=100,
    idle_workers=(100,),
    idle_edge3_workers=(100,),
    idle_s=6.0,
    count_s=3.0,
    memory_workers=(500,),
    sync_rows=(0, 10_000),
    sync_calls=5,
    queue_batches=5,
    reconnect_workers=200,
    poll_offers=((50, "shared"),),
    polls_held=200,
    polls_beside=200,
    route_samples=1000,
    route_gap_s=0.003,
    applied_workers=50,
    applied_samples=100,
    applied_gap_s=0.03,
    applied_edge3_gap_s=0.6,
)
TINY = Plan(
    rounds=1,
    offer_workers=(2,),
    offer_edge3_workers=(2,),
    offer_samples=3,
    offer_edge3_samples=1,
    offer_gap_s=0.01,
    offer_edge3_gap_s=0.01,
    offer_sqlite_workers=2,
    drain_workers=2,
    drain_slots=2,
    drain_jobs=6,
    drain_edge3_jobs=3,
    idle_workers=(2,),
    idle_edge3_workers=(2,),
    idle_s=0.5,
    count_s=1.5,
    memory_workers=(5,),
    sync_rows=(0, 20),
    sync_calls=2,
    queue_batches=2,
    reconnect_workers=5,
    poll_offers=((2, "shared"),),
    polls_held=5,
    polls_beside=3,
    route_samples=20,
    route_gap_s=0.002,
    applied_workers=4,
    applied_samples=4,
    applied_gap_s=0.01,
    applied_edge3_gap_s=0.01,
)
