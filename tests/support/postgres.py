"""One PostgreSQL server for a test session: own folders, no TCP port, and nothing left of it afterwards.

Uses a server's programs as they lie there; knows nothing of what is in the databases.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.support.waiting import wait_until

_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    # Far from UTC, and not by whole hours: what forgets time zones shows.
    "timezone": "Asia/Kathmandu",
}
_PR_SET_PDEATHSIG = 1


@dataclass
class PostgresServer:
    """A running server; anybody on this machine may connect as its superuser, who is `postgres`."""

    sockets: Path
    process: subprocess.Popen[bytes]
    start: Callable[[], subprocess.Popen[bytes]] = field(repr=False)

    @property
    def pid(self) -> int:
        """The postmaster's."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """What the server has said."""
        return self.sockets / "log"

    def url(self, database: str) -> sa.URL:
        """Return the URL of a database."""
        query = {"host": str(self.sockets)}
        return sa.URL.create("postgresql+psycopg2", username="postgres", database=database, query=query)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT is `fast` (cuts connections off), SIGQUIT `immediate`, as after a crash."""
        _stop(self.process, how)

    def restart(self) -> None:
        """Start it again after `stop`; call it from the thread that lives longest (see `_die_with_parent`)."""
        self.process = self.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it answers."""
        wait_until(lambda: self.process.poll() is not None or _answers(self), 60)
        if self.process.poll() is not None:
            raise RuntimeError(f"the server did not start: {self.log.read_text()[-2000:]}")


@contextmanager
def postgres_server(programs: Path, settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """Run a server of the programs in that folder for the length of the block; `settings` add to ours."""
    # Not under pytest's folder: that is closed to others, and root's server runs as somebody else.
    work = Path(tempfile.mkdtemp(prefix="edge-ws-pg-", dir="/tmp"))
    try:
        account = _account()
        if account:
            os.chown(work, account.pw_uid, account.pw_gid)
            programs = _reachable(programs, work)
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
        common: dict[str, Any] = {"cwd": work, "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, **as_user}
        data = work / "data"
        initdb: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        initdb += ["--locale=C", "--no-sync"]
        done = subprocess.run(initdb, check=False, capture_output=True, text=True, **common)
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr or done.stdout}")
        options = [f"-c{name}={value}" for name, value in {**_SETTINGS, **(settings or {})}.items()]

        def start() -> subprocess.Popen[bytes]:
            with (work / "log").open("ab") as output:
                return subprocess.Popen[bytes](
                    [programs / "postgres", "-D", data, "-k", work, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_die_with_parent,
                    **common,
                )

        server = PostgresServer(work, start(), start)
        try:
            server.wait_ready()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    """Return whom the server runs as: PostgreSQL refuses root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _reachable(programs: Path, work: Path) -> Path:
    """Return the programs' folder, or that of a copy if others may not come where they lie."""
    where = programs.resolve()
    if all(parent.stat().st_mode & 0o001 for parent in (where, *where.parents)):
        return programs
    # A wheel's programs find their libraries beside its package: the copy keeps that layout.
    install, package = programs.parent, programs.parent.parent
    shutil.copytree(install, work / package.name / install.name)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, work / libraries.name)
    return work / package.name / install.name / programs.name


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _answers(server: PostgresServer) -> bool:
    engine = sa.create_engine(server.url("postgres"), poolclass=sa.NullPool)
    try:
        engine.connect().close()
    except sa.exc.OperationalError:
        return False
    return True


def _stop(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)
        process.wait(10)
