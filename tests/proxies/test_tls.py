"""TLS with a private authority, ended by haproxy: who is trusted, who must show a certificate, what is said."""

from __future__ import annotations

import pytest

from tests.proxies.stand import Stand
from tests.support.certificates import Authority
from tests.support.proxies import haproxy

pytestmark = pytest.mark.system


def test_a_private_authority_is_trusted_when_it_is_named(stand: Stand, authority: Authority) -> None:
    gateway = stand.gateway("--one-address")
    bind = f"ssl crt {authority.server().both}"
    with haproxy(gateway.port, bind=bind, execution_api=stand.execution_api) as proxy:
        worker = stand.worker(f"https://localhost:{proxy.port}", "--ca-file", str(authority.file))
        stand.stream(proxy.restart)
        worker.wait_for("connected: ", 2)
        assert worker.connections()[0] == "websocket"
        # The tasks' own calls, too.
        assert "/execution/task-instances/" in proxy.log


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
def test_a_client_certificate_is_shown(stand: Stand, authority: Authority, transport: str) -> None:
    gateway = stand.gateway("--one-address")
    client = authority.client()
    bind = f"ssl crt {authority.server().both} ca-file {authority.file} verify required"
    with haproxy(gateway.port, bind=bind, execution_api=stand.execution_api) as proxy:
        worker = stand.worker(
            f"https://127.0.0.1:{proxy.port}",
            *("--ca-file", str(authority.file), "--transport", transport),
            *("--client-cert", str(client.certificate), "--client-key", str(client.key)),
        )
        stand.stream(proxy.restart)
        assert set(worker.connections()) == {transport}


@pytest.mark.parametrize("fault", ["unknown authority", "expired", "other name"])
def test_an_untrusted_certificate_is_said_and_nothing_is_sent(
    stand: Stand, authority: Authority, fault: str
) -> None:
    gateway = stand.gateway()
    server = authority.server(fault.replace(" ", "-"), expired=fault == "expired")
    trust = [] if fault == "unknown authority" else ["--ca-file", str(authority.file)]
    host = "127.0.0.2" if fault == "other name" else "localhost"
    with haproxy(gateway.port, bind=f"ssl crt {server.both}", host=host) as proxy:
        worker = stand.worker(f"https://{host}:{proxy.port}", *trust, connects=False)
        # Each time it tries, by whatever way.
        worker.wait_for("not trusted", 3)
        assert not worker.connections()
        assert "edge-ws" not in proxy.log


def test_a_missing_client_certificate_is_said(stand: Stand, authority: Authority) -> None:
    gateway = stand.gateway()
    bind = f"ssl crt {authority.server().both} ca-file {authority.file} verify required"
    with haproxy(gateway.port, bind=bind) as proxy:
        url = f"https://localhost:{proxy.port}"
        worker = stand.worker(url, "--ca-file", str(authority.file), connects=False)
        worker.wait_for("--client-cert", 3)
        assert not worker.connections()
        assert "edge-ws" not in proxy.log
