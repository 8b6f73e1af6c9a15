"""The WebSocket transport: through proxies and TLS to a real gateway, and what each failed opening means."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import anyio
import httpx2
import pytest
import sqlalchemy as sa

from edge_ws.errors import RefusedError, Unreachable, UnreachableError
from edge_ws.protocol.ids import WorkerName
from edge_ws.store.store import Store
from edge_ws.worker import network
from edge_ws.worker.config import Machine, resolve
from edge_ws.worker.network import Network
from edge_ws.worker.transports.failures import failure
from edge_ws.worker.transports.websocket import WebSocketTransport
from tests.support.addresses import black_hole, resolving
from tests.support.breaker import Upgrades, breaking
from tests.support.certificates import Authority
from tests.support.entrances import Entrance, open_entrance, server_context
from tests.support.gateway import RunningGateway, make_token, serving
from tests.support.waiting import free_port

pytestmark = pytest.mark.anyio
W = WorkerName("w1")


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


@pytest.fixture
def gateway(store: Store) -> Iterator[RunningGateway]:
    with serving(store) as gateway:
        yield gateway


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def tls(gateway: RunningGateway, authority: Authority) -> Iterator[Entrance]:
    """The gateway with a certificate of a private authority."""
    with open_entrance(Entrance(target=gateway.port, context=server_context(authority.server()))) as entrance:
        yield entrance


def _network(url: str, environ: dict[str, str] | None = None, **settings: object) -> Network:
    machine = Machine(hostname="box", is_root=False, default_file=Path("/nowhere/worker.toml"))
    flags = {name: str(value) for name, value in settings.items()}
    return network.resolve(resolve({"url": url, **flags}, environ or {}, machine).config, environ or {})


async def _opens(way: Network, token: str) -> None:
    """Check that both libraries get there."""
    async with WebSocketTransport(way).open(W, token) as channel:
        await channel.ping(5)
    async with network.http_client(way) as client:
        assert (await client.get(network.health_url(way.base_url))).json()["edge_ws"] == "gateway"


async def _fault(way: Network, token: str = "token") -> UnreachableError:
    with pytest.raises(UnreachableError) as caught, anyio.fail_after(15):
        async with WebSocketTransport(way).open(W, token):
            pass
    assert "geheim" not in str(caught.value)
    return caught.value


async def _http_fault(way: Network) -> UnreachableError:
    # A TLS fault after the handshake passes through httpx2 as it is.
    with pytest.raises((httpx2.HTTPError, ssl.SSLError)) as caught:
        async with network.http_client(way) as client:
            await client.get(network.health_url(way.base_url))
    return failure(way, way.base_url, caught.value)


# Ways that work


async def test_a_private_authority(store: Store, tls: Entrance, authority: Authority) -> None:
    await _opens(_network(f"https://localhost:{tls.port}", ca_file=authority.file), make_token(store))


async def test_a_clients_certificate(store: Store, gateway: RunningGateway, authority: Authority) -> None:
    own, context = authority.client(), server_context(authority.server(), authority.file)
    with open_entrance(Entrance(target=gateway.port, context=context)) as entrance:
        url = f"https://localhost:{entrance.port}"
        shown = {"client_cert": own.certificate, "client_key": own.key}
        await _opens(_network(url, ca_file=authority.file, **shown), make_token(store))


async def test_a_missing_certificate_of_ours_is_said(authority: Authority) -> None:
    context = server_context(authority.server(), authority.file)

    def behave(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as shaking:
            with suppress(ssl.SSLError):
                shaking.do_handshake()
            # What is not read when a socket is closed has the other side lose the alert.
            while socket.socket.recv(shaking, 65536):
                continue

    with _server(behave) as url:
        way = _network(url.replace("http", "https"), ca_file=authority.file)
        for fault in (await _fault(way), await _http_fault(way)):
            assert fault.kind is Unreachable.TLS
            assert "it wants a client's certificate, or another one: --client-cert" in str(fault)
    with _server(_answers(_WANTS_CERTIFICATE)) as url:
        fault = await _fault(_network(url))
        assert (fault.kind, "give it with --client-cert" in str(fault)) == (Unreachable.TLS, True)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy", "--proxy"])
@pytest.mark.parametrize("secure", [False, True], ids=["http proxy", "https proxy"])
async def test_a_proxy_with_credentials(
    store: Store, tls: Entrance, authority: Authority, variable: str, secure: bool
) -> None:
    context = server_context(authority.server("proxy")) if secure else None
    with open_entrance(Entrance(credentials="me:geh@im/:", context=context)) as proxy:
        url = f"{'https' if secure else 'http'}://me:geh%40im%2F%3A@localhost:{proxy.port}"
        environ = {} if variable == "--proxy" else {variable: url}
        flags = {"proxy": url} if variable == "--proxy" else {}
        way = _network(f"https://localhost:{tls.port}", environ, ca_file=authority.file, **flags)
        await _opens(way, make_token(store))
        assert proxy.asked == [f"CONNECT localhost:{tls.port} HTTP/1.1"] * 2


async def test_a_proxy_of_the_environment_that_the_settings_leave_out(
    monkeypatch: pytest.MonkeyPatch, store: Store, gateway: RunningGateway
) -> None:
    with open_entrance(Entrance()) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy", "http_proxy"):
            # Not only in what we are told: the libraries would look there themselves.
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await _opens(_network(gateway.base_url, proxy="none"), make_token(store))
        assert proxy.asked == []


# Proxies in the way


@pytest.mark.parametrize(
    ("credentials", "sent", "refusal", "sentence", "kind"),
    [
        ("me:x", "", None, "status 407: it wants credentials: --proxy http://user:", Unreachable.PROXY),
        ("me:x", "me:geheim@", None, "407: the credentials in its URL are wrong", Unreachable.PROXY),
        (
            None,
            "me:geheim@",
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n",
            "407: it wants NTLM credentials, and only Basic ones",
            Unreachable.PROXY,
        ),
        (
            None,
            "",
            b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n",
            "does not let us through to localhost:9: it answered with status 403; have that allowed",
            Unreachable.PROXY,
        ),
        (
            None,
            "",
            b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            "cannot reach localhost:9: it answered with status 503",
            Unreachable.NO_ANSWER,
        ),
        (
            None,
            "",
            b"220 mail.example.com ESMTP\r\n\r\n",
            "does not speak HTTP; see --proxy",
            Unreachable.PROXY,
        ),
    ],
)
async def test_a_proxy_that_does_not_let_us_through(
    credentials: str | None, sent: str, refusal: bytes | None, sentence: str, kind: Unreachable
) -> None:
    with open_entrance(Entrance(credentials=credentials, refusal=refusal)) as proxy:
        fault = await _fault(_network("https://localhost:9", proxy=f"http://{sent}localhost:{proxy.port}"))
        masked = "me:***@" if sent else ""
        assert f"the proxy http://{masked}localhost:{proxy.port} " in str(fault)
        assert sentence in str(fault)
        assert fault.kind is kind


async def test_a_proxy_that_is_not_there() -> None:
    port = free_port()
    for name, words in (("127.0.0.1", "Connection refused"), ("no-such-host.invalid", "")):
        way = _network("https://localhost:9", proxy=f"http://me:geheim@{name}:{port}")
        for fault in (await _fault(way), await _http_fault(way)):
            assert f"the proxy http://me:***@{name}:{port} cannot be reached: {words}" in str(fault)
            assert fault.kind is Unreachable.PROXY


# TLS in the way


@pytest.mark.parametrize(
    ("host", "expired", "trusted", "sentence"),
    [
        ("localhost", False, False, "not trusted: .* give that authority's certificate with --ca-file"),
        (
            "localhost",
            True,
            True,
            "not trusted: certificate has expired; renew it at the centre, or set this",
        ),
        ("127.0.0.2", False, True, "not trusted: IP address mismatch.*; give a URL with a name that the"),
    ],
)
async def test_certificates_are_verified(
    authority: Authority, host: str, expired: bool, trusted: bool, sentence: str
) -> None:
    context = server_context(authority.server(expired=expired))
    with (
        open_entrance(Entrance(target=free_port(), context=context)) as entrance,
        # That one listens on 127.0.0.1 only; a proxy leads any address there.
        open_entrance(Entrance()) as proxy,
    ):
        trust = {"ca_file": authority.file} if trusted else {}
        way = _network(f"https://{host}:{entrance.port}", proxy=f"http://localhost:{proxy.port}", **trust)
        for fault in (await _fault(way), await _http_fault(way)):
            assert fault.kind is Unreachable.TLS
            assert re.search(sentence, str(fault))


async def test_https_where_none_is_spoken(gateway: RunningGateway) -> None:
    way = _network(f"https://127.0.0.1:{gateway.port}")
    for fault in (await _fault(way), await _http_fault(way)):
        assert fault.kind is Unreachable.TLS
        assert "; is it a plain http address?" in str(fault)


# Servers that misbehave


@contextmanager
def _server(behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """Serve one connection after another with a function; yield the base URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.settimeout(10)
                        behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _answers(data: bytes) -> Callable[[socket.socket], object]:
    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return behave


def _resets(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
_MOVED = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/login\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_WANTS_CERTIFICATE = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nNo required SSL certificate was sent"
)
_OURS = b"HTTP/1.1 426 Upgrade\r\nedge-ws-error: upgrade_required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_SWITCHED = (
    b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
)


@pytest.mark.parametrize(
    ("behave", "sentence", "kind"),
    [
        (_answers(b""), "closed the connection in place of an answer", Unreachable.NO_UPGRADE),
        (_resets, "broke off while it was opened: Connection reset by peer", Unreachable.BROKE_OFF),
        (_answers(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not speak HTTP", Unreachable.NO_UPGRADE),
        (_answers(_SWITCHED), "does not open a WebSocket", Unreachable.NO_UPGRADE),
        (_answers(_OURS), "something on the way takes it away", Unreachable.NO_UPGRADE),
        (
            _answers(_OK.replace(b"200 OK", b"502 Bad")),
            "answered with HTTP status 502; it is not ready or not there",
            Unreachable.NO_ANSWER,
        ),
    ],
)
async def test_a_server_that_misbehaves(
    behave: Callable[[socket.socket], object], sentence: str, kind: Unreachable
) -> None:
    with _server(behave) as url:
        fault = await _fault(_network(url))
    assert sentence in str(fault)
    assert fault.kind is kind


@pytest.mark.parametrize(
    ("answer", "part"),
    [(_OK, "status 200: no edge-ws is there"), (_MOVED, "(a redirect to http://127.0.0.1:9/login)")],
)
async def test_another_web_server_is_the_wrong_url(answer: bytes, part: str) -> None:
    with _server(_answers(answer)) as url:
        fault = await _fault(_network(url))
    assert part in str(fault)
    assert fault.kind is Unreachable.FOREIGN
    assert "give --url" not in str(fault)


async def test_a_redirect_is_not_followed_with_the_token() -> None:
    heard: list[bytes] = []

    def elsewhere(connection: socket.socket) -> None:
        heard.append(connection.recv(65536))

    with _server(elsewhere) as target:
        moved = _answers(_MOVED.replace(b"http://127.0.0.1:9", target.encode()))
        with _server(moved) as url:
            await _fault(_network(url))
    assert heard == []


async def test_a_redirect_of_the_same_place_is_one_for_the_url() -> None:
    moved = _MOVED.replace(b"http://127.0.0.1:9/login", b"wss://other.example/sub/edge-ws/v1/ws")
    with _server(_answers(moved)) as url:
        fault = await _fault(_network(url))
    assert str(fault).endswith("; if Airflow has moved there, give --url https://other.example/sub")


@pytest.mark.parametrize(
    ("offers", "part"),
    [
        (["Negotiate", "NTLM"], "it wants Negotiate or NTLM credentials, and only Basic ones can be sent"),
        (["NTLM", 'Basic realm="a, b"'], "it wants credentials: --proxy http://user:password@..."),
        (['Digest realm="x", nonce="y, z", qop=auth'], "it wants Digest credentials"),
        ([], "it wants credentials"),
    ],
)
async def test_a_proxy_that_offers_several_ways_to_authenticate(offers: list[str], part: str) -> None:
    lines = "".join(f"Proxy-Authenticate: {one}\r\n" for one in offers)
    answer = f"HTTP/1.1 407 No\r\n{lines}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
    with _server(_answers(answer)) as url:
        fault = await _fault(_network("https://airflow.invalid", {"HTTPS_PROXY": url}))
    assert part in str(fault)
    assert fault.kind is Unreachable.PROXY


@pytest.mark.parametrize("name", ["edge-ws-error", "Location", "Retry-After", "Content-Type"])
async def test_a_header_that_comes_twice_is_no_fault(name: str) -> None:
    twice = f"HTTP/1.1 404 No\r\n{name}: 7\r\n{name}: 8\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with _server(_answers(twice.encode())) as url, pytest.raises((UnreachableError, RefusedError)):
        async with WebSocketTransport(_network(url)).open(W, "token"):
            pass


async def test_retry_after_is_heard_in_both_its_forms() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    for told, least, most in (
        ("7", 7, 7),
        (at, 60, 91),
        ("-1", 0, 0),
        ("1e999", None, None),
        ("x", None, None),
    ):
        answer = _OK.replace(b"200 OK", b"429 Slow").replace(
            b"Content-Type", f"Retry-After: {told}\r\nX".encode()
        )
        with _server(_answers(answer)) as url:
            fault = await _fault(_network(url))
        after_s = fault.retry_after_s
        assert (after_s is None) if least is None else (after_s is not None and least <= after_s <= most), (
            told
        )


@pytest.mark.parametrize("through_proxy", [False, True])
async def test_an_address_that_swallows_everything_costs_a_moment(
    store: Store, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, through_proxy: bool
) -> None:
    entrance = Entrance(target=None if through_proxy else gateway.port)
    with open_entrance(entrance) as live, black_hole(live.port) as dead:
        resolving(monkeypatch, {"two.test": [dead, "127.0.0.1"]})
        two = f"http://two.test:{live.port}"
        way = (
            _network(gateway.base_url, {"HTTP_PROXY": two})
            if through_proxy
            else _network(two, allow_insecure=True)
        )
        began = time.monotonic()
        async with WebSocketTransport(way).open(W, make_token(store)):
            assert time.monotonic() - began < 2.0


async def test_a_way_that_lets_only_plain_http_pass(gateway: RunningGateway) -> None:
    with breaking([gateway.port], Upgrades.REFUSED) as firewall:
        fault = await _fault(_network(f"http://127.0.0.1:{firewall.port}"))
    assert "answered with HTTP status 403: something on the way does not let WebSockets pass" in str(fault)
    assert fault.kind is Unreachable.NO_UPGRADE


async def test_nobody_there() -> None:
    port = free_port()
    for host, sentence in (
        ("127.0.0.1", "cannot be reached: Connection refused"),
        ("no-such-host.invalid", "no-such-host.invalid cannot be found: "),
    ):
        way = _network(f"https://{host}:{port}")
        for fault in (await _fault(way), await _http_fault(way)):
            assert sentence in str(fault)
            assert fault.kind is Unreachable.NO_ANSWER


def test_silence() -> None:
    way = replace(_network("https://localhost"), proxy="http://me:geheim@p:1")
    for error in (TimeoutError("timed out"), httpx2.ReadTimeout(""), httpx2.PoolTimeout("")):
        fault = failure(way, "https://localhost", error)
        assert str(fault) == "https://localhost did not answer in time through the proxy http://me:***@p:1"
        assert fault.kind is Unreachable.NO_ANSWER
    assert isinstance(way.context, ssl.SSLContext)
