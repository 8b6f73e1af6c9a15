"""`edge-ws server`: the same gateway as the plugin's, in processes of its own.

The composition root of the standalone gateway: reads its arguments and Airflow's configuration, joins the
door, the relay and uvicorn. The parent of several processes reads Airflow's configuration, no more.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from edge_ws.errors import EdgeWsError, UsageError
from edge_ws.protocol.frames import MAX_FRAME
from edge_ws.protocol.http import PREFIX
from edge_ws.protocol.ids import is_base_url
from edge_ws.provider.airflow_setup import load_engine
from edge_ws.provider.config import Conf, api_certificate, api_path
from edge_ws.server import page_files, relay
from edge_ws.server.answers import refusal
from edge_ws.server.guarded import MAX_HEAD, GuardedHttp, GuardedWebSocket, limits_by_files
from edge_ws.server.metrics_listener import MetricsListener
from edge_ws.server.refused_bodies import RefusedBodies
from edge_ws.server.relay import Relay
from edge_ws.server.uvicorn_log import quieten
from edge_ws.server.uvicorn_server import BelowPath, DrainingServer, Processes

if TYPE_CHECKING:
    from edge_ws.provider.mount import Door

log = logging.getLogger(__name__)

MOST_WORKERS = 64
LONGEST_DRAIN_S = 3600.0
FINISH_S = 5
"""For requests that are being answered when all workers have left."""
END_S = 15.0
"""Beyond the drain: for a process to finish, retire and end."""
KEEP_ALIVE_S = 75
"""Longer than proxies keep idle connections (nginx: 60 s), so that it is not here that they end."""
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What TLS needs; all of it has been tried."""

    file: str
    key_file: str
    password: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What `edge-ws server` was told."""

    host: str
    port: int
    workers: int
    certificate: Certificate | None
    path: str
    """Below it everything is served; empty, or without a slash at its end."""
    airflow_url: str | None
    """Where `/execution/` is relayed to."""
    drain_timeout_s: float
    metrics: str | None = None
    """Where Prometheus is answered, checked; None: nowhere."""


def run(arguments: Namespace) -> int:
    """Serve until SIGTERM, then drain; see `edge_ws.cli.verbs`."""
    # As in Airflow's own servers: where connections of remote log stores are looked for.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    options = read_options(arguments, _airflow_conf())
    with listen(options.host, options.port) as listener:
        if options.workers == 1:
            serve(options, listener, is_child=False)
            return 0
    # Nobody else listens there: now each child does. One socket for all would give nearly every connection
    # to the same one of them.
    _log_to_stderr()
    log.info("edge-ws: %d gateway processes at %s", options.workers, _address(options))
    end_within_s = options.drain_timeout_s + END_S
    return Processes(options.workers, _serve_child, (options,), end_within_s=end_within_s).run()


def _airflow_conf() -> Conf:
    try:
        from airflow.configuration import conf  # noqa: PLC0415 - a second, of which a wrong flag needs nothing
    except Exception as error:  # whatever Airflow makes of its configuration
        raise UsageError(f"Airflow's configuration cannot be read: {error}") from error
    found: Conf = conf
    return found


# What was asked for


def read_options(arguments: Namespace, conf: Conf) -> ServerOptions:
    """Return what the arguments ask for, Airflow's configuration where they say nothing.

    Raises:
        UsageError: one of them is not what it should be.
    """
    if not 0 < arguments.port < 65536:
        raise UsageError(f"--port: {arguments.port} is not between 1 and 65535")
    if not 0 < arguments.workers <= MOST_WORKERS:
        raise UsageError(f"--workers: {arguments.workers} is not between 1 and {MOST_WORKERS}")
    if not 0 <= arguments.drain_timeout <= LONGEST_DRAIN_S:
        raise UsageError(f"--drain-timeout: {arguments.drain_timeout:g} s is not between 0 and 3600")
    path = api_path(conf) if arguments.root_path is None else arguments.root_path.rstrip("/")
    if path and not path.startswith("/"):
        raise UsageError(f"--root-path: {arguments.root_path!r} does not begin with /")
    return ServerOptions(
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        certificate=_certificate(arguments, conf),
        path=path,
        airflow_url=None if arguments.airflow_url is None else _airflow_url(arguments.airflow_url),
        drain_timeout_s=arguments.drain_timeout,
        metrics=_metrics(arguments.metrics_listen, arguments.workers),
    )


def _metrics(text: str | None, processes: int) -> str | None:
    if text is None:
        return None
    if MetricsListener.of(text, "--metrics-listen").most_processes < processes:
        raise UsageError(
            f"--metrics-listen: {processes} processes need a port each: give a range such as"
            " 127.0.0.1:9795-9798"
        )
    return text


def _airflow_url(text: str) -> str:
    if not is_base_url(text):
        raise UsageError("--airflow-url: it must be like http://api-server:8080, with no user and no ?")
    return text


def _certificate(arguments: Namespace, conf: Conf) -> Certificate | None:
    """Return the certificate, loaded once to see whether it can be."""
    default_file, default_key = api_certificate(conf)
    file = default_file if arguments.ssl_cert is None else arguments.ssl_cert
    key = default_key if arguments.ssl_key is None else arguments.ssl_key
    if not file and not key:
        return None
    if not file or not key:
        raise UsageError("--ssl-cert and --ssl-key: TLS takes both, a certificate and its key")
    password = None
    try:
        if arguments.ssl_key_password_file is not None:
            password = Path(arguments.ssl_key_password_file).read_text(encoding="utf-8").strip()
        # OpenSSL would ask for a missing password on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file, key, lambda: password or "")
    except ssl.SSLError as error:
        said = (
            "the key does not belong to the certificate" if "MISMATCH" in str(error) else "it cannot be read"
        )
        raise UsageError(
            f"--ssl-cert {file} with --ssl-key {key}: {said} ({error.reason or error}); both must be PEM, and"
            " an encrypted key needs --ssl-key-password-file"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"--ssl-cert {file} with --ssl-key {key}: {error}") from error
    return Certificate(file=file, key_file=key, password=password)


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket bound there; nobody can connect before something serves it.

    Args:
        host: address or name.
        port: port.
        shared: with others who say so, among whom the kernel spreads the connections.

    Raises:
        UsageError: it cannot be, for instance because another program listens there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> UsageError:
    return UsageError(
        f"cannot listen on {host}, port {port}: {error.strerror or error}; see --host and --port"
    )


def _address(options: ServerOptions) -> str:
    scheme = "http" if options.certificate is None else "https"
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{scheme}://{host}:{options.port}{options.path}{PREFIX}/"


# Serving


def serve(options: ServerOptions, listener: socket.socket, *, is_child: bool) -> None:
    """Serve in this process until it is told to end.

    Raises:
        UsageError: Airflow cannot be set up, or another program listens there.
    """
    load_engine()
    _log_to_stderr()
    _log_less()
    # Takes a second: Airflow's executors, models and tokens.
    from edge_ws.provider.mount import make_door  # noqa: PLC0415

    metrics = None if options.metrics is None else MetricsListener.of(options.metrics, "--metrics-listen")
    if metrics is not None:
        metrics.bind()
    door = make_door(metrics)
    onward = Relay(options.airflow_url) if options.airflow_url else None
    config = web_config(make_app(door, onward, options.path), options.certificate)
    limits = limits_by_files()
    drain = partial(door.drain, options.drain_timeout_s)
    server = DrainingServer(config, drain, is_child=is_child, limits=limits)
    if not is_child:
        log.info("edge-ws: a gateway at %s", _address(options))
    try:
        server.run(sockets=[listener])
    except OSError as error:
        raise _cannot_listen(options.host, options.port, error) from error


def _serve_child(options: ServerOptions) -> None:
    try:
        with listen(options.host, options.port, shared=True) as listener:
            serve(options, listener, is_child=True)
    except EdgeWsError as error:
        log.error("edge-ws: %s", error)  # noqa: TRY400 - a sentence, no traceback
        sys.exit(error.exit_code)


def make_app(door: Door, onward: Relay | None, path: str) -> ASGIApp:
    """Return the whole app: the gateway, and the Execution API beside it."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with door.open():
            if onward is None:
                yield
            else:
                async with onward.running():
                    yield

    execution = f"{relay.PREFIX}/{{path:path}}"
    routes = [
        Mount(PREFIX + page_files.PATH, page_files.page_files),
        Mount(PREFIX, door),
        Route(execution, onward) if onward is not None else Route(execution, _no_relay, methods=_METHODS),
    ]
    return BelowPath(RefusedBodies(Starlette(lifespan=lifespan, routes=routes)), path)


async def _no_relay(request: Request) -> Response:  # noqa: ARG001 - a route's shape
    sentence = (
        "this gateway does not relay the Execution API: start it with --airflow-url, or have the proxy in"
        " front send /execution/ to Airflow's api-server"
    )
    return refusal(404, "not_found", sentence)


def web_config(app: ASGIApp, certificate: Certificate | None) -> uvicorn.Config:
    """Return uvicorn's configuration for a gateway."""
    return uvicorn.Config(
        app,
        lifespan="on",
        http=GuardedHttp,
        h11_max_incomplete_event_size=MAX_HEAD,
        ws=GuardedWebSocket,
        ws_max_size=MAX_FRAME,
        # 46 KB a connection, for messages that are small or logs of which the worker sends few.
        ws_per_message_deflate=False,
        # The protocol's own heartbeats prove more.
        ws_ping_interval=None,
        ws_ping_timeout=None,
        # Nothing is decided by a client's address.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        # Airflow's logging is set up; at `info` uvicorn has a line for each connection.
        log_config=None,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=FINISH_S,
        ssl_certfile=None if certificate is None else certificate.file,
        ssl_keyfile=None if certificate is None else certificate.key_file,
        ssl_keyfile_password=None if certificate is None else certificate.password,
    )


def _log_to_stderr() -> None:
    """Have what is logged go somewhere, unless Airflow has seen to that."""
    if not logging.getLogger().handlers:
        logging.basicConfig(
            format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, level=logging.INFO
        )


def _log_less() -> None:
    """Leave out what comes with each request of thousands of workers."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    # The one is for strangers to fill the log with, the other of a stream whose reader is cut off.
    unsaid = {"Invalid HTTP request received.", "ASGI callable returned without completing response."}
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.msg not in unsaid)
    quieten()
