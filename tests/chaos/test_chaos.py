"""Chaos on the real thing: everything is killed, frozen and cut at random, and no job is lost or doubled.

`make chaos` is the full form (ROUNDS=200); CHAOS_SEED=n repeats the plan of a run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.chaos.centre import Task
from tests.chaos.checks import broken, unsettled
from tests.chaos.faults import Done, Faults, NotYet
from tests.chaos.fleet import Fleet, running_fleet

ROUNDS = int(os.environ.get("ROUNDS", "0"))
"""0: the short form."""
SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
FULL_ROUNDS = 200
"""So many make each kind of fault at least once, or the test says that it proved nothing about some."""
SHORT_ROUNDS, SHORT_S = 3, 18.0
"""The short form begins no more rounds for a seed after so long."""
WORKERS, SLOTS = 2, 3
LAST_FAULT_S = 6.0
"""Of a round's beginning; most of its jobs have ended by then."""
SETTLED_WITHIN_S = 150.0
IMPATIENT_S = 8.0
"""A worker whose backoff has grown is restarted after this, as an operator would; now and then it is not."""

pytestmark = [pytest.mark.system, pytest.mark.timeout(300 + 120 * ROUNDS)]


class Round:
    """One round: tasks are wanted, faults are made, everything settles."""

    def __init__(self, fleet: Fleet, name: str, random_: random.Random, faults: Faults) -> None:
        self._fleet = fleet
        self._random = random_
        self._begun = time.monotonic()
        self._faults = faults
        self._agenda: list[tuple[float, str]] = []
        self._heals: list[tuple[float, Done]] = []
        self.tasks: list[Task] = []
        self._name = name

    def _say(self, what: str) -> None:
        line = f"{self._name} {time.monotonic() - self._begun:6.2f} {what}"
        self._fleet.said.append(line)
        with (self._fleet.folder / "history").open("a") as file:
            file.write(line + "\n")

    def want(self, index: int, *, last_s: float, lines: int, rounds: int = 1, slots: int = 1) -> Task:
        task = Task(f"{self._name}-{index}", rounds, slots)
        self.tasks.append(task)
        plan = {"last_s": last_s, "lines": lines, "rounds": rounds, "slots": slots, "together": []}
        (self._fleet.notes / f"{task.name}.plan").write_text(json.dumps(plan))
        return task

    def run(self, jobs: int, faults: int) -> None:
        draw = self._random
        wanted = [
            (
                draw.uniform(0, 4),
                self.want(
                    index,
                    last_s=draw.choice([0.0, 0.3, 2.5]) * draw.random(),
                    lines=draw.choice([0, 5, 1500]),
                    rounds=draw.choice([1, 1, 1, 2]),
                    slots=draw.choice([1, 1, 1, 2]),
                ),
            )
            for index in range(jobs)
        ]
        self._agenda = sorted((draw.uniform(0.2, LAST_FAULT_S), name) for name in self._faults.names(faults))
        self._say(f"plan: {[f'{at:.2f} {name}' for at, name in self._agenda]}")
        wanted.sort(key=lambda one: one[0])
        self._until_settled(wanted)

    def run_together(self) -> None:
        """Run as many tasks as there are slots, each waiting for all others: no slot has leaked anywhere."""
        slots = sum(worker.slots for worker in self._fleet.workers)
        tasks = [self.want(index, last_s=0, lines=1) for index in range(slots)]
        names = [task.name for task in tasks]
        for task in tasks:
            path = self._fleet.notes / f"{task.name}.plan"
            path.write_text(json.dumps({**json.loads(path.read_text()), "together": names}))
        self._until_settled([(0.0, task) for task in tasks])

    def _until_settled(self, wanted: list[tuple[float, Task]]) -> None:
        patient = self._random.random() < 0.1
        deadline = SETTLED_WITHIN_S
        away_since: dict[str, float] = {}
        while True:
            now = time.monotonic() - self._begun
            while wanted and wanted[0][0] <= now:
                self._fleet.centre.want(wanted.pop(0)[1])
            self._act(now)
            self._supervise(now)
            self._fleet.centre.tick()
            if not (wanted or self._agenda or self._heals):
                self._look_after(now, away_since, patient)
                left = unsettled(self._fleet)
                if not left:
                    self._say("settled")
                    return
                if now > deadline:
                    raise AssertionError(f"not settled within {deadline:g} s: {left}")
            # The beat of the plan, whose faults come at times of their own: nothing is waited for here.
            time.sleep(0.05)

    def _act(self, now: float) -> None:
        while self._agenda and self._agenda[0][0] <= now:
            at, name = self._agenda.pop(0)
            try:
                done = self._faults.make(name)
            except Exception as error:  # noqa: BLE001 - another fault is in its way
                self._say(f"{name}: not possible now ({type(error).__name__})")
                continue
            if done is None and at < LAST_FAULT_S:
                # A moment later there may be something to do it to.
                self._agenda = sorted([*self._agenda, (now + 0.05, name)])
                continue
            self._say(done.what if done else f"{name}: nothing to do it to")
            if done is not None and done.heal is not None:
                self._heals.append((now + done.heal_s, done))
        for due in [one for one in self._heals if one[0] <= now]:
            self._heals.remove(due)
            assert due[1].heal is not None
            try:
                due[1].heal()
            except NotYet:
                self._heals.append((now + 0.5, due[1]))
                continue
            self._say(f"healed: {due[1].what}")

    def _supervise(self, now: float) -> None:
        """Start again what has ended by itself, as a service manager does."""
        mended = {id(done.victim) for _, done in self._heals}
        for one in self._fleet.programs():
            if not one.is_running and id(one) not in mended:
                self._say(f"{one.name} has ended by itself ({one.popen and one.popen.returncode})")
                self._heals.append((now + 1.0, Done(f"{one.name} ended", one.start, victim=one)))

    def _look_after(self, now: float, away_since: dict[str, float], patient: bool) -> None:
        for worker in self._fleet.workers:
            connected = worker.popen is not None and any(
                one.status == psutil.CONN_ESTABLISHED and one.raddr
                for one in psutil.Process(worker.popen.pid).net_connections("tcp")
            )
            if connected or patient:
                away_since.pop(worker.name, None)
            elif now - away_since.setdefault(worker.name, now) > IMPATIENT_S:
                self._say(f"{worker.name} is away for long: restarted")
                worker.signal(signal.SIGKILL)
                worker.kill()
                worker.start()
                away_since.pop(worker.name)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, session_pids: set[int]) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("chaos"), gateways=2, workers=WORKERS, slots=SLOTS) as fleet:
        yield fleet
    print("\n".join(fleet.left))
    assert not fleet.left


@pytest.fixture(autouse=True)
def _spare_the_fleet(fleet: Fleet, session_pids: set[int]) -> Iterator[None]:
    yield
    home = str(fleet.folder)
    for one in psutil.process_iter(["environ"]):
        if (one.info["environ"] or {}).get("HOME", "").startswith(home):
            session_pids.add(one.pid)
    session_pids.add(fleet.postgres.pid)


def _play(fleet: Fleet, seed: int, rounds: int) -> dict[str, int]:
    """Play the rounds; return how often each kind of fault was made."""
    print(f"CHAOS_SEED={seed}")
    draw = random.Random(seed)
    made: dict[str, int] = {}
    faults = Faults(fleet, draw, made)
    begun = time.monotonic()
    number = -1
    try:
        for number in range(rounds):
            one = Round(fleet, f"s{seed}r{number}", draw, faults)
            one.run(jobs=draw.randint(4, 12), faults=draw.randint(2, 8))
            assert not (found := broken(fleet, one.tasks)), "\n".join(found)
            is_last = number == rounds - 1 or (not ROUNDS and time.monotonic() - begun > SHORT_S)
            if number % 10 == 9 or is_last:
                calm = Round(fleet, f"s{seed}c{number}", draw, faults)
                calm.run_together()
                assert not (found := broken(fleet, calm.tasks)), "\n".join(found)
            if is_last:
                break
    finally:
        print("\n".join(fleet.said[-400:]))
        print(f"CHAOS_SEED={seed}: {number + 1} rounds, {len(fleet.centre.tasks)} tasks so far,")
        print(f"{time.monotonic() - begun:.0f} s; faults made:")
        print("\n".join(f"{times:6} {name}" for name, times in faults.counts().items()))
    return faults.counts()


@pytest.mark.parametrize("seed", [1, pytest.param(SEED, id="random")])
def test_nothing_is_lost_and_nothing_doubled(fleet: Fleet, seed: int) -> None:
    made = _play(fleet, seed, ROUNDS // 2 or SHORT_ROUNDS)
    never = [name for name, times in made.items() if not times]
    assert ROUNDS < FULL_ROUNDS or not never
