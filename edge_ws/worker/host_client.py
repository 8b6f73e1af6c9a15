"""The daemon's side of the job hosts: one that takes new jobs, and whichever older ones still have some.

It finds living hosts in their directory, attaches to them, replaces one that dies, and tells the daemon what
they tell. Knows neither Airflow nor the server; the processes themselves are `host_process`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import ByteStream

from edge_ws.errors import RemoteProtocolError, UsageError
from edge_ws.protocol.codec import reader
from edge_ws.protocol.ids import ClaimId, HostId, new_id
from edge_ws.worker import host_process
from edge_ws.worker.faults import Faults, FaultTold
from edge_ws.worker.files import make_folder
from edge_ws.worker.host_connection import HostConnection
from edge_ws.worker.host_events import (
    Dropped,
    HostEvent,
    HostFailed,
    HostGone,
    HostJob,
    HostSettings,
    HostUp,
    JobEnded,
    JobNotStarted,
    JobOwes,
    JobStarted,
    Prepared,
    PrepareRefused,
    read_job,
)
from edge_ws.worker.host_process import HostFiles, Journal

__all__ = [
    "Dropped",
    "HostEvent",
    "HostFailed",
    "HostGone",
    "HostJob",
    "HostSettings",
    "HostUp",
    "Hosts",
    "JobEnded",
    "JobNotStarted",
    "JobOwes",
    "JobStarted",
    "PrepareRefused",
    "Prepared",
]

log = logging.getLogger("edge_ws.worker")

_LOOK_S = 0.05
"""How often is looked whether a host that starts listens, or one that was killed is gone."""
_AGAIN_S = 1.0
"""After a fault of this daemon's own, before it goes on with the host that it came from."""
_LONGEST_RESTART_S = 60.0
_STABLE_S = 60.0
"""A host that was ready for so long may be replaced at once."""
_LONGEST_LINE = 32 * 1024 * 1024
"""Bytes; more than a host can mean."""
_BURIAL_S = 10.0
"""How long a killed process may take to vanish: one stuck in the kernel runs no more code of its own."""


class Hosts:
    """All job hosts of this site. Only `run` and `retire` take time; `on_event` is called from them alone."""

    def __init__(
        self,
        settings: HostSettings,
        on_event: Callable[[HostEvent], None],
        faults: Faults | None = None,
    ) -> None:
        self._settings = settings
        self._take = on_event
        self._faults = faults or Faults()
        self._lives: dict[HostId, HostConnection] = {}
        self._claims: dict[ClaimId, HostConnection] = {}
        self.task_settings: Mapping[str, str] = {}
        """The centre's for tasks, by `section.option`; they hold where the site has set none of its own."""
        self._retiring = False
        self._found = False

    @property
    def current(self) -> HostId | None:
        """The host that new jobs go to, None while none is ready."""
        return next((life.host for life in self._lives.values() if life.accepts), None)

    @property
    def alive(self) -> tuple[HostId, ...]:
        """Every host that is not known dead."""
        return tuple(self._lives)

    def _on_event(self, event: HostEvent) -> None:
        with self._faults.contained(f"an event of a job host ({type(event).__name__})"):
            self._take(event)

    # What the daemon wants

    def prepare(self, claim: ClaimId, payload: str, server: str, proxy: str | None = None) -> None:
        """Have the current host start a process that waits: `Prepared` or `PrepareRefused` follows.

        `server` is the Execution API's base URL, `proxy` the forward proxy on the way there.
        """
        current = self.current
        if current is None:
            event = PrepareRefused(claim, "no job host is ready on this worker")
            asyncio.get_running_loop().call_soon(self._on_event, event)
            return
        life = self._claims[claim] = self._lives[current]
        life.preparing.add(claim)
        settings = dict(self.task_settings)
        life.say("prepare", claim=claim, payload=payload, server=server, proxy=proxy, settings=settings)

    def go(self, claim: ClaimId, token: str, grace_s: float) -> None:
        """Let the waiting process start; nothing happens if its host is gone, which is told by `HostGone`.

        `grace_s`: between SIGTERM and SIGKILL if the task is stopped, whoever finds that it is to be.
        """
        self._say(claim, "go", token=token, grace_s=grace_s)

    def drop(self, claim: ClaimId) -> None:
        """Kill the waiting process: `Dropped` follows."""
        self._say(claim, "drop")

    def cancel(self, claim: ClaimId, grace_s: float, reason: str, *, look: bool = False) -> None:
        """Have Airflow's supervisor stop the job: SIGTERM, SIGKILL after the grace; `JobEnded` follows.

        `look`: it asks Airflow first, at once, and does as the answer says.
        """
        self._say(claim, "cancel", grace_s=grace_s, reason=reason, look=look)

    def forget(self, claim: ClaimId) -> None:
        """The job's end is safe elsewhere: its host need not keep it."""
        if life := self._claims.pop(claim, None):
            life.forgotten.append(claim)
            life.say("forget", claim=claim)

    def _say(self, claim: ClaimId, op: str, **words: object) -> None:
        if life := self._claims.get(claim):
            life.say(op, claim=claim, **words)

    # Running

    async def run(self) -> None:
        """Keep one host ready until cancelled, which leaves all hosts and their jobs alive.

        Raises:
            UsageError: the hosts' directory cannot be made.
        """
        adopted = self._find()
        async with anyio.create_task_group() as tasks:
            for found in list(self._lives.values()):
                tasks.start_soon(self._attend, found)
            delay_s = 0.0
            while not self._retiring:
                life: HostConnection | None = adopted or self._launch()
                if life is not None:
                    if life is not adopted:
                        tasks.start_soon(self._attend, life)
                    await life.unwanted.wait()
                adopted = None
                if life is not None and life.ready_since and time.monotonic() - life.ready_since > _STABLE_S:
                    delay_s = 0.0
                else:
                    delay_s = min(max(2 * delay_s, self._settings.restart_s), _LONGEST_RESTART_S)
                await anyio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
            await anyio.sleep_forever()

    async def retire(self) -> None:
        """Let every host finish what it has and leave; return when all are gone. Works after `run`, too."""
        self._retiring = True
        self._find()
        async with anyio.create_task_group() as tasks:
            for life in list(self._lives.values()):
                if life.launched and life.ready_since is None:
                    life.wanted = False
                    life.kill()  # It has never had a job.
                    life.unwanted.set()
                else:
                    life.retire()
                if not life.attended:
                    tasks.start_soon(self._attend, life)
            while self._lives:  # noqa: ASYNC110 - any of several tasks buries them
                await anyio.sleep(_LOOK_S)

    def _find(self) -> HostConnection | None:
        """Learn once of the hosts that another daemon has left; return the one that new jobs may go to."""
        if self._found:
            return next((life for life in self._lives.values() if life.wanted), None)
        self._found = True
        directory = self._settings.directory
        try:
            make_folder(directory, "the folder of job hosts", self._faults)
        except OSError as error:
            raise UsageError(
                f"the folder {directory} cannot be made: {error.strerror}; choose another state directory"
            ) from error
        adopted = None
        for host in host_process.find_hosts(directory):
            files = HostFiles(directory, host)
            try:
                journal = host_process.read_journal(files, self._faults)
            except OSError as error:
                self._faults.note(f"the look at job host {host}", error)
                journal = Journal()
            fits = journal.fingerprint == self._settings.fingerprint and not journal.closed
            patience_s = self._settings.ping_timeout_s if journal.ready else self._settings.start_timeout_s
            life = self._lives[host] = HostConnection(
                files,
                child=None,
                wanted=fits and adopted is None and not self._retiring,
                patience_s=patience_s,
            )
            if life.wanted:
                adopted = life
            elif not journal.closed:
                life.retire()
        return adopted

    def _launch(self) -> HostConnection | None:
        settings = self._settings
        files = HostFiles(settings.directory, HostId(new_id()))
        try:
            child = host_process.launch(
                files,
                python=settings.python,
                environment=settings.environment,
                fingerprint=settings.fingerprint,
                worker_name=settings.worker_name,
            )
        except OSError as error:
            self._on_event(HostFailed(f"{settings.python} cannot be started: {error.strerror}"))
            return None
        life = HostConnection(files, child=child, wanted=True, patience_s=settings.start_timeout_s)
        self._lives[files.host] = life
        return life

    # One host's life

    async def _attend(self, life: HostConnection) -> None:
        """Stay with a host until it is dead, then bury it."""
        life.attended = True
        try:
            while life.host in self._lives:
                with self._faults.contained(f"the watch over job host {life.host}"):
                    await self._attend_once(life)
                    return
                await anyio.sleep(_AGAIN_S)
        finally:
            life.attended = False

    async def _attend_once(self, life: HostConnection) -> None:
        give_up = time.monotonic() + life.patience_s
        while life.lives():
            if await self._converse(life):
                give_up = time.monotonic() + self._settings.ping_timeout_s
            elif time.monotonic() > give_up:
                life.kill()
            await anyio.sleep(_LOOK_S)
        await self._bury(life)

    async def _converse(self, life: HostConnection) -> bool:
        """Talk with the host until the connection ends; tell whether there was any."""
        try:
            stream = await life.connect()
        except OSError as error:
            log.warning("job host %s cannot be reached, through no fault of its own: %s", life.host, error)
            return True
        if stream is None:
            return False
        async with stream, anyio.create_task_group() as tasks:

            async def until_the_end(part: Callable[[HostConnection, ByteStream], Any]) -> None:
                with contextlib.suppress(
                    anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream
                ):
                    await part(life, stream)
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_the_end, self._read)
            tasks.start_soon(until_the_end, self._write)
            tasks.start_soon(until_the_end, self._watch)
        return True

    async def _write(self, life: HostConnection, stream: ByteStream) -> None:
        await stream.send(b'{"op": "hello"}\n')
        await life.send_all(stream)

    async def _read(self, life: HostConnection, stream: ByteStream) -> None:
        unread, is_skipping = bytearray(), False
        async for data in stream:
            unread += data
            # What goes on without an end is not searched again at each piece.
            *lines, unread = unread.split(b"\n") if b"\n" in data else [unread]
            for line in lines:
                if not is_skipping:
                    self._hear(life, bytes(line))
                is_skipping = False
            if len(unread) > _LONGEST_LINE:
                if not is_skipping:
                    self._odd(life, f"a line of more than {_LONGEST_LINE} bytes")
                unread, is_skipping = bytearray(), True

    async def _watch(self, life: HostConnection, _stream: ByteStream) -> None:
        """Ping the host, and kill it if it does not answer."""
        settings = self._settings
        if not await life.in_time(lambda: life.ready_since is not None, life.patience_s):
            log.error("job host %s does not answer; it is killed", life.host)
            life.kill()
            return
        healthy = True
        while healthy:
            await anyio.sleep(settings.ping_interval_s)
            healthy = await life.answers_ping(settings.ping_timeout_s)
        log.error("job host %s has not answered for %g s; it is killed", life.host, settings.ping_timeout_s)
        life.kill()

    async def _bury(self, life: HostConnection) -> None:
        """Clear up after a dead host, and tell the daemon."""
        journal = host_process.read_journal(life.files, self._faults)
        with anyio.move_on_after(_BURIAL_S):
            while host_process.kill_leftovers(journal):  # noqa: ASYNC110 - not our children: nothing tells
                await anyio.sleep(_LOOK_S)
        left = journal.closed and journal.failure is None and not journal.has_unfinished
        events = [*self._ends(life, journal, left=left)]
        # Whoever hears of it must not find it among the living.
        del self._lives[life.host]
        self._claims = {claim: other for claim, other in self._claims.items() if other is not life}
        life.wanted = False
        life.unwanted.set()
        for event in events:
            self._on_event(event)
        # Last: should this daemon end before, the next one reads them.
        host_process.remove(life.files, keep_log=not left)

    def _ends(self, life: HostConnection, journal: Journal, *, left: bool) -> Iterator[HostEvent]:
        for claim in sorted(life.preparing):
            yield PrepareRefused(claim, "the job host died before the job was ready")
        if life.launched and life.ready_since is None:
            if not self._retiring:
                words = host_process.last_words(life.files) or "it said nothing"
                yield HostFailed(journal.failure or f"the job host ended during its start: {words}")
            return
        jobs = self._jobs_of(life, journal.jobs)
        yield HostGone(life.host, tuple(job for job in jobs if job.claim not in life.forgotten), left)

    # What a host tells

    def _hear(self, life: HostConnection, line: bytes) -> None:
        told: Any = None
        try:
            told = json.loads(line)
            event = self._read_event(life, told)
        except (RemoteProtocolError, ValueError, LookupError, TypeError, RecursionError) as error:
            # Of a host of another release perhaps: its other words still count.
            self._odd(life, repr(error) if isinstance(error, LookupError) else str(error))
            if isinstance(told, dict) and told.get("ev") in list(_EVENTS):
                # What it says of a job: its next answer tells how far each is, as far as that is sound.
                life.say("hello")
            return
        if event is not None:
            self._on_event(event)

    def _odd(self, life: HostConnection, error: str) -> None:
        what, place = "what a job host says", f"job host {life.host}"
        self._faults.odd(what, place, f"not understood: {error}", "it is ignored; please report it")

    def _read_event(self, life: HostConnection, told: dict[str, Any]) -> HostEvent | None:
        match told["ev"]:
            case "hello":
                return self._hello(life, told)
            case "pong":
                life.ponged = _PONG(told, "pong").n
                life.answered()
            case "faults":
                for one in _FAULTS(told, "faults").faults:
                    self._faults.of_host(life.host, one)
            case str(kind) if kind in _EVENTS:
                event: _AboutJob = _EVENTS[kind]({**told, "host": life.host}, kind)
                life.preparing.discard(event.claim)
                if isinstance(event, PrepareRefused | Dropped):
                    self._claims.pop(event.claim, None)
                return event
        return None

    def _jobs_of(self, life: HostConnection, told: Iterable[object]) -> list[HostJob]:
        read = (read_job(one, lambda error: self._odd(life, error)) for one in told)
        return [job for job in read if job is not None]

    def _hello(self, life: HostConnection, told: dict[str, Any]) -> HostEvent | None:
        greeting = _HELLO(told, "hello")
        if not greeting.ready:
            return None
        jobs = tuple(self._jobs_of(life, told["jobs"]))
        if life.ready_since is None:
            life.ready_since = time.monotonic()
        if greeting.closed:
            life.wanted = False
            life.unwanted.set()
        for job in jobs:
            self._claims[job.claim] = life
        life.answered()
        return HostUp(life.host, jobs, greeting.versions, life.accepts, greeting.log_folder)


@dataclass(frozen=True, slots=True)
class _Hello:
    """What a host tells of itself; its jobs are read one by one, so that an odd one hides no other."""

    ready: bool
    closed: bool
    versions: dict[str, str]
    log_folder: str = ""
    """Empty: a host of an older release."""


@dataclass(frozen=True, slots=True)
class _Pong:
    n: int


@dataclass(frozen=True, slots=True)
class _Faults:
    faults: tuple[FaultTold, ...]


_HELLO, _PONG, _FAULTS = reader(_Hello), reader(_Pong), reader(_Faults)
_AboutJob = Prepared | PrepareRefused | Dropped | JobStarted | JobNotStarted | JobEnded | JobOwes
_EVENTS: Mapping[str, Callable[[object, str], _AboutJob]] = {
    "prepared": reader(Prepared),
    "refused": reader(PrepareRefused),
    "dropped": reader(Dropped),
    "started": reader(JobStarted),
    "not_started": reader(JobNotStarted),
    "ended": reader(JobEnded),
    "owes": reader(JobOwes),
}
"""A host's word about a claim -> what reads it."""
