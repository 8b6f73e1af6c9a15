"""One seed, one history: who there is, what goes wrong and when, and what must hold after all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edge_ws.protocol.frames import (
    LOG_CHUNK,
    Accept,
    Ack,
    Finished,
    Frame,
    Go,
    HostDead,
    NotStarted,
    Offer,
    Stale,
    Started,
)
from edge_ws.protocol.ids import ClaimId, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.store.records import RETURNS, JobKey
from edge_ws.store.watch import Changes
from edge_ws.worker.transport_choice import AUTO, LONGPOLL, WEBSOCKET
from tests.simulation.airflow import Airflow
from tests.simulation.gateway import Gateway
from tests.simulation.model_store import OPEN, SEEN_S, ModelStore, Row, Rules
from tests.simulation.network import Narrows, Network
from tests.simulation.site import Host, Outbox, Site
from tests.simulation.worker import SimDaemon
from tests.simulation.world import Violation, World

PLANS = (
    ("success",),
    ("success",),
    ("defer", "success"),
    ("reschedule", "reschedule", "success"),
    ("fail",),
    ("crash",),
    ("defer", "crash"),
)
QUIET_S = 3000.0
"""All must be settled so long after the last fault."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed that broke a rule."""

    seed: int
    what: str
    history: str

    def __str__(self) -> str:
        return f"{self.history}\n\nseed {self.seed}: {self.what}"


class Scenario:
    """Everything of one seed."""

    def __init__(self, world: World, rules: Rules) -> None:
        self.world = world
        self.rules = rules
        rng = world.rng
        self._claims = 0
        self.store = ModelStore(
            lambda: world.now,
            self._name_claim,
            rules,
            self._changed,
            self._deleted,
            on_twin=self._taken_for_two,
        )
        self.airflow = Airflow(world, self.store)
        self.network = Network(world)
        self.network.cancels_are_answered = rules.cancels_are_answered
        self.wakes = rng.choice((1.0, 1.0, 0.7, 0.0))
        """How often a commit wakes a gateway (the backup scan finds the rest)."""
        self.sites: list[Site] = []
        self.daemons: dict[int, SimDaemon] = {}
        self.concurrency = rng.choice((1, 2, 2, 4))
        self.transport = rng.choice((WEBSOCKET, WEBSOCKET, AUTO, LONGPOLL))
        self.network.bad = rng.choice((0.0, 0.02, 0.1)) if self.transport != WEBSOCKET else 0.0
        narrow = Narrows(rng.choice((5_000, 12_000, 40_000)), rng.choice(("told", "cut", "silent")))
        self.narrow = narrow if world.chance(0.1) else None
        self.is_filtered = self.transport != WEBSOCKET and self.narrow is None and world.chance(0.15)
        for _ in range(rng.choice((1, 1, 2))):
            self._start_gateway()
        for number in range(rng.choice((1, 2, 2))):
            site = self._site(WorkerName(f"w{number + 1}"))
            if world.chance(0.4):
                self._block(site)
            self._start_daemon(site)
        self.healing = False
        self.faults_end = rng.choice((40.0, 90.0, 200.0))
        for number in range(rng.choice((1, 2, 2, 3, 4))):
            slots = min(self.concurrency, rng.choice((1, 1, 2)))
            arrives = world.within(0.0, self.faults_end * 0.6)
            world.at(arrives, self.airflow.add, f"t{number}", rng.choice(PLANS), slots, rng.choice((0, 1)))
            self._expected = number + 1
        self._plan_faults()

    def _site(self, worker: WorkerName, copy_of: Site | None = None) -> Site:
        """Set a machine up; what is in its way stays there for ever."""
        site = Site(self.world, self.airflow, worker, copy_of=copy_of)
        self.sites.append(site)
        if self.narrow is not None:
            self.network.narrows[site.id] = self.narrow
            site.line, site.chunk = b"." * (2 * self.narrow.size), LOG_CHUNK
        if self.is_filtered:
            self.network.filters.add(site.id)
        return site

    def _name_claim(self, key: object) -> ClaimId:
        self._claims += 1
        return ClaimId(f"c{self._claims}")

    def _changed(self, row: Row) -> None:
        self.world.note("row %s: %s %s %s", row.key.task_id, row.state, row.worker, row.claim)
        claim = self.store.claims_by_id.get(row.claim) if row.claim is not None else None
        is_over = row.state not in {"queued", *OPEN} and not row.is_foreign
        if is_over and claim is not None and self.store._held(claim):
            raise Violation(f"the row of {row.key.task_id} is {row.state}, and {claim.id} is open")
        if row.state == "queued":
            self._tell(Changes(queues=frozenset({row.queue})))

    def _deleted(self, row: Row) -> None:
        self.world.note("row %s is deleted", row.key.task_id)
        if row.claim is not None and row.worker is not None and row.state != "queued":
            self._tell(Changes(deleted=frozenset({(row.claim, WorkerName(row.worker))})))

    def _tell(self, changes: Changes) -> None:
        """Wake the gateways, as a rule."""
        for gateway in self.network.gateways:
            if self.world.chance(self.wakes):
                self.world.at(self.world.within(0.001, 0.05), gateway.changed, changes)

    # Faults

    def _plan_faults(self) -> None:
        world, rng = self.world, self.world.rng
        kinds: list[tuple[Callable[[], None], float]] = [
            (self._cut, 3.0),
            (self._black_hole, 2.0),
            (self._cut_off, 1.0),
            (self._block_websockets, 1.0),
            (self._try_again, 1.0),
            (self._gateway_leaves, 1.0),
            (self._kill_gateway, 2.0),
            (self._kill_daemon, 2.0),
            (self._kill_host, 2.0),
            (self._kill_machine, 0.7),
            (self._lose_files, 0.5),
            (self._lose_machine, 1.0),
            (self._lose_machine_and_gateway, 0.5),
            (self._database_away, 1.0),
            (self._api_away, 1.0),
            (self._crash_scheduler, 0.7),
            (self._clear, 2.0),
            (self._mark, 1.0),
            (self._revoke, 1.0),
            (self._wish, 1.0),
            (self._ask, 0.5),
            (self._edge3_steals, 1.0),
            (self._edge3_patches, 1.0),
            (self._edge3_deletes, 0.5),
            (self._twin, 0.5),
            (self._copy, 1.0),
            (self._break_site, 1.0),
        ]
        # Each seed knows some kinds of faults only: a rare one is not drowned by the others.
        chosen = rng.sample(kinds, rng.choice((2, 3, 4, 6)))
        if rng.random() < 0.1:
            # Together they leave to a host that is dead what nobody has heard of: outcomes, or ends.
            chosen += [(rng.choice((self._api_away, self._cut_off)), 3.0), (self._kill_host, 3.0)]
        elif rng.random() < 0.1:
            # Together they leave a task that is to be stopped, and nobody who can be asked.
            chosen += [(self._api_away, 3.0), (self._mark, 6.0)]
        elif rng.random() < 0.1:
            chosen += [(self._copy, 6.0)]
        self.airflow.edge3_queues = rng.choice((0.0, 0.0, 0.8))
        self.airflow.on_edge3_queued = self._edge3_works
        self.commits_unheard = rng.choice((0.0, 0.0, 0.02))
        for _ in range(rng.choice((2, 4, 8, 12))):
            (fault,) = rng.choices([one for one, _ in chosen], [weight for _, weight in chosen])
            world.at(world.within(1.0, self.faults_end), fault)
        # Some strike at a certain frame, before it is on its way or a moment later.
        self._strikes = rng.choice((0, 0, 1, 3))
        self._strike_at = rng.sample(
            (Offer, Accept, Go, Started, Finished, NotStarted, Ack, Stale, HostDead), 3
        )
        self._strike_with = [fault for fault, _ in chosen]
        self.network.on_frame = self._frame_passes
        self.network.is_watched = self._strikes > 0
        world.at(self.faults_end + 1.0, self._heal)

    def _frame_passes(self, frame: Frame) -> None:
        if self._strikes and not self.healing and type(frame) in self._strike_at and self.world.chance(0.3):
            self._strikes -= 1
            self.network.is_watched = self._strikes > 0
            later = self.world.within(0.0, 0.1)
            self.world.at(later, self.world.rng.choice(self._strike_with))

    def _cut(self) -> None:
        wires = [wire for wire in self.network.wires if wire.is_open]
        if wires:
            wire = self.world.rng.choice(wires)
            self.world.note("a connection of %s is cut", wire.worker)
            # Whose connection breaks off loses its place to the other, and is not driven out.
            self.network.forget_lives(wire.site)
            wire.cut()
        elif self.network.requests:
            request = self.world.rng.choice(self.network.requests)
            self.world.note("a request of %s is cut", request.site)
            request.cut()

    def _black_hole(self) -> None:
        wires = [wire for wire in self.network.wires if wire.is_open]
        if wires:
            wire = self.world.rng.choice(wires)
            self.world.note("a connection of %s swallows all", wire.worker)
            wire.swallows = True

    def _break_site(self) -> None:
        site = self.world.rng.choice(self.sites)
        self.world.note("%s can start nothing", site.worker)
        site.is_broken = True
        self.world.at(self.world.within(2.0, 60.0), self._mend_site, site)

    def _mend_site(self, site: Site) -> None:
        site.is_broken = False

    def _cut_off(self) -> None:
        site = self.world.rng.choice(self.sites)
        self.world.note("%s reaches no gateway", site.worker)
        self.network.cut_off.add(site.id)
        for wire in self.network.wires:
            if wire.worker == site.worker:
                wire.swallows = True
        api_too = self.world.chance(0.5)
        site.api_cut_off = site.api_cut_off or api_too
        self.world.at(self.world.within(5.0, 100.0), self._join, site)

    def _join(self, site: Site) -> None:
        self.network.cut_off.discard(site.id)
        site.api_cut_off = False

    def _block_websockets(self) -> None:
        """Let no WebSocket of a machine pass for a while, and break those that are open."""
        site = self.world.rng.choice(self.sites)
        self._block(site)
        for wire in self.network.wires:
            if wire.site == site.id:
                wire.cut()

    def _block(self, site: Site) -> None:
        if self.transport == AUTO:
            self.world.note("no WebSocket of %s passes", site.worker)
            self.network.no_websockets.add(site.id)
            self.world.at(self.world.within(5.0, 100.0), self.network.no_websockets.discard, site.id)

    def _try_again(self) -> None:
        """A person tells a worker to try a better way."""
        if self.daemons:
            daemon = self.world.rng.choice(list(self.daemons.values()))
            self.world.note("%s is to try a WebSocket", daemon.label)
            daemon.link.retry_now()

    def _gateway_leaves(self) -> None:
        gateway = self.network.gateway()
        if gateway is not None and not gateway.leaves:
            gateway.leave()
            self.world.at(self.world.within(0.5, 20.0), self._start_gateway)

    def _start_gateway(self) -> None:
        gateway = Gateway(self.world, self.store, self.airflow, self.network, self.rules)
        gateway.commits_unheard = getattr(self, "commits_unheard", 0.0)
        gateway.away_until = getattr(self, "_away_until", 0.0)
        self.network.gateways.append(gateway)

    def _kill_gateway(self) -> None:
        gateway = self.network.gateway()
        if gateway is not None:
            gateway.die()
            self.network.gateways.remove(gateway)
            self.world.at(self.world.within(0.5, 20.0), self._start_gateway)

    def _start_daemon(self, site: Site) -> None:
        if id(site) not in self.daemons and site in self.sites:
            self.daemons[id(site)] = SimDaemon(
                self.world, self.network, site, self.concurrency, self.transport
            )

    def _kill_daemon(self) -> None:
        self._end_daemon(self.world.rng.choice(self.sites))

    def _end_daemon(self, site: Site) -> None:
        daemon = self.daemons.pop(id(site), None)
        if daemon is not None:
            daemon.die()
            self.world.at(self.world.within(0.5, 60.0), self._start_daemon, site)

    def _kill_host(self) -> None:
        site = self.world.rng.choice(self.sites)
        living = [host for host in site.hosts if host.alive]
        if not living:
            return
        host = self.world.rng.choice(living)
        if self.world.chance(0.5):
            # Where memory runs out, a job ends of it first, or just before.
            host.on_end = lambda: self.world.at(self.world.within(0.0, 0.2), self._end_host, host)
        else:
            self._end_host(host)

    def _end_host(self, host: Host, *, all_of_it: bool = False) -> None:
        host.on_end = lambda: None
        if not host.alive:
            return
        for job in host.jobs.values():
            # Buried sooner or later, unless it ends before.
            job.process.well = False
        host.die(all_of_it=all_of_it)

    def _kill_machine(self) -> None:
        site = self.world.rng.choice(self.sites)
        self.world.note("the machine of %s dies", site.worker)
        self._stop(site)

    def _lose_files(self) -> None:
        """The power fails, and what the disk had of jobs and their hosts is unreadable after."""
        site = self.world.rng.choice(self.sites)
        self.world.note("the machine of %s dies, and its files with it", site.worker)
        self._stop(site)
        site.hosts.clear()
        site.outbox = Outbox()
        self._lose_outcomes(site)

    def _lose_machine(self) -> None:
        """It is gone for good; another one may come in its place, with its name and nothing else of it."""
        site = self.world.rng.choice(self.sites)
        if len(self.sites) == 1 or self.world.chance(0.5):
            new = self._site(site.worker)
            self.world.at(self.world.within(1.0, 60.0), self._start_daemon, new)
        self.world.note("the machine of %s is lost", site.worker)
        self._leave(site)

    def _lose_machine_and_gateway(self) -> None:
        self._kill_gateway()
        self._lose_machine()

    def _database_away(self) -> None:
        self.world.note("the database is away")
        self._away_until = self.world.now + self.world.within(0.5, 8.0)
        self.network.distrusts_wires_until = self._away_until + SEEN_S
        for gateway in self.network.gateways:
            gateway.away_until = self._away_until

    def _api_away(self) -> None:
        self.world.note("the Execution API is away")
        self.airflow.api_away = True
        self.world.at(self.world.within(0.5, 15.0), self._api_back)

    def _api_back(self) -> None:
        self.airflow.api_away = False

    def _crash_scheduler(self) -> None:
        living = [one for one in self.airflow.schedulers if one.alive]
        if living:
            self.airflow.crash(self.world.rng.choice(living))

    def _task(self) -> str | None:
        names = list(self.airflow.tasks)
        return self.world.rng.choice(names) if names else None

    def _clear(self) -> None:
        # Best while the task has not begun: it waits, or a claim is on its way.
        waiting = [ti.key.task_id for ti in self.airflow.tasks.values() if ti.state == "queued"]
        if waiting and self.world.chance(0.7):
            self.airflow.clear(self.world.rng.choice(waiting))
        elif (name := self._task()) is not None:
            self.airflow.clear(name)

    def _mark(self) -> None:
        # Best while its process has told its end and is busy with its last steps, or while nobody has it.
        tasks = self.airflow.tasks.values()
        ending = [ti for ti in tasks if ti.state == "success" and ti.runner is not None and ti.runner.alive]
        named = ending or [ti for ti in tasks if ti.state == "queued"]
        if named and self.world.chance(0.7):
            self.airflow.mark_failed(self.world.rng.choice(named).key.task_id)
        elif (name := self._task()) is not None:
            self.airflow.mark_failed(name)

    def _revoke(self) -> None:
        if (name := self._task()) is not None:
            self.airflow.revoke(self.airflow.tasks[name])

    def _wish(self) -> None:
        worker = self.world.rng.choice(list(self.store.workers_by_name.values()) or [None])
        if worker is not None:
            worker.wanted_concurrency = self.world.rng.choice((None, 0, 1, 2, 5))
            worker.wanted_maintenance = self.world.chance(0.2)
            wished = f"{worker.wanted_concurrency} slots, maintenance {worker.wanted_maintenance}"
            self.world.note("an operator wishes %s", wished)
            self._tell(Changes(everything=True))

    def _ask(self) -> None:
        """Somebody on the worker's own host begins or ends maintenance."""
        daemon = self.world.rng.choice([one for one in self.daemons.values() if one.running] or [None])
        if daemon is not None:
            wanted = self.world.chance(0.5)
            self.world.note("%s: its host asks for maintenance: %s", daemon.label, wanted)
            daemon.ask_maintenance(wanted=wanted, comment="")
            if wanted:
                self.world.at(self.world.within(1.0, 60.0), self._no_more_asked, daemon.site)

    def _no_more_asked(self, site: Site) -> None:
        daemon = self.daemons.get(id(site))
        if daemon is not None and daemon.running:
            daemon.ask_maintenance(wanted=False, comment="")
        elif site in self.sites:
            self.world.at(5.0, self._no_more_asked, site)

    # edge3

    def _edge3_steals(self) -> None:
        """An edge3 worker fetches a queued row, and runs it or fails it."""
        rows = [row for row in self.store.rows.values() if row.state == "queued"]
        if rows:
            self._edge3_fetches(self.world.rng.choice(rows))

    def _edge3_works(self, key: JobKey) -> None:
        row = self.store.rows.get(key)
        if row is not None and not self.healing and self.world.chance(0.5):
            self._edge3_fetches(row)

    def _edge3_fetches(self, row: Row) -> None:
        if self.store.edge3_fetch("e1", row.key):
            runner = Edge3Runner(self.world, self.airflow, self.store, row)
            self.world.at(self.world.within(0.2, 3.0), runner.start)

    def _edge3_patches(self) -> None:
        """A late report of an edge3 worker that had the row once."""
        rows = list(self.store.rows.values())
        if rows:
            row = self.world.rng.choice(rows)
            runner = self.airflow.tasks[row.key.task_id].runner
            # What edge3 says of what edge3 runs, it must know.
            is_its_own = runner is not None and runner.is_edge3
            if row.state in OPEN and row.worker != "e1" and not is_its_own:
                state = self.world.rng.choice(("success", "failed"))
                self.world.note("edge3 writes %s into %s", state, row.key.task_id)
                self.store.edge3_patch(row.key, state)

    def _edge3_deletes(self) -> None:
        rows = [row for row in self.store.rows.values() if row.state != "queued"]
        if rows:
            row = self.world.rng.choice(rows)
            ti = self.airflow.tasks[row.key.task_id]
            if ti.state != "restarting":
                self.world.note("edge3 deletes %s", row.key.task_id)
                ti.excused = "deleted"
                self.store.edge3_delete(row.key)

    # The same name twice

    def _twin(self) -> None:
        """Another machine with the name of the first worker, for a while; then it is gone for good."""
        if len([site for site in self.sites if site.worker == "w1"]) > 1:
            return
        site = self._site(WorkerName("w1"))
        self.world.note("another machine takes the name w1")
        self._start_daemon(site)
        self.world.at(self.world.within(20.0, 150.0), self._twin_leaves, site)

    def _copy(self) -> None:
        """A machine is copied before its first job: two daemons with one name and one site, for a while."""
        first = next((site for site in self.sites if site.worker == "w1"), None)
        if first is None or self.healing or len([one for one in self.sites if one.worker == "w1"]) > 1:
            return
        site = self._site(first.worker, first)
        self.world.note("a copy of w1 runs as well")
        self.network.copied.add(site.worker)
        self._start_daemon(site)
        self.world.at(self.world.within(20.0, 400.0), self._twin_leaves, site)

    def _taken_for_two(self, worker: WorkerName) -> None:
        self.world.note("%s is refused, as there are two of it", worker)
        # What the store remembers of a copy outlasts it; and two late requests of an earlier life look like
        # one: what is refused then is the third.
        haunted = sum(self.network.haunted[site.id] for site in self.sites if site.worker == worker)
        if worker not in self.network.copied and haunted < RETURNS - 1:
            raise Violation(f"{worker} is taken for two, and there is one of it")

    def _twin_leaves(self, site: Site) -> None:
        if site in self.sites and len(self.sites) > 1:
            self._leave(site)

    def _leave(self, site: Site) -> None:
        self.sites.remove(site)
        self._stop(site)
        site.hosts.clear()
        self._lose_outcomes(site)

    @staticmethod
    def _lose_outcomes(site: Site) -> None:
        for process in site.processes.values():
            process.owes = process.has_ended = False

    def _stop(self, site: Site) -> None:
        """All that runs on the machine ends with it."""
        self._end_daemon(site)
        for host in site.hosts:
            if host.alive:
                self._end_host(host, all_of_it=True)
            for job in host.jobs.values():
                job.process.kill()

    # The end

    def _heal(self) -> None:
        self.world.note("all faults are over")
        self.healing = True
        self.network.bad = 0.0
        self.network.no_websockets.clear()
        self.commits_unheard = 0.0
        self.airflow.edge3_queues = 0.0
        self.airflow.api_away = False
        for gateway in self.network.gateways:
            gateway.commits_unheard = 0.0
        for worker in self.store.workers_by_name.values():
            worker.wanted_concurrency, worker.wanted_maintenance = None, False
        for site in self.sites:
            self._join(site)
            self._mend_site(site)
        for site in list(self.sites):
            if len([one for one in self.sites if one.worker == site.worker]) > 1:
                self._twin_leaves(site)

    def _settled(self) -> bool:
        return (
            self.healing
            and len(self.airflow.tasks) == self._expected
            and self.airflow.finished()
            and not any(
                claim.phase is not Phase.ENDED
                for claim in self.store.claims_by_id.values()
                if self.store._held(claim)
            )
            and not any(row.owner or row.state in {*OPEN, "queued"} for row in self.store.rows.values())
            and all(daemon.idle() and _as_wished(daemon) for daemon in self.daemons.values())
        )

    def run(self) -> None:
        """Let it all happen.

        Raises:
            Violation: a rule is broken.
        """
        end = self.faults_end + QUIET_S
        self.world.run(self.faults_end + 2.0)
        while self.world.now < end and not self._settled():
            self.world.run(self.world.now + 5.0)
        self._check()

    def _check(self) -> None:
        for ti in self.airflow.tasks.values():
            if ti.state not in {"success", "failed"}:
                raise Violation(f"{ti.key.task_id} ({ti.id}) is {ti.state} for ever")
        for row in self.store.rows.values():
            if row.owner or row.state in {*OPEN, "queued"}:
                raise Violation(f"the row of {row.key.task_id} stays {row.state}, owner {row.owner}")
        for claim in self.store.open():
            raise Violation(f"claim {claim.id} stays {claim.phase.value}")
        for daemon in self.daemons.values():
            if not daemon.idle():
                held = ", ".join(str(one) for one in daemon._jobs._jobs.values())
                raise Violation(f"{daemon.label} still holds {held} {list(self_records(daemon))}")
            if not _as_wished(daemon):
                wishes = daemon._wishes
                raise Violation(
                    f"{daemon.label} has not in force what is wished: {wishes.wish} {wishes.asked}"
                )
            if daemon._slots.taken:
                raise Violation(f"{daemon.label} has {daemon._slots.taken} slots taken for ever")
        self._check_ends()
        self._check_logs()

    def _check_ends(self) -> None:
        """What had ended before its host died comes to its end, with its log: only what ran is lost."""
        for site in self.sites:
            for process in site.processes.values():
                claim = self.store.claims_by_id.get(process.claim)
                if claim is None or claim.id in self.store.left_behind:
                    continue
                if claim.result == "lost" and process.has_ended:
                    raise Violation(f"{claim.id} had ended, and is lost: {claim.detail}")

    def _check_logs(self) -> None:
        for site in self.sites:
            for process in site.processes.values():
                claim = self.store.claims_by_id.get(process.claim)
                if claim is None or claim.result not in {"success", "failed"} or not process.ran:
                    continue
                file = bytes(site.files[process.path])
                written = bytes(claim.log)
                start = file.find(f"{process.claim} begins\n".encode())
                whole = file[start : process.wrote]
                # Another round of the same task may have written its last words into the file meanwhile.
                if site.id in self.network.filters:
                    # What did not pass is left out, and as many bytes stand in its place.
                    intact = len(written) >= len(whole)
                else:
                    intact = written in file and whole in written
                if not intact:
                    raise Violation(f"the log of {process.claim} is {written!r}, the worker has {whole!r}")


def _as_wished(daemon: SimDaemon) -> bool:
    """Tell whether it has in force what everybody wishes in the end: nothing."""
    return not daemon._wishes.maintenance and daemon._slots.concurrency == daemon._config.concurrency


def self_records(daemon: SimDaemon) -> Iterator[str]:
    yield from daemon.site.outbox.records


class Edge3Runner:
    """A job under an edge3 worker: it reports what it likes to whatever row there is."""

    is_edge3 = True

    def __init__(self, world: World, airflow: Airflow, store: ModelStore, row: Row) -> None:
        self._world, self._airflow, self._store = world, airflow, store
        self._key, self._subject = row.key, row.subject
        self.name, self.worker, self.machine = f"edge3 for {row.key.task_id}", "e1", "e1"
        self.pid = int(world.id(""))
        self.alive = self.well = True
        self.owes = False

    def start(self) -> None:
        self._store.edge3_patch(self._key, "running")
        ok = self._airflow.run(self._subject, self, self._world.now + 600.0)
        self._world.note("/run of %s by edge3: %s", self._subject, ok)
        if not ok:
            # It fails what it may not run, whoever runs it.
            ti = self._airflow.tasks[self._key.task_id]
            ti.excused = "edge3"
            if ti.runner is not None:
                ti.runner.well = False
            self._end("failed")
            return
        ti = self._airflow.all[self._subject]
        self._result = ti.plan[min(ti.round, len(ti.plan) - 1)]
        self._world.at(self._world.within(0.5, 60.0), self._finish)

    def _finish(self) -> None:
        if self._result == "crash" or not self._airflow.finish(self._subject, self, self._result):
            self.well = False
            self._end("failed")
            return
        self._end("success")

    def _end(self, state: str) -> None:
        self.alive = False
        self._world.note("edge3 says %s for %s", state, self._key.task_id)
        row = self._store.rows.get(self._key)
        if row is not None and row.worker != self.worker:
            # It ends another's round, which cannot be told from its own where no claim is open.
            self._airflow.tasks[self._key.task_id].excused = "edge3"
        self._store.edge3_patch(self._key, state)


@contextmanager
def quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def simulate(seed: int, rules: Rules | None = None, until_s: float | None = None) -> Failure | None:
    """Run one seed; return what broke, None if nothing did.

    Args:
        seed: names the history.
        rules: which rules hold; all by default.
        until_s: stop there, as if something had broken, to see the history so far.
    """
    world = World(seed)
    with quiet(), world.as_loop():
        try:
            scenario = Scenario(world, rules or Rules())
            if until_s is not None:
                world.run(until_s)
                return Failure(seed, "stopped", world.told())
            scenario.run()
        except Violation as error:
            return Failure(seed, str(error), world.told())
    return None
