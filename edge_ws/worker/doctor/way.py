"""The checks of the way to the centre: settings, names, proxy, sockets, certificates. Speaks no HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from edge_ws.errors import UnreachableError, UsageError
from edge_ws.worker import network, proxy
from edge_ws.worker.config import token_warning
from edge_ws.worker.doctor.context import ANSWER_WITHIN_S, Context, Found, failed, failed_by, ok, warning
from edge_ws.worker.network import Network
from edge_ws.worker.transports.failures import failure, proxy_refused
from edge_ws.worker.transports.websocket import NEXT_ADDRESS_S

EXPIRES_SOON_DAYS = 14
ADDRESS_WITHIN_S = 5.0
"""For a connection to one of a name's addresses."""
_ADDRESSES = 16
_LONGEST_HEAD = 64 * 1024

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def settings(context: Context) -> Found:
    """Make the network of the settings."""
    config = context.config
    try:
        context.found_network = network.resolve(config, context.environ)
    except UsageError as error:
        return failed_by(error)
    detail = f"{config.name} to {config.url}"
    if not network.is_private(config.url):
        return warning(f"{detail}: plain http, others can read the token on the way", "use https")
    if sentence := token_warning(config):
        told, _, advice = sentence.partition("; run: ")
        return warning(f"{detail}; {told}", advice)
    return ok(detail)


async def dns(context: Context) -> Found:
    """Look the host's name up."""
    parts = urlsplit(context.config.url)
    if context.network.proxy is not None:
        return ok(f"{parts.hostname} is left to the proxy")
    return await _look_up(context.network, context.config.url)


async def _look_up(way: Network, url: str) -> Found:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            found = await loop.getaddrinfo(parts.hostname, _port(parts), type=socket.SOCK_STREAM)
    except OSError as error:  # gaierror, and TimeoutError
        return failed_by(failure(way, url, error), "correct --url, or this machine's DNS")
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    return ok(f"{parts.hostname} is {', '.join(addresses)} ({_ms(began)})")


async def by_proxy(context: Context) -> Found:
    """Have the proxy open a tunnel."""
    way, url = context.network, context.config.url
    if way.proxy is None:
        said = proxy.find(url, context.config.proxy, context.environ).origin
        return ok("none" if said == proxy.OFF else f"none, by {said}")
    shown = proxy.masked(way.proxy)
    began = time.monotonic()
    try:
        async with _proxied(way, url):
            return ok(f"{shown} lets us through ({_ms(began)})")
    except UnreachableError as error:
        found = failed_by(error, "see --proxy")
        if "status" in str(error) and "407" not in str(error) and url.startswith("http:"):
            # To a plain http address a proxy passes requests on without a tunnel.
            return warning(found.detail, "WebSockets need that; long-poll does not")
        return found


async def tcp(context: Context) -> Found:
    """Connect to the host, or to the proxy: to each address of its name."""
    way, url = context.network, context.config.url
    parts = urlsplit(url if way.proxy is None else way.proxy)
    what = f"{parts.hostname} port {_port(parts)}"
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            found = await asyncio.get_running_loop().getaddrinfo(
                parts.hostname, _port(parts), type=socket.SOCK_STREAM
            )
    except OSError as error:
        return failed_by(failure(way, url, error))
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))[:_ADDRESSES]
    began = time.monotonic()
    faults = await asyncio.gather(*(_fault(address, _port(parts)) for address in addresses))
    dead = [f"{address} ({fault})" for address, fault in zip(addresses, faults, strict=True) if fault]
    if len(dead) == len(addresses):
        return failed(
            f"{what} cannot be connected to: {', '.join(dead)}",
            "is the port right, and does a firewall let us out? HTTPS_PROXY may be needed",
        )
    live = [address for address, fault in zip(addresses, faults, strict=True) if not fault]
    if dead:
        return warning(
            f"{what}: {', '.join(live)} can be connected to, but not {', '.join(dead)}",
            "have that address taken out of DNS, or the way to it mended: who tries addresses one after the "
            "other, as tasks do, waits for it each time",
        )
    whose = "" if way.proxy is None else ", the proxy"
    return ok(f"connected to {', '.join(live)} port {_port(parts)}{whose} ({_ms(began)})")


async def _fault(address: str, port: int) -> str:
    """Return why an address cannot be connected to; empty: it can be."""
    try:
        async with asyncio.timeout(ADDRESS_WITHIN_S):
            _, writer = await asyncio.open_connection(address, port)
    except TimeoutError:
        return f"no answer within {ADDRESS_WITHIN_S:.0f} s"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    writer.close()
    return ""


async def tls(context: Context) -> Found:
    """Shake hands, and look at the certificate."""
    way, url = context.network, context.config.url
    if way.context is None:
        return ok("not used: plain http")
    tunnel = _direct(way, url) if way.proxy is None else _proxied(way, url)
    try:
        async with tunnel as (_, writer), asyncio.timeout(ANSWER_WITHIN_S):
            await writer.start_tls(way.context, server_hostname=urlsplit(url).hostname)
            return _certificate(writer.get_extra_info("ssl_object"))
    except UnreachableError as error:
        return failed_by(error)
    except OSError as error:  # SSLError and TimeoutError among them
        return failed_by(failure(way, url, error), "is it an https address?")


def _certificate(shaken: ssl.SSLObject) -> Found:
    told: dict[str, Any] = shaken.getpeercert() or {}
    expires_at = ssl.cert_time_to_seconds(str(told["notAfter"]))
    days = int((expires_at - time.time()) // 86400)
    issuer = {name: value for part in told.get("issuer", ()) for name, value in part}
    by = issuer.get("commonName") or issuer.get("organizationName") or "an authority without a name"
    detail = f"{shaken.version()}, certificate by {by} expires in {days} days"
    if days < EXPIRES_SOON_DAYS:
        return warning(detail, "have it renewed at the centre")
    return ok(detail)


# Connections


@asynccontextmanager
async def _direct(way: Network, url: str, context: ssl.SSLContext | None = None) -> AsyncIterator[Stream]:
    """Connect; a fault of the block is the block's own."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_connection(
                parts.hostname,
                _port(parts),
                ssl=context,
                limit=_LONGEST_HEAD,
                happy_eyeballs_delay=NEXT_ADDRESS_S,
            )
    except OSError as error:
        raise failure(way, url, error) from error
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await writer.wait_closed()


@asynccontextmanager
async def _proxied(way: Network, url: str) -> AsyncIterator[Stream]:
    """Connect through the proxy, as a WebSocket does."""
    assert way.proxy is not None
    parts, proxy_parts = urlsplit(url), urlsplit(way.proxy)
    # The proxy is a server like any other, that no proxy stands before; faults are told as the way's.
    async with _direct(way, way.proxy, way.proxy_context) as (reader, writer):
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        lines = [f"CONNECT {host}:{_port(parts)} HTTP/1.1", f"Host: {host}:{_port(parts)}"]
        if proxy_parts.username is not None:
            pair = f"{unquote(proxy_parts.username)}:{unquote(proxy_parts.password or '')}"
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                writer.write("\r\n".join([*lines, "", ""]).encode())
                head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(None, 2)[1])
        except (OSError, EOFError) as error:
            raise failure(way, url, error) from error
        except (ValueError, LookupError, asyncio.LimitOverrunError):
            sentence = f"the proxy {proxy.masked(way.proxy)} does not speak HTTP; see --proxy"
            raise UnreachableError(sentence) from None
        if not 200 <= status < 300:
            raise proxy_refused(way, url, status, wants=_header(head, "proxy-authenticate"))
        yield reader, writer


def _header(head: bytes, name: str) -> str | None:
    """Return a header's value, all values of one that is repeated; None if it is not there."""
    lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n"))
    return ", ".join(value.strip() for key, _, value in lines if key.strip().lower() == name) or None


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"
