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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from edge_ws.host import child, runner, task_log
from edge_ws.host.child import Workload
from edge_ws.host.processes import group_is_there, kill_tree, signal_group, start_time

LAST_STEPS = 60
"""So many times longer than that of a killed task may the supervisor of one that ended by itself take: it may
have a long log to upload."""
Phase = Literal["prepared", "going", "started", "not_started", "ended"]


@dataclass(slots=True)
class _Stop:
    """A cancel under way; times on the loop's clock."""

    reason: str
    grace_s: float
    signal_at: float
    """When the next, harder signal is due."""
    sent: signal.Signals | None = None
    is_late: bool = False
    """The task had ended by itself when it came: nothing is stopped."""


@dataclass(slots=True)
class Job:
    """One attempt of one workload: a process of ours, and below it the task's."""

    claim: str
    pid: int
    sock: socket.socket
    start_time: float | None
    log_path: str | None
    log_file: str | None
    phase: Phase = "prepared"
    task_pid: int | None = None
    task_start_time: float | None = None
    exit_code: int | None = None
    detail: str = ""
    log_uploaded: bool = False
    alive: bool = True
    dropped: bool = False
    stop: _Stop | None = None
    words: dict[str, Any] = field(default_factory=dict)
    """The child's last word, believed once the child has gone."""
    unread: bytes = b""

    @property
    def is_killed(self) -> bool:
        """Whether it was killed while it waited."""
        return self.phase == "prepared" and (self.dropped or bool(self.words))

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
            "log_uploaded": self.log_uploaded,
        }


class Surroundings(Protocol):
    """What the jobs need of the host they are in."""

    def emit(self, event: dict[str, object]) -> None:
        """Tell the daemon, after the journal is safe."""

    def save(self) -> None:
        """Make the journal safe now."""

    def watch(self, sock: socket.socket, call: Callable[[], None]) -> None:
        """Call back whenever the socket can be read."""

    def unwatch(self, sock: socket.socket) -> None:
        """Stop that, if it has not been stopped."""

    def close(self) -> None:
        """Close, in a forked child, all that only the host may hold."""


class Jobs:
    """All jobs that a daemon has not yet told this host to forget."""

    def __init__(self, *, worker: str, supervisor_s: float, host: Surroundings) -> None:
        """`supervisor_s`: how long the supervisor of a killed task may take to report and leave."""
        self._worker = worker
        self._supervisor_s = supervisor_s
        self._host = host
        self._jobs: dict[str, Job] = {}
        self.closed = False
        """Nothing new is taken."""

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

    def prepare(self, claim: str, payload: str, server: str, proxy: str | None = None) -> None:
        """Start a process that waits for `go`."""
        job = self._jobs.get(claim)
        if job is None:
            job = self._prepare(claim, payload, server, proxy)
        if job is not None and job.phase == "prepared":
            self._host.emit({"ev": "prepared", "claim": claim, "log_path": job.log_file})

    def _prepare(self, claim: str, payload: str, server: str, proxy: str | None) -> Job | None:
        if self.closed:
            self._refuse(claim, "this job host takes nothing new", invalid=False)
            return None
        try:
            described = runner.describe(payload)
            workload = Workload(claim=claim, payload=payload, server=server, proxy=proxy, worker=self._worker)
            pid, sock = child.start(workload, self._close_inherited)
        except ValueError as error:
            self._refuse(claim, str(error), invalid=True)
            return None
        except OSError as error:
            reason = f"worker {self._worker} has no room for another process: {error.strerror}"
            self._refuse(claim, reason, invalid=False)
            return None
        job = self._jobs[claim] = Job(
            claim=claim,
            pid=pid,
            sock=sock,
            start_time=start_time(pid),
            log_path=described.log_path,
            log_file=described.log_file,
        )
        self._host.watch(sock, lambda: self._hear(job))
        return job

    def _refuse(self, claim: str, reason: str, *, invalid: bool) -> None:
        self._host.emit({"ev": "refused", "claim": claim, "reason": reason, "invalid": invalid})

    def _close_inherited(self) -> None:
        for job in self._jobs.values():
            job.sock.close()
        self._host.close()

    def go(self, claim: str, token: str) -> None:
        """Let the waiting process start its workload."""
        job = self._jobs.get(claim)
        if job is None:
            self._host.emit(
                {"ev": "not_started", "claim": claim, "reason": "this job host does not know the claim"}
            )
        elif job.phase == "prepared" and not job.is_killed:
            job.phase = "going"
            # Before the token is out: whoever finds this journal after a crash must count the job as begun.
            self._host.save()
            # The line is empty until now and the token is short, so all of it fits. A child that has died is
            # reported when it is reaped.
            with contextlib.suppress(OSError):
                job.sock.send(json.dumps({"go": token}).encode() + b"\n")

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
                job.words = {"not_started": reason}
                _kill(job)

    def cancel(self, claim: str, grace_s: float, reason: str, now: float) -> None:
        """Stop the task's process group: SIGTERM now, SIGKILL after the grace, the supervisor at last."""
        job = self._jobs.get(claim)
        if job is None or not job.alive or job.stop is not None:
            return
        if job.phase == "prepared":
            self.drop(claim)
            return
        job.stop = _Stop(reason=reason, grace_s=grace_s, signal_at=now + grace_s)
        # If the task's process is not known yet, the signal follows when it is.
        if job.task_pid is not None:
            self._terminate(job)

    def forget(self, claim: str) -> None:
        """Drop the memory of a job whose end is safe elsewhere."""
        job = self._jobs.get(claim)
        if job is not None and not job.alive:
            del self._jobs[claim]

    # Time

    def deadline(self) -> float | None:
        """Return when `tick` must be called next."""
        return min((stop.signal_at for _, stop in self._stopping()), default=None)

    def _stopping(self) -> list[tuple[Job, _Stop]]:
        return [(job, job.stop) for job in self._jobs.values() if job.alive and job.stop is not None]

    def tick(self, now: float) -> None:
        """Send the harder signals that are due."""
        for job, stop in self._stopping():
            if stop.signal_at <= now:
                self._harden(job, stop, now)

    def _terminate(self, job: Job) -> None:
        assert job.stop is not None
        assert job.task_pid is not None
        if not group_is_there(job.task_pid, job.task_start_time):
            job.stop.is_late = True
            job.stop.signal_at += LAST_STEPS * self._supervisor_s
            return
        job.stop.sent = signal.SIGTERM
        self._log(job, "warning", f"Stopping the task ({job.stop.reason}): SIGTERM to its process group")
        is_sent = signal_group(job.task_pid, job.task_start_time, signal.SIGTERM)
        if not is_sent and group_is_there(job.task_pid, job.task_start_time):
            # With run_as_user, sudo leads the group. Without a supervisor the task can report nothing.
            why = "The task runs as another user, whom this worker may not signal; its supervisor goes last"
            self._log(job, "warning", why)

    def _harden(self, job: Job, stop: _Stop, now: float) -> None:
        stop.signal_at = now + self._supervisor_s
        if job.task_pid is None or stop.is_late or stop.sent is signal.SIGKILL:
            patience_s = self._supervisor_s * (LAST_STEPS if stop.is_late else 1)
            what = (
                "it had not begun"
                if job.task_pid is None
                else f"it did not end {patience_s:g} s after its task"
            )
            self._log(
                job, "error", f"Stopping the task ({stop.reason}): SIGKILL to its supervisor, as {what}"
            )
            _kill(job)
            return
        stop.sent = signal.SIGKILL
        late = f"it did not stop within {stop.grace_s:g} s of SIGTERM"
        self._log(job, "error", f"Stopping the task ({stop.reason}): SIGKILL to its process group, as {late}")
        kill_tree(job.task_pid, job.task_start_time)

    def _log(self, job: Job, level: str, sentence: str) -> None:
        if job.log_path is not None:
            with contextlib.suppress(Exception):  # A full disk must not keep a task from being stopped.
                task_log.write(job.log_path, level, sentence)

    # What the children say

    def _hear(self, job: Job) -> None:
        try:
            data = job.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._host.unwatch(job.sock)
            return
        *lines, job.unread = (job.unread + data).split(b"\n")
        for line in lines:
            self._take(job, json.loads(line))

    def _take(self, job: Job, words: dict[str, Any]) -> None:
        if "forked" in words:
            job.task_pid, job.task_start_time = words["forked"], words["start_time"]
            if job.stop is not None:
                self._terminate(job)
        elif "started" in words:
            job.phase = "started"
            self._host.emit({"ev": "started", "claim": job.claim})
        else:
            job.words = words

    def reap(self) -> None:
        """Conclude the jobs whose process has ended."""
        for job in list(self._jobs.values()):
            if job.alive:
                pid, status = os.waitpid(job.pid, os.WNOHANG)
                if pid:
                    self._conclude(job, os.waitstatus_to_exitcode(status))

    def _conclude(self, job: Job, code: int) -> None:
        # What it said before it died is all in the socket now; one read takes it, as it is short.
        self._hear(job)
        self._host.unwatch(job.sock)
        job.sock.close()
        job.alive = False
        if job.dropped:
            del self._jobs[job.claim]
            self._host.emit({"ev": "dropped", "claim": job.claim})
            return
        how = runner.how_it_ended(code)
        if "ended" in job.words:
            self._end(job, job.words["ended"], job.words["detail"], uploaded=job.words["log_uploaded"])
        elif "not_started" in job.words:
            self._never(job, job.words["not_started"])
        elif job.task_pid is None:
            self._never(job, f"the job's process {how} before the task began")
        else:
            self._log(job, "error", f"The task's supervisor {how}; what was left of the task is killed")
            self._end(job, code or 1, f"the task's supervisor {how}", uploaded=False)

    def _end(self, job: Job, exit_code: int, detail: str, *, uploaded: bool) -> None:
        if job.task_pid is not None and (job.stop is not None or "ended" not in job.words):
            # Its supervisor has gone: nothing of a cancelled or orphaned task may be left.
            kill_tree(job.task_pid, job.task_start_time)
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
            }
        )

    def _never(self, job: Job, reason: str) -> None:
        if job.stop is not None and not job.stop.is_late:
            reason = f"cancelled ({job.stop.reason}): {reason}"
        job.phase, job.detail = "not_started", reason
        self._host.emit({"ev": "not_started", "claim": job.claim, "reason": reason})


def _kill(job: Job) -> None:
    # Not reaped yet, so the number is still its own.
    with contextlib.suppress(ProcessLookupError):
        os.kill(job.pid, signal.SIGKILL)
