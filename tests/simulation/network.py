"""A model of what lies between workers and gateways: a WebSocket keeps its order, a poll may wander and come late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from edge_ws.protocol.frames import Frame, ServerFrame, WorkerFrame
from edge_ws.protocol.ids import SiteId, WorkerName
from tests.simulation.world import Violation, World


class End(Protocol):
    """One side of a wire."""

    def heard(self, wire: Wire, frame: Any) -> None: ...

    def closed(self, wire: Wire) -> None: ...


class Wire:
    """One WebSocket: two ordered directions, which end together but not at the same time."""

    def __init__(self, world: World, worker: WorkerName, site: SiteId, up: End, down: End) -> None:
        self.worker, self.site = worker, site
        self.is_open = True
        self.is_welcome = False
        self.swallows = False
        """A black hole: nothing passes, nobody is told."""
        self._world = world
        self._ends: dict[bool, End | None] = {True: up, False: down}
        self._last = {True: 0.0, False: 0.0}

    def send(self, frame: Frame, *, up: bool) -> None:
        """Carry a frame to the gateway (`up`) or to the worker."""
        if not self.is_open or self.swallows:
            return
        world = self._world
        slow = world.within(0.5, 4.0) if world.chance(0.02) else world.within(0.001, 0.06)
        self._last[up] = max(self._last[up], world.now + slow)
        world.at(self._last[up] - world.now, self._arrive, frame, up)

    def _arrive(self, frame: Frame, up: bool) -> None:
        end = self._ends[up]
        if end is not None and not self.swallows:
            end.heard(self, frame)

    def cut(self) -> None:
        """End it: what is under way may still arrive, until the side learns of the end."""
        if self.is_open:
            self.is_open = False
            for up in (True, False):
                self._world.at(self._world.within(0.0, 1.0), self._tell, up)

    def _tell(self, up: bool) -> None:
        end, self._ends[up] = self._ends[up], None
        if end is not None:
            end.closed(self)


Respond = Callable[[list[ServerFrame]], None]


class Served(Protocol):
    """A gateway as a poll sees it."""

    alive: bool

    def request(
        self, worker: WorkerName, frames: list[WorkerFrame], respond: Respond, held_s: float | None
    ) -> None: ...


class Network:
    """What a worker can reach, and how well."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.gateways: list[Any] = []
        self.cut_off: set[int] = set()
        """Workers (by `id`) that reach nothing now."""
        self.bad = 0.0
        """How often a request is lost, late or repeated."""
        self.wires: list[Wire] = []
        self.distrusts_wires_until = 0.0
        """Until then the database may not know which of them are alive."""
        self.on_frame: Callable[[Frame], None] = lambda _: None
        """Told of each frame before it is sent."""

    def welcomed(self, wire: Wire) -> None:
        """Hear that a worker is let in: of two machines with its name the living one keeps the name."""
        wire.is_welcome = True
        for other in self.wires:
            lives = other.is_welcome and other.is_open and not other.swallows
            is_twin = other.worker == wire.worker and other.site != wire.site
            if is_twin and lives and self._world.now > self.distrusts_wires_until:
                raise Violation(f"{wire.worker} is {other.site}, and {wire.site} is let in as well")

    def gateway(self) -> Any | None:
        """Return any gateway that lives: a balancer has no memory."""
        living = [one for one in self.gateways if one.alive]
        return self._world.rng.choice(living) if living else None

    def request(
        self, worker: WorkerName, frames: list[WorkerFrame], respond: Respond, held_s: float | None
    ) -> None:
        """Carry a poll or a send, perhaps late, perhaps twice, perhaps not at all; and its answer likewise."""
        world = self._world
        fate = world.rng.random()
        if fate < self.bad / 3:
            return
        if fate < self.bad * 2 / 3:
            world.at(world.within(20.0, 240.0), self._arrive, worker, frames, _nobody, held_s)
            if fate < self.bad / 2:
                return
        elif fate < self.bad:
            world.at(world.within(0.01, 30.0), self._arrive, worker, frames, _nobody, held_s)
        world.at(world.within(0.005, 0.1), self._arrive, worker, frames, respond, held_s)

    def _arrive(
        self, worker: WorkerName, frames: list[WorkerFrame], respond: Respond, held_s: float | None
    ) -> None:
        gateway = self.gateway()
        if gateway is None:
            return

        def back(answer: list[ServerFrame]) -> None:
            if not self._world.chance(self.bad / 3):
                self._world.at(self._world.within(0.005, 0.1), respond, answer)

        gateway.request(worker, frames, back, held_s)


def _nobody(answer: list[ServerFrame]) -> None:
    """Whoever asked has stopped waiting."""
