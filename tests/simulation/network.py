"""A model of what lies between workers and gateways: a WebSocket keeps its order, a poll may wander and come late."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from edge_ws.protocol import codec
from edge_ws.protocol.frames import Frame, Log
from edge_ws.protocol.ids import LifeId, SiteId, WorkerName
from edge_ws.store.records import RETURNS
from tests.simulation.world import Violation, World

MANY, MANY_WITHIN_S = 5, 60.0
"""Of two daemons with one state directory one is refused before they have come back so often."""


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

    def ping(self, done: Callable[[], None]) -> None:
        """Call back when the other side has answered what comes after all that was sent."""
        there_s = max(self._last[True] - self._world.now, 0.0) + self._world.within(0.002, 0.1)
        self._world.at(there_s, lambda: None if self.swallows or not self.is_open else done())

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


@dataclass(frozen=True, slots=True)
class Narrows:
    """A way that lets no message pass that is larger."""

    size: int
    how: str
    """told: by a status or a code; cut: by a reset; silent: nothing comes back any more."""


def offends(frames: Iterable[Frame]) -> bool:
    """Tell whether a filter on the way takes offence: at a word in a log, for ever."""
    return any(isinstance(frame, Log) and b"works" in frame.data for frame in frames)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request, as a worker sees it."""

    status_code: int
    headers: dict[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Said:
    """What a request says."""

    kind: str
    """poll or send."""
    headers: dict[str, str]
    body: bytes


Respond = Callable[[Answer | None], None]


class Carried:
    """One arrival of a request at a gateway, which may answer it."""

    def __init__(self, world: World, said: Said, answer: Respond) -> None:
        self.said = said
        self.left: asyncio.Future[None] = world.loop.create_future()
        """Done when the gateway learns that nobody waits for the answer."""
        self.answer = answer
        """Give the answer; None: it breaks off."""

    def leave(self) -> None:
        """Tell the gateway that nobody waits for the answer."""
        if not self.left.done():
            self.left.set_result(None)


class Request:
    """One request of a worker's; it may arrive more than once, late or not at all."""

    def __init__(self, network: Network, site: SiteId, said: Said, respond: Respond) -> None:
        self.site = site
        self._network, self._world = network, network.world
        self._said = said
        self._respond: Respond | None = respond
        self._waited_on: Carried | None = None
        """The arrival whose answer comes back here."""
        self.loses_answer = False
        """It breaks off instead."""

    def arrive(self, *, ghost: bool) -> None:
        """Come to any gateway; the answer to a ghost nobody hears."""
        gateway = self._network.gateway()
        if ghost:
            if gateway is not None:
                gateway.request(Carried(self._world, self._said, lambda _: None))
        elif self._respond is not None:
            if gateway is None:
                self._back(Answer(502, {}, b""))
                return
            self._waited_on = Carried(self._world, self._said, self._answered)
            gateway.request(self._waited_on)

    def _answered(self, answer: Answer | None) -> None:
        self._waited_on = None
        if self.loses_answer:
            self._back(None)
        elif answer is None or not self._world.chance(self._network.bad / 3):
            self._back(answer)
        elif self._world.chance(0.5):
            self._network.note("an answer is lost, and %s hears of it", self.site)
            self._back(None)
        else:
            self._network.note("an answer to %s is lost", self.site)

    def _back(self, answer: Answer | None) -> None:
        self._world.at(self._world.within(0.005, 0.1), self._arrived, answer)

    def _arrived(self, answer: Answer | None) -> None:
        if self._respond is not None and self.site not in self._network.cut_off:
            respond = self._respond
            self.abandon()
            respond(answer)

    def cut(self) -> None:
        """Break off between the worker and the gateway."""
        self._back(None)

    def refuse(self, answer: Answer | None) -> None:
        """Have something on the way answer in the gateway's place; None: by a reset."""
        self._back(answer)

    def abandon(self) -> None:
        """Wait for the answer no more; the gateway learns of that, as a rule."""
        if self._respond is not None:
            self._respond = None
            self._network.requests.remove(self)
            if self._waited_on is not None and self._world.chance(0.8):
                self._world.at(self._world.within(0.0, 0.5), self._waited_on.leave)


class Network:
    """What a worker can reach, and how well."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.gateways: list[Any] = []
        self.cut_off: set[SiteId] = set()
        """Machines that reach nothing now."""
        self.no_websockets: set[SiteId] = set()
        """Machines whose proxy lets no WebSocket pass."""
        self.narrows: dict[SiteId, Narrows] = {}
        self.filters: set[SiteId] = set()
        """Machines whose way is watched by such a filter."""
        self.copied: set[WorkerName] = set()
        self.haunted: Counter[str] = Counter()
        """Requests that arrived late or once more, by the site that had sent them."""
        """Those of which there are two machines, or were."""
        self.bad = 0.0
        """How often a request is lost, late or repeated."""
        self.wires: list[Wire] = []
        self.requests: list[Request] = []
        self.distrusts_wires_until = 0.0
        """Until then the database may not know which of them are alive."""
        self.on_frame: Callable[[Frame], None] = lambda _: None
        """Told of each frame before it is sent, while `is_watched`."""
        self.is_watched = False
        self._lives: dict[SiteId, list[tuple[float, LifeId | None]]] = {}
        self.cancels_are_answered = True
        """By workers that do not know the claim."""

    def lives_at(self, site: SiteId, life: LifeId | None) -> None:
        """Hear that a daemon is let in: two with one state directory do not go to and fro for ever."""
        lives = self._lives.setdefault(site, [])
        if lives and lives[-1][1] == life:
            return
        lives.append((self.world.now, life))
        lately = [one for at, one in lives if at > self.world.now - MANY_WITHIN_S]
        # A new life may be let in, come back and be warned before another one is refused.
        if len(lately) > 1 + RETURNS * len(set(lately)) + MANY:
            raise Violation(f"the daemons of {site} take each other's place for ever: {lately}")

    def forget_lives(self, site: SiteId) -> None:
        """Begin to count anew how often daemons of the site take each other's place."""
        self._lives.pop(site, None)

    def welcomed(self, wire: Wire) -> None:
        """Hear that a worker is let in: of two machines with its name the living one keeps the name."""
        wire.is_welcome = True
        for other in self.wires:
            lives = other.is_welcome and other.is_open and not other.swallows
            is_twin = other.worker == wire.worker and other.site != wire.site
            if is_twin and lives and self.world.now > self.distrusts_wires_until:
                raise Violation(f"{wire.worker} is {other.site}, and {wire.site} is let in as well")

    def gateway(self) -> Any | None:
        """Return any gateway that lives and is not about to leave: a balancer has no memory."""
        living = [one for one in self.gateways if one.alive]
        staying = [one for one in living if not one.leaves] or living
        return self.world.rng.choice(staying) if staying else None

    def note(self, words: str, *args: Any) -> None:
        """Write into the history."""
        self.world.note(words, *args)

    def request(self, site: SiteId, said: Said, respond: Respond) -> Request:
        """Carry a request, perhaps late, perhaps twice, perhaps not at all; and its answer likewise."""
        world = self.world
        request = Request(self, site, said, respond)
        self.requests.append(request)
        if site in self.cut_off:
            return request
        if (narrow := self.narrows.get(site)) is not None and len(said.body) > narrow.size:
            if narrow.how != "silent":
                request.refuse(Answer(413, {}, b"") if narrow.how == "told" else None)
            return request
        if (
            site in self.filters
            and said.kind == "send"
            and offends(codec.decode_batch_from_worker(said.body))
        ):
            request.refuse(Answer(403, {}, b""))
            return request
        fate = world.rng.random()
        if fate < self.bad / 3:
            return request
        if fate < self.bad * 2 / 3:
            world.at(world.within(20.0, 240.0), self._haunt, request)
            if fate < self.bad / 2:
                return request
        elif fate < self.bad:
            world.at(world.within(0.01, 30.0), self._haunt, request)
        world.at(world.within(0.005, 0.1), self._arrive, request)
        return request

    def _arrive(self, request: Request) -> None:
        if request.site not in self.cut_off:
            request.arrive(ghost=False)

    def _haunt(self, request: Request) -> None:
        self.note("an old request of %s arrives", request.site)
        self.haunted[request.site] += 1
        request.arrive(ghost=True)
