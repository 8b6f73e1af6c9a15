"""Real nginx, haproxy and squid as ordinary processes on loopback, with configurations of the test's own.

Each has a folder of its own and a free port that it keeps when it is started again; nothing of it is left
behind. Knows nothing of what it stands before.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support import services
from tests.support.waiting import free_port, wait_until

READY_S = 20.0


@dataclass
class Proxy:
    """One proxy with its processes."""

    name: str
    folder: Path
    port: int
    command: list[str]
    as_user: dict[str, Any] = field(default_factory=dict)
    _popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of its port, by plain HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.folder / "config"

    @property
    def log(self) -> str:
        """What it has said, of requests too where the configuration asks for that."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(path.read_text(errors="replace") for path in logs)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert self._popen is None
        with (self.folder / "output.log").open("ab") as output:
            self._popen = popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
                **self.as_user,
            )
        wait_until(lambda: popen.poll() is not None or _listens(self.port), READY_S)
        assert popen.poll() is None, f"{self.name} did not start:\n{self.log[-3000:]}"

    def kill(self) -> None:
        """Kill it with all its processes: each of its connections breaks."""
        popen, self._popen = self._popen, None
        if popen is None:
            return
        others = _children(popen.pid)
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        # Each of them has the listening socket, and dies in its own time.
        wait_until(lambda: not any(_lives(one) for one in others), READY_S)

    def stop(self) -> None:
        """Let it end by itself, with all its logs written."""
        assert self._popen is not None
        self._popen.terminate()
        self._popen.wait(READY_S)
        self.kill()

    def restart(self, config: str | None = None) -> None:
        """Kill it and start it again, with another configuration if one is given."""
        self.kill()
        if config is not None:
            self.config.write_text(config)
        self.start()


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _running(
    name: str, config: Callable[[Path, int], str], command: Callable[[Path], list[str]], *, no_root: bool
) -> Iterator[Proxy]:
    # Not under pytest's folder: that is closed to others, and root's squid runs as somebody else.
    folder = Path(tempfile.mkdtemp(prefix=f"edge-ws-{name}-", dir="/tmp"))
    port = free_port()
    as_user: dict[str, Any] = {}
    if no_root and os.geteuid() == 0:
        account = pwd.getpwnam("nobody")
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    proxy = Proxy(name, folder, port, command(folder / "config"), as_user)
    try:
        proxy.config.write_text(config(folder, port))
        proxy.start()
        yield proxy
    finally:
        proxy.kill()
        shutil.rmtree(folder, ignore_errors=True)


# nginx


def nginx_config(
    folder: Path, port: int, gateways: Sequence[int], location: str = "", server: str = ""
) -> str:
    """Return a configuration that passes everything on to gateways, round robin.

    Without `location`, nginx does what it does by default: HTTP/1.0 to the gateway, and no Upgrade.
    """
    servers = " ".join(f"server 127.0.0.1:{one} max_fails=0;" for one in gateways)
    # Started by root, its workers would give themselves to another account.
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
daemon off;
{user}
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log notice;
events {{ worker_connections 512; }}
http {{
    log_format told '$status|$upstream_http_content_length|$request_method|$uri|$upstream_addr';
    access_log {folder}/access.log told;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream gateways {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        {server}
        location / {{
            proxy_pass http://gateways;
            {location}
        }}
    }}
}}
"""


NGINX_PASSES_UPGRADES = """
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
"""
"""What lets WebSockets pass nginx, for its location."""


@dataclass(frozen=True)
class Request:
    """One request as nginx logs it."""

    status: str
    length: str
    """The Content-Length that the gateway told."""
    method: str
    path: str
    gateways: str
    """Their addresses: of one, unless that could not be reached."""


@dataclass
class Nginx:
    """nginx before some gateways, whose configuration can be changed while it runs."""

    proxy: Proxy
    gateways: Sequence[int]

    @property
    def url(self) -> str:
        """Its address."""
        return self.proxy.url

    def requests(self) -> list[Request]:
        """Return the requests that ended, in that order."""
        lines = (self.proxy.folder / "access.log").read_text().splitlines()
        return [Request(*line.split("|")) for line in lines]

    def configure(self, location: str = "") -> None:
        """Reload with another location: what is open goes on under the old one."""
        proxy = self.proxy
        proxy.config.write_text(nginx_config(proxy.folder, proxy.port, self.gateways, location))
        master = psutil.Process(int((proxy.folder / "pid").read_text()))
        workers = master.children()
        master.send_signal(signal.SIGHUP)
        wait_until(lambda: not any(_accepts(one, proxy.port) for one in workers), READY_S)


def _accepts(process: psutil.Process, port: int) -> bool:
    try:
        sockets = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in sockets)


@contextmanager
def nginx(gateways: Sequence[int], location: str = "", server: str = "") -> Iterator[Nginx]:
    """Run nginx before gateways for the length of the block."""
    program = services.nginx()
    with _running(
        "nginx",
        lambda folder, port: nginx_config(folder, port, gateways, location, server),
        lambda config: [str(program), "-p", str(config.parent), "-c", str(config), "-e", "stderr"],
        no_root=False,
    ) as proxy:
        yield Nginx(proxy, gateways)


@contextmanager
def nginx_as(config: Callable[[Path, int], str]) -> Iterator[Proxy]:
    """Run nginx with a configuration made of its folder and port for the length of the block."""
    program = services.nginx()
    with _running(
        "nginx",
        config,
        lambda file: [str(program), "-p", str(file.parent), "-c", str(file), "-e", "stderr"],
        no_root=False,
    ) as proxy:
        yield proxy


# haproxy


@contextmanager
def haproxy(
    gateway: int,
    *,
    bind: str = "",
    rules: str = "",
    timeout: str = "1h",
    host: str = "127.0.0.1",
    execution_api: int | None = None,
) -> Iterator[Proxy]:
    """Run haproxy before a gateway for the length of the block.

    Args:
        gateway: its port.
        bind: follows the address it listens on: `ssl crt ...`.
        rules: lines of its frontend: `http-request deny ...`.
        timeout: of silent connections, of each kind.
        host: the address it listens on, besides 127.0.0.1.
        execution_api: the port that gets what is below `/execution/`.
    """
    program = services.haproxy()

    def config(folder: Path, port: int) -> str:
        also = f"bind {host}:{port} {bind}" if host not in {"127.0.0.1", "localhost"} else ""
        return f"""
global
    maxconn 200
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    timeout connect 5s
    timeout client {timeout}
    timeout server {timeout}
    timeout tunnel {timeout}
frontend front
    bind 127.0.0.1:{port} {bind}
    {also}
{rules}
    use_backend api if {{ path_beg /execution/ }}
    default_backend back
backend back
    server gateway 127.0.0.1:{gateway}
backend api
    server api 127.0.0.1:{execution_api or gateway}
"""

    with _running(
        "haproxy", config, lambda config: [str(program), "-db", "-f", str(config)], no_root=False
    ) as proxy:
        yield proxy


# squid


@dataclass
class Squid:
    """squid, and for whom it worked."""

    proxy: Proxy

    def requests(self) -> str:
        """Return what it was asked for: tunnels once they have ended, and all a second later."""
        lines = (self.proxy.folder / "access.log").read_text().splitlines()
        # Whether it listens was asked, too.
        return "\n".join(line for line in lines if "transaction-end-before-headers" not in line)

    def by(self, user: str = "press", password: str = "secret") -> str:
        """Return its URL with credentials, the right ones unless told otherwise."""
        return f"http://{user}:{password}@127.0.0.1:{self.proxy.port}"


@contextmanager
def squid(*, rules: str = "") -> Iterator[Squid]:
    """Run squid for the length of the block: a forward proxy that wants a password.

    `rules` are lines before its own: `http_access deny CONNECT`.
    """
    program, helper = services.squid()

    def config(folder: Path, port: int) -> str:
        # Its helper takes the plainest of hashes, too.
        (folder / "users").write_text(f"press:{hashlib.md5(b'secret').hexdigest()}\n")
        return f"""
http_port 127.0.0.1:{port}
pid_filename none
access_log stdio:{folder}/access.log
cache_log {folder}/cache.log
cache_store_log none
coredump_dir none
cache deny all
cache_mem 4 MB
max_filedescriptors 1024
pinger_enable off
visible_hostname squid.test
shutdown_lifetime 0 seconds
auth_param basic program {helper} {folder}/users
auth_param basic children 1 startup=1 idle=1
auth_param basic realm factory
acl known proxy_auth REQUIRED
{rules}
http_access allow known
http_access deny all
"""

    with _running(
        "squid", config, lambda config: [str(program), "-N", "-f", str(config)], no_root=True
    ) as proxy:
        yield Squid(proxy)
