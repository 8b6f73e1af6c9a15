"""The job host: one thread, one loop, one daemon at a time; see `jobs` for what it does.

Started by the daemon in a session of its own, it outlives it, and is found again by its files in the hosts'
directory. It never blocks once Airflow is loaded, and knows nothing of claims' meaning or of the network.
Exit codes: 0 left as it should, 1 Airflow cannot be loaded, 2 bad arguments, 6 Airflow is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ws import streams
from edge_ws.errors import EdgeWsError, MissingExtraError, UsageError
from edge_ws.host import bundles, hostname, leftovers, runner
from edge_ws.host.bundles import Sweeper
from edge_ws.host.connection import Connection, value_of
from edge_ws.host.faults import Faults
from edge_ws.host.jobs import GRACE_S, Jobs
from edge_ws.host.journal import Journal
from edge_ws.host.sentences import one_line
from edge_ws.ownership import is_trusted, peer_uid, require_own_folder
from edge_ws.processes import thread_count

IDLE_S = 600.0
"""After this long without a daemon and with nothing running, the host leaves; its journal stays."""
SUPERVISOR_S = 10.0
"""How long the supervisor of a killed task may take to report and leave."""
LONGEST_S = 1e9
"""The longest duration that the daemon may give: some 30 years."""
_FAULT_PAUSE_S = 0.2
"""After a pass of the loop with a fault: one at each pass must not take the whole processor."""
_DEAF_S = 1.0
"""No connection is accepted for so long when none can be: no descriptor is left, perhaps."""
_OWN_LOG_BYTES = 8 * 1024 * 1024
_MISSING = "apache-airflow-task-sdk is not installed; run: pip install 'edge-ws[worker]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What the daemon decided when it started the host."""

    directory: Path
    host: str
    fingerprint: str
    worker: str
    idle_s: float = IDLE_S
    supervisor_s: float = SUPERVISOR_S


class Host:
    """One life of a job host."""

    def __init__(self, settings: HostSettings, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._selector = selectors.DefaultSelector()
        self._listener = _listen(settings.directory, f"{settings.host}.sock")
        self._wakeup, self._wakeup_end = socket.socketpair()
        self._connection: Connection | None = None
        self._quiet_since = 0.0
        """Since when there has been neither a daemon nor anything that runs."""
        self._versions: dict[str, str] = {}
        self._ready = False
        self._sweeper: Sweeper | None = None
        self._leaving = False
        self._faults = Faults(self._tell_faults)
        self._listen_at: float | None = None
        """When connections are accepted again; None: they are."""
        self._jobs = Jobs(
            worker=settings.worker, supervisor_s=settings.supervisor_s, host=self, faults=self._faults
        )

    def load(self) -> None:
        """Load Airflow.

        Raises:
            ImportError: it is not installed, or something it needs is not.
        """
        self.save()
        airflow = runner.preload()
        self._versions = {
            "airflow": airflow,
            "python": platform.python_version(),
            "job_start": "fork" if thread_count() == 1 else "spawn",
        }
        runner.set_title(f"edge-ws host {self._settings.worker}")
        self._sweeper = Sweeper(bundles.sweep_s(), time.monotonic())
        self._ready = True

    def serve(self) -> None:
        """Run until there is no more to do."""
        self._catch_signals()
        leftovers.become_subreaper()
        self.watch(self._listener, self._accept)
        self.watch(self._wakeup, self._signalled)
        self._quiet_since = time.monotonic()
        while not self._finished():
            before = self._faults.count
            # The journal first: what the daemon is told must be true after a crash as well.
            with self._faults.contained("the journal"):
                self.save()
            with self._faults.contained("the connection to the daemon"):
                self._flush()
            was_quiet = self._is_quiet()
            for key, _ in self._selector.select(self._timeout()):
                with self._faults.contained("a message"):
                    key.data()
            self._tick(time.monotonic(), was_quiet=was_quiet)
            if self._faults.count > before:
                time.sleep(_FAULT_PAUSE_S)
        with self._faults.contained("the journal"):
            self.save()

    def _tick(self, now: float, *, was_quiet: bool) -> None:
        """Do what is due by the clock."""
        self._jobs.tick(now)
        if self._sweeper is not None:
            with self._faults.contained("the removal of old bundle versions"):
                self._sweeper.tick(now, self._jobs.close_inherited)
            self._jobs.helper = self._sweeper.pid
        if self._listen_at is not None and self._listen_at <= now:
            self._listen_at = None
            self.watch(self._listener, self._accept)
        if not was_quiet:
            self._quiet_since = now
        idle_until = self._idle_until()
        if idle_until is not None and idle_until <= now:
            with self._faults.contained("leaving"):
                self._leave("it was left alone")

    def fail(self, reason: str) -> None:
        """Leave the reason of a failed start for the daemon."""
        self._journal.save(ready=False, closed=True, jobs=[], failure=reason)

    # The loop's parts

    def watch(self, sock: socket.socket, call: Callable[[], object]) -> None:
        """Call back whenever the socket can be read."""
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, call)

    def unwatch(self, sock: socket.socket) -> None:
        """Stop that, if it has not been stopped."""
        with contextlib.suppress(KeyError, ValueError):  # no longer watched, or closed
            self._selector.unregister(sock)

    def _catch_signals(self) -> None:
        self._wakeup_end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_end.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def _signalled(self) -> None:
        numbers = self._wakeup.recv(4096)
        if signal.SIGTERM in numbers:
            self._leave("it was told to by SIGTERM")
        self._jobs.reap()
        self._shorten_own_log()

    def _leave(self, why: str) -> None:
        """Let what runs end, and nothing else."""
        self._leaving = self._jobs.closed = True
        self.emit(self._hello())  # so that the daemon looks for another host now
        self._jobs.end_waiting(f"the job host is leaving, as {why}")

    def _timeout(self) -> float | None:
        sweep_at = self._sweeper.due_at if self._sweeper is not None else None
        known = (self._jobs.deadline(), self._idle_until(), sweep_at, self._listen_at)
        times = [time_ for time_ in known if time_ is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _is_quiet(self) -> bool:
        return self._connection is None and not self._jobs.busy

    def _idle_until(self) -> float | None:
        return self._quiet_since + self._settings.idle_s if self._is_quiet() and not self._leaving else None

    def _finished(self) -> bool:
        if self._leaving:
            return not self._jobs.busy
        return self._jobs.closed and not len(self._jobs)

    def save(self) -> None:
        """Make the journal safe now."""
        self._journal.save(ready=self._ready, closed=self._jobs.closed, jobs=self._jobs.facts())

    def _shorten_own_log(self) -> None:
        """Put what the supervisors have printed aside when it is much; it has gone to no task's log."""
        with contextlib.suppress(OSError):
            path = self._settings.directory / f"{self._settings.host}.log"
            if path.stat().st_size < _OWN_LOG_BYTES:
                return
            path.replace(path.with_suffix(".log.1"))
            new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.dup2(new, 1)
            os.dup2(new, 2)
            os.close(new)

    def close(self) -> None:
        """Close, in a forked child, what only the host may hold."""
        if self._connection is not None:
            self._connection.close()
        for sock in (self._listener, self._wakeup, self._wakeup_end):
            sock.close()
        self._selector.close()
        self._journal.close()

    # The daemon's connection

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self.unwatch(self._listener)
            self._listen_at = time.monotonic() + _DEAF_S
            self._faults.note("a connection of the daemon", error)
            return
        if not is_trusted(peer_uid(sock)):
            sock.close()
            return
        self._part()  # A new daemon replaces the old one.
        self._connection = Connection(sock)
        self.watch(sock, self._read)

    def _part(self) -> None:
        if self._connection is not None:
            self.unwatch(self._connection.sock)
            self._connection.close()
            self._connection = None

    def _read(self) -> None:
        connection = self._connection
        if connection is None:
            return
        with self._faults.contained("a message of the daemon"):
            try:
                for line in connection.read():
                    with self._faults.contained("a message of the daemon"):
                        self._do(json.loads(line))
            except EOFError:
                self._part()
            except OSError as error:
                sys.stderr.write(f"edge-ws host: the daemon's connection is closed: {one_line(error)}\n")
                self._part()

    def _flush(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            rest = connection.flush()
        except OSError as error:
            sys.stderr.write(f"edge-ws host: the daemon does not listen: {one_line(error)}\n")
            self._part()
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if rest else 0)
        self._selector.modify(connection.sock, events, self._read)

    def emit(self, event: dict[str, object]) -> None:
        """Tell the daemon, if there is one, when the journal is safe."""
        if self._connection is not None:
            self._connection.say(event)

    def _tell_faults(self) -> None:
        self.emit({"ev": "faults", "faults": self._faults.told()})

    def _do(self, wish: dict[str, Any]) -> None:
        verb = _text(wish, "op")
        if verb == "hello":
            self.emit(self._hello())
            if self._faults.count:
                self._tell_faults()
        elif verb == "ping":
            self.emit({"ev": "pong", "n": value_of(wish, "n", int)})
        elif verb == "retire":
            self._jobs.closed = True
        elif verb in {"prepare", "go", "drop", "cancel", "forget"}:
            self._do_for_job(verb, _text(wish, "claim"), wish)
        # Anything else is of a newer daemon; it can tell by our version.

    def _do_for_job(self, verb: str, claim: str, wish: dict[str, Any]) -> None:
        if verb == "prepare":
            proxy = None if wish.get("proxy") is None else _text(wish, "proxy")
            settings = {} if wish.get("settings") is None else _texts(wish, "settings")
            self._jobs.prepare(claim, _text(wish, "payload"), _text(wish, "server"), proxy, settings)
        elif verb == "go":
            grace_s = _seconds(wish, "grace_s") if "grace_s" in wish else GRACE_S
            self._jobs.go(claim, _text(wish, "token"), grace_s)
        elif verb == "drop":
            self._jobs.drop(claim)
        elif verb == "cancel":
            grace_s, look = _seconds(wish, "grace_s"), bool(wish.get("look", False))
            self._jobs.cancel(claim, grace_s, _text(wish, "reason"), time.monotonic(), look=look)
        else:
            self._jobs.forget(claim)

    def _hello(self) -> dict[str, object]:
        return {
            "ev": "hello",
            "host": self._settings.host,
            "fingerprint": self._settings.fingerprint,
            "pid": os.getpid(),
            "ready": self._ready,
            "closed": self._jobs.closed,
            "versions": self._versions,
            "log_folder": str(runner.log_folder()) if self._ready else "",
            "jobs": self._jobs.facts(),
        }


def _listen(directory: Path, name: str) -> socket.socket:
    """Listen on a socket in that directory, however long its path is.

    A socket's address holds 107 bytes; through /proc the directory costs about 20 of them.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{folder}/{name}")
        # Nobody can connect before it listens.
        os.chmod(f"/proc/self/fd/{folder}/{name}", 0o600)  # noqa: PTH101 - through the descriptor
    finally:
        os.close(folder)
    sock.listen(4)
    return sock


def _text(wish: dict[str, Any], name: str) -> str:
    return value_of(wish, name, str)


def _texts(wish: dict[str, Any], name: str) -> dict[str, str]:
    texts = value_of(wish, name, dict)
    if not all(type(text) is str for text in texts.values()):
        raise ValueError(f"{name} must hold texts only")
    return texts


def _seconds(wish: dict[str, Any], name: str) -> float:
    value = wish[name]
    if type(value) not in {int, float} or not math.isfinite(value) or not 0 <= value <= LONGEST_S:
        raise ValueError(f"{name} must be a number of seconds")
    return float(value)


def _parse(argv: list[str]) -> HostSettings:
    parser = argparse.ArgumentParser(
        prog="python -m edge_ws.host.server", description="Started by edge-ws worker."
    )
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--host", required=True)
    parser.add_argument("--fingerprint", required=True)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--idle-s", type=float, default=IDLE_S)
    parser.add_argument("--supervisor-s", type=float, default=SUPERVISOR_S)
    return HostSettings(**vars(parser.parse_args(argv)))


def main(argv: list[str]) -> int:
    """Run one life of a job host; return the exit code."""
    settings = _parse(argv)
    # Before Airflow is loaded: its loggers keep the streams that they find.
    streams.protect_standard_streams()
    try:
        require_own_folder(settings.directory, "the folder of job hosts")
    except UsageError as error:
        sys.stderr.write(f"edge-ws host: {error}\n")
        return error.exit_code
    journal = Journal(settings.directory, settings.host, settings.fingerprint)
    journal.lock()
    # What the jobs inherit. The mark would make Airflow look for its database.
    os.environ.pop("_AIRFLOW_PROCESS_CONTEXT", None)
    os.environ[hostname.VARIABLE] = settings.worker
    os.environ["AIRFLOW__CORE__HOSTNAME_CALLABLE"] = hostname.CALLABLE
    host = Host(settings, journal)
    try:
        host.load()
    except Exception as error:  # noqa: BLE001 - Airflow's own start may raise anything; the daemon tells the user
        reason, code = _why_not(error)
        host.fail(reason)
        sys.stderr.write(f"edge-ws host: {reason}\n")
        return code
    host.serve()
    return 0


def _why_not(error: Exception) -> tuple[str, int]:
    """Return why Airflow cannot be loaded, and the exit code."""
    if isinstance(error, EdgeWsError):
        return str(error), error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name in {"airflow", "airflow.sdk"}:
        return _MISSING, MissingExtraError.exit_code
    return f"Airflow cannot be loaded on this worker: {one_line(error)}", 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
