"""A real PgBouncer in transaction mode before a test's PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from tests.support.waiting import free_port, wait_until

_CONFIG = """
[databases]
* = host={sockets} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 5
logfile = {work}/log
"""


@contextmanager
def transaction_pooler(program: Path, url: str | sa.URL) -> Iterator[sa.URL]:
    """Give a URL of the same database through the pooler, for the length of the block."""
    direct = sa.make_url(url)
    work, port = Path(tempfile.mkdtemp(prefix="edge-ws-pgb-", dir="/tmp")), free_port()
    try:
        config = work / "pgbouncer.ini"
        config.write_text(_CONFIG.format(sockets=direct.query["host"], port=port, work=work))
        as_user = []
        if os.geteuid() == 0:
            # It refuses root; and only the server's own account may come to its sockets.
            account = pwd.getpwnam("nobody")
            for path in (work, config):
                os.chown(path, account.pw_uid, account.pw_gid)
            as_user = ["-u", account.pw_name]
        with subprocess.Popen(
            [program, "-q", *as_user, config], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                wait_until(lambda: process.poll() is not None or _answers(port))
                assert process.poll() is None, (work / "log").read_text()
                yield sa.URL.create(
                    direct.drivername,
                    username="postgres",
                    host="127.0.0.1",
                    port=port,
                    database=direct.database,
                )
            finally:
                process.kill()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _answers(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
