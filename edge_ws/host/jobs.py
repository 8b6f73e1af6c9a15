"""The jobs of one host: from `prepare` to their last word, and stopping them.

It owns the children's sockets and decides what each job's phase is. It reads no clock (`now` is an argument)
and reaps when it is told to; the loop, the daemon's connection and the journal are the server's. Nothing here
blocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Protocol

from edge_ws.host import child, leftovers, runner, task_log
from edge_ws.host.child import Workload
from edge_ws.host.connection import value_of
from edge_ws.host.faults import Faults
from edge_ws.host.outcome import Call
from edge_ws.host.sentences import how_it_ended
from edge_ws.host.supervision import Right
from edge_ws.processes import group_is_there, kill_tree, signal_group, start_time

LAST_STEPS = 60
"""So many times longer than one that does not answer may a supervisor take whose task has gone: it may have a
long log to upload."""
_ADOPTED_S = 1.0
"""Between two looks for what a dead supervisor has left, as long as there is any."""
GRACE_S = 5.0
"""Between SIGTERM and SIGKILL where the daemon, one of an older release, does not say: Airflow 3.3's."""
Phase = Literal["prepared", "going", "started", "not_started", "ended"]


class _Step(Enum):
    """Who stops the task, and how far it is."""

    ASKED = "asked"
    """Its supervisor has been told."""
    THEIRS = "theirs"
    """Its supervisor has sent SIGTERM."""
    TERMINATED = "terminated"
    """The host has sent SIGTERM, as the supervisor did not answer."""
    KILLED = "killed"
    """The host has sent SIGKILL: the supervisor is next."""
    OVER = "over"
    """The task had gone when it came to that: the supervisor is at its last steps."""


@dataclass(slots=True)
class _Stop:
    """A cancel under way; times on the loop's clock."""

    reason: str
    grace_s: float
    look: bool
    """Airflow decides, by its answer to a heartbeat."""
    due_at: float
    """When the next, harder step is due."""
    step: _Step = _Step.ASKED
    is_late: bool = False
    """The task had ended by itself when it came: nothing is stopped."""


@dataclass(slots=True)
class Job:
    """One attempt of one workload: a process of ours, and below it the task's."""

    claim: str
    pid: int
    sock: socket.socket
    right: Right
    start_time: float | None
    log_path: str | None
    log_file: str | None
    phase: Phase = "prepared"
    task_pid: int | None = None
    task_start_time: float | None = None
    exit_code: int | None = None
    detail: str = ""
    fault: runner.Fault = ""
    log_uploaded: bool = False
    outcome: str = ""
    """The state that Airflow was told, or is to be told, that the task has come to."""
    owed: Call | None = None
    """The request that tells it, as long as Airflow has not answered it."""
    is_handed_over: bool = False
    """The job's process makes that request no more: the daemon is to."""
    alive: bool = True
    dropped: bool = False
    stop: _Stop | None = None
    is_stopping: bool = False
    """Its supervisor has sent SIGTERM, for whatever reason."""
    words: dict[str, Any] = field(default_factory=dict)
    """The child's last word, believed once the child has gone."""
    unread: bytes = b""

    @property
    def is_killed(self) -> bool:
        """Whether it was killed while it waited."""
        return self.phase == "prepared" and (self.dropped or bool(self.words))

    def say(self, **words: object) -> None:
        """Tell the child, if it is there."""
        # The line holds at most two short words, so all of it fits. A child that has died is reported when it
        # is reaped.
        with contextlib.suppress(OSError):
            self.sock.send(json.dumps(words).encode() + b"\n")

    def close(self) -> None:
        """Let go of what it shares with the child."""
        self.sock.close()
        self.right.close()

    def facts(self) -> dict[str, object]:
        """Return what the daemon and the journal are told."""
        return {
            "claim": self.claim,
            "phase": self.phase,
            "pid": self.pid,
            "start_time": self.start_time,
            "task_pid": self.task_pid,
            "task_start_time": self.task_start_time,
            "log_path": self.log_file,
            "exit_code": self.exit_code,
            "detail": self.detail,
            "fault": self.fault,
            "log_uploaded": self.log_uploaded,
            **self.of_outcome(),
        }

    def of_outcome(self) -> dict[str, object]:
        """Return what of it concerns the task's outcome."""
        return {"outcome": self.outcome, "owed": self.owed, "handed_over": self.is_handed_over}


class HostLoop(Protocol):
    """What the jobs need of the host they are in."""

    def emit(self, event: dict[str, object]) -> None:
        """Tell the daemon, after the journal is safe."""

    def save(self) -> None:
        """Make the journal safe now."""

    def watch(self, sock: socket.socket, call: Callable[[], object]) -> None:
        """Call back whenever the socket can be read."""

    def unwatch(self, sock: socket.socket) -> None:
        """Stop that, if it has not been stopped."""

    def close(self) -> None:
        """Close, in a forked child, all that only the host may hold."""


class Jobs:
    """All jobs that a daemon has not yet told this host to forget."""

    def __init__(self, *, worker: str, supervisor_s: float, host: HostLoop, faults: Faults) -> None:
        """`supervisor_s`: how long the supervisor of a killed task may take to report and leave."""
        self._worker = worker
        self._supervisor_s = supervisor_s
        self._host = host
        self._jobs: dict[str, Job] = {}
        self._faults = faults
        self._has_adopted = False
        """A supervisor has died: what was below it is below this process now."""
        self._adopted_at: float | None = None
        """When is looked again for what is left of it."""
        self.closed = False
        """Nothing new is taken."""
        self.helper: int | None = None
        """A child of the host that belongs to no job."""

    def facts(self) -> list[dict[str, object]]:
        """Return every job's facts."""
        return [job.facts() for job in self._jobs.values()]

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def busy(self) -> bool:
        """Whether a job that was told to go has not ended, or one that was told to end."""
        return any(job.alive and (job.phase != "prepared" or job.is_killed) for job in self._jobs.values())

    # What the daemon wants

    def prepare(
        self,
        claim: str,
        payload: str,
        server: str,
        proxy: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Start a process that waits for `go`; `settings` are the centre's for it."""
        job = self._jobs.get(claim)
        if job is None:
            job = self._prepare(claim, payload, server, proxy, settings or {})
        if job is not None and job.phase == "prepared":
            self._host.emit({"ev": "prepared", "claim": claim, "log_path": job.log_file})

    def _prepare(
        self, claim: str, payload: str, server: str, proxy: str | None, settings: Mapping[str, str]
    ) -> Job | None:
        if self.closed:
            self._refuse(claim, "this job host takes nothing new", invalid=False)
            return None
        try:
            described = runner.describe(payload)
            workload = Workload(
                claim=claim,
                payload=payload,
                server=server,
                proxy=proxy,
                worker=self._worker,
                settings=dict(settings),
            )
            pid, sock, right = child.start(workload, self.close_inherited)
        except ValueError as error:
            self._refuse(claim, str(error), invalid=True)
            return None
        except OSError as error:
            reason = f"worker {self._worker} has no room for another process: {error.strerror}"
            self._refuse(claim, reason, invalid=False, fault="host")
            return None
        job = self._jobs[claim] = Job(
            claim=claim,
            pid=pid,
            sock=sock,
            right=right,
            start_time=start_time(pid),
            log_path=described.log_path,
            log_file=described.log_file,
        )
        self._host.watch(sock, lambda: self._hear(job))
        return job

    def _refuse(self, claim: str, reason: str, *, invalid: bool, fault: runner.Fault = "") -> None:
        self._host.emit(
            {"ev": "refused", "claim": claim, "reason": reason, "invalid": invalid, "fault": fault}
        )

    def close_inherited(self) -> None:
        """Close, in a forked child, all that only the host may hold."""
        for job in self._jobs.values():
            job.close()
        self._host.close()

    def go(self, claim: str, token: str, grace_s: float = GRACE_S) -> None:
        """Let the waiting process start its workload; `grace_s` as in `cancel`, for whoever stops it."""
        job = self._jobs.get(claim)
        if job is None:
            self._host.emit(
                {"ev": "not_started", "claim": claim, "reason": "this job host does not know the claim"}
            )
        elif job.phase == "prepared" and not job.is_killed:
            job.phase = "going"
            # Before the token is out: whoever finds this journal after a crash must count the job as begun.
            self._host.save()
            job.say(go=token, grace_s=grace_s)

    def drop(self, claim: str) -> None:
        """Kill a process that still waits."""
        job = self._jobs.get(claim)
        if job is None:
            self._host.emit({"ev": "dropped", "claim": claim})
        elif job.phase == "prepared":
            job.dropped = True
            _kill(job)

    def end_waiting(self, reason: str) -> None:
        """Kill all that still waits; what was promised a start is told that it does not come."""
        for job in self._jobs.values():
            if job.alive and job.phase == "prepared" and not job.dropped:
                job.words = {"not_started": reason, "fault": ""}
                _kill(job)

    def cancel(self, claim: str, grace_s: float, reason: str, now: float, *, look: bool = False) -> None:
        """Have the task's supervisor stop it: SIGTERM, SIGKILL after the grace.

        `look`: the task is over for Airflow, as far as is known; its supervisor asks and decides.
        """
        job = self._jobs.get(claim)
        if job is None or not job.alive or (job.stop is not None and (look or not job.stop.look)):
            return
        if job.phase == "prepared":
            self.drop(claim)
            return
        stop = job.stop = _Stop(reason, grace_s, look, now + grace_s + self._supervisor_s)
        if job.task_pid is not None and not group_is_there(job.task_pid, job.task_start_time):
            stop.is_late = True
            self._leave_it_to_its_last_steps(stop, now)
        elif job.is_stopping:
            stop.step = _Step.THEIRS
        job.say(stop={"reason": reason, "grace_s": grace_s, "look": look})

    def forget(self, claim: str) -> None:
        """Drop the memory of a job whose end is safe elsewhere."""
        job = self._jobs.get(claim)
        if job is not None and not job.alive:
            del self._jobs[claim]

    # Time

    def deadline(self) -> float | None:
        """Return when `tick` must be called next."""
        times = [stop.due_at for _, stop in self._stopping()]
        if self._adopted_at is not None:
            times.append(self._adopted_at)
        return min(times, default=None)

    def _stopping(self) -> list[tuple[Job, _Stop]]:
        return [(job, job.stop) for job in self._jobs.values() if job.alive and job.stop is not None]

    def tick(self, now: float) -> None:
        """Take the harder steps that are due."""
        for job, stop in self._stopping():
            if stop.due_at <= now:
                with self._faults.contained(f"the stopping of claim {job.claim}"):
                    self._harden(job, stop, now)
        if self._adopted_at is not None and self._adopted_at <= now:
            self._adopted_at = None
            self._has_adopted = self._kill_adopted()
        if self._has_adopted and self._adopted_at is None:
            self._adopted_at = now + _ADOPTED_S

    def _harden(self, job: Job, stop: _Stop, now: float) -> None:
        """Step in for a supervisor that does not stop its task, or does not leave."""
        if job.task_pid is None:
            self._kill_supervisor(job, stop, now, "it had not begun")
        elif stop.step is _Step.OVER:
            patience_s = self._supervisor_s * LAST_STEPS
            self._kill_supervisor(job, stop, now, f"it did not end {patience_s:g} s after its task")
        elif stop.step is _Step.KILLED:
            self._kill_supervisor(job, stop, now, f"it did not end {self._supervisor_s:g} s after its task")
        elif not group_is_there(job.task_pid, job.task_start_time):
            self._leave_it_to_its_last_steps(stop, now)
        elif stop.step is _Step.ASKED and job.right.take():
            self._terminate(job, job.task_pid, stop, now)
        elif stop.step is _Step.ASKED:  # It has begun at this moment, and says so next.
            stop.step, stop.due_at = _Step.THEIRS, now + stop.grace_s + self._supervisor_s
        else:
            late = f"it did not stop within {stop.grace_s:g} s of SIGTERM"
            self._say_stopping(job, "error", f"SIGKILL to its process group, as {late}")
            kill_tree(job.task_pid, job.task_start_time)
            stop.step, stop.due_at = _Step.KILLED, now + self._supervisor_s

    def _leave_it_to_its_last_steps(self, stop: _Stop, now: float) -> None:
        stop.step, stop.due_at = _Step.OVER, now + LAST_STEPS * self._supervisor_s

    def _terminate(self, job: Job, task: int, stop: _Stop, now: float) -> None:
        patience_s = stop.grace_s + self._supervisor_s
        silent = f"its supervisor has not answered for {patience_s:g} s"
        self._say_stopping(job, "warning", f"SIGTERM to its process group, as {silent}")
        is_sent = signal_group(task, job.task_start_time, signal.SIGTERM)
        if not is_sent and group_is_there(task, job.task_start_time):
            # With run_as_user, sudo leads the group. Without a supervisor the task can report nothing.
            why = "The task runs as another user, whom this worker may not signal; its supervisor goes last"
            self._log(job, "warning", why)
        stop.step, stop.due_at = _Step.TERMINATED, now + stop.grace_s

    def _kill_supervisor(self, job: Job, stop: _Stop, now: float, why: str) -> None:
        self._say_stopping(job, "error", f"SIGKILL to its supervisor, as {why}")
        _kill(job)
        stop.due_at = now + self._supervisor_s

    def _say_stopping(self, job: Job, level: str, what: str) -> None:
        assert job.stop is not None
        self._log(job, level, f"Stopping the task ({job.stop.reason}): {what}")

    def _log(self, job: Job, level: str, sentence: str) -> None:
        if job.log_path is not None:
            with contextlib.suppress(Exception):  # A full disk must not keep a task from being stopped.
                task_log.write(job.log_path, level, sentence)

    # What the children say

    def _hear(self, job: Job) -> bool:
        """Take what the child has said; tell whether there was anything."""
        try:
            data = job.sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._host.unwatch(job.sock)
            return False
        *lines, job.unread = (job.unread + data).split(b"\n")
        for line in lines:
            with self._faults.contained(f"a word of the process of claim {job.claim}"):
                self._take(job, json.loads(line))
        return True

    def _take(self, job: Job, words: dict[str, Any]) -> None:
        if "forked" in words:
            job.task_pid, job.task_start_time = value_of(words, "forked", int), words["start_time"]
        elif "started" in words:
            job.phase = "started"
            self._host.emit({"ev": "started", "claim": job.claim})
        elif "stopping" in words:
            job.is_stopping = True
            if job.stop is not None and job.stop.step is _Step.ASKED:
                job.stop.step = _Step.THEIRS
                # Not later than at this time it was told to begin.
                job.stop.due_at += job.stop.grace_s + self._supervisor_s
        elif "left" in words:
            if job.stop is not None and job.stop.look and job.stop.step is _Step.ASKED:
                job.stop = None
        elif "telling" in words:
            job.outcome, job.owed = value_of(words, "telling", str), words["call"]
        elif "told" in words:
            job.owed = None
        elif "owed" in words:
            job.is_handed_over = True
            self._host.emit({"ev": "owes", "claim": job.claim, **job.of_outcome()})
        else:
            job.words = child.last_word(words)

    def reap(self) -> None:
        """Conclude the jobs whose process has ended, and end what dead supervisors have left."""
        alive = {job.pid: job for job in self._jobs.values() if job.alive}
        with contextlib.suppress(ChildProcessError):  # there is none
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if (job := alive.pop(pid, None)) is not None:
                    with self._faults.contained(f"the end of claim {job.claim}"):
                        self._conclude(job, os.waitstatus_to_exitcode(status))
        if self._has_adopted:
            self._has_adopted = self._kill_adopted()

    def _kill_adopted(self) -> bool:
        # Living supervisors inherit what is below them, so whatever is inherited here is a dead one's.
        ours = {job.pid for job in self._jobs.values() if job.alive}
        try:
            return leftovers.kill_adopted(ours | ({self.helper} if self.helper is not None else set()))
        except OSError as error:
            # No descriptor is left for the look, perhaps.
            self._faults.note("the look for what a dead supervisor has left", error)
            return True

    def _conclude(self, job: Job, code: int) -> None:
        # What it said before it died is all in the socket now.
        while self._hear(job):
            pass
        self._host.unwatch(job.sock)
        job.close()
        job.alive = False
        if job.task_pid is not None and not job.words:
            self._has_adopted = self._kill_adopted()
        if job.dropped:
            del self._jobs[job.claim]
            self._host.emit({"ev": "dropped", "claim": job.claim})
            return
        how = how_it_ended(code)
        if "ended" in job.words:
            self._end(job, job.words["ended"], job.words["detail"], uploaded=job.words["log_uploaded"])
        elif "not_started" in job.words:
            self._never(job, job.words["not_started"], job.words["fault"])
        elif job.task_pid is None:
            self._never(job, f"the job's process {how} before the task began", "host")
        else:
            self._log(job, "error", f"The task's supervisor {how}; what was left of the task is killed")
            self._end(job, code or 1, f"the task's supervisor {how}", uploaded=False)

    def _end(self, job: Job, exit_code: int, detail: str, *, uploaded: bool) -> None:
        if job.stop is not None and not job.stop.is_late:
            detail = f"cancelled ({job.stop.reason})" + (f": {detail}" if detail else "")
        job.phase, job.exit_code, job.detail, job.log_uploaded = "ended", exit_code, detail, uploaded
        self._host.emit(
            {
                "ev": "ended",
                "claim": job.claim,
                "exit_code": exit_code,
                "detail": detail,
                "log_uploaded": uploaded,
                **job.of_outcome(),
            }
        )

    def _never(self, job: Job, reason: str, fault: runner.Fault) -> None:
        if job.stop is not None and not job.stop.is_late:
            reason, fault = f"cancelled ({job.stop.reason}): {reason}", ""
        job.phase, job.detail, job.fault = "not_started", reason, fault
        self._host.emit({"ev": "not_started", "claim": job.claim, "reason": reason, "fault": fault})


def _kill(job: Job) -> None:
    # Not reaped yet, so the number is still its own.
    with contextlib.suppress(ProcessLookupError):
        os.kill(job.pid, signal.SIGKILL)
