"""Addresses, and whom to trust there. The way through proxies is tested where it is gone."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from edge_ws.errors import UsageError
from edge_ws.worker import network
from edge_ws.worker.config import Machine, WorkerConfig
from edge_ws.worker.config import resolve as read
from edge_ws.worker.network import execution_api_url, health_url, resolve, task_environment, ws_url
from tests.support.certificates import Authority, Certificate
from tests.support.programs import run_python

URL = "https://airflow.example.com"


def _config(url: str = URL, **settings: object) -> WorkerConfig:
    flags = {name: value if isinstance(value, bool) else str(value) for name, value in settings.items()}
    machine = Machine(hostname="box", is_root=False, default_file=Path("/nowhere/worker.toml"))
    return read({"url": url, **flags}, {}, machine).config


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def own(authority: Authority) -> Certificate:
    return authority.client()


# Addresses


@pytest.mark.parametrize(
    ("base", "websocket"),
    [
        ("http://localhost:8080", "ws://localhost:8080/edge-ws/v1/ws"),
        ("https://airflow.example.com", "wss://airflow.example.com/edge-ws/v1/ws"),
        ("https://example.com/team/airflow", "wss://example.com/team/airflow/edge-ws/v1/ws"),
        ("https://example.com/team/airflow/", "wss://example.com/team/airflow/edge-ws/v1/ws"),
        ("https://[2001:db8::1]:8443/x", "wss://[2001:db8::1]:8443/x/edge-ws/v1/ws"),
        ("http://http.example.com", "ws://http.example.com/edge-ws/v1/ws"),
    ],
)
def test_websocket_address(base: str, websocket: str) -> None:
    assert ws_url(base) == websocket


def test_http_addresses_keep_the_sub_path() -> None:
    assert health_url("https://example.com/a") == "https://example.com/a/edge-ws/health"
    assert network.poll_url("https://example.com/a/") == "https://example.com/a/edge-ws/v1/poll"
    assert network.send_url("https://example.com/a") == "https://example.com/a/edge-ws/v1/send"
    assert network.whoami_url("https://example.com/a") == "https://example.com/a/edge-ws/v1/whoami"
    assert execution_api_url("https://example.com/a") == "https://example.com/a/execution/"
    assert execution_api_url("https://example.com/") == "https://example.com/execution/"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8080",
        "http://127.0.0.1",
        "http://127.9.9.9",
        "http://[::1]:80",
        "http://a.localhost",
    ],
)
def test_plain_http_on_this_machine(url: str) -> None:
    assert resolve(_config(url), {}) == network.Network(url, None, None)


@pytest.mark.parametrize(
    "url",
    ["http://airflow", "http://10.0.0.1", "http://127.0.0.1.example.com", "http://localhost.example.com"],
)
def test_plain_http_to_another_machine_must_be_allowed(url: str) -> None:
    with pytest.raises(UsageError, match=r"is plain http, .*--allow-insecure"):
        resolve(_config(url), {})
    assert resolve(_config(url, allow_insecure=True), {}).context is None


# Trust


def test_https_is_verified_by_the_systems_trust() -> None:
    context = resolve(_config(), {}).context
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == len(ssl.create_default_context().get_ca_certs())


def test_a_file_of_authorities_replaces_the_systems(authority: Authority) -> None:
    context = resolve(_config(ca_file=authority.file), {}).context
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert [dict(part[0] for part in one["subject"])["commonName"] for one in context.get_ca_certs()] == [
        "A factory's own authority"
    ]


def test_a_certificate_of_our_own_with_its_key_beside_or_inside(
    authority: Authority, own: Certificate
) -> None:
    beside = _config(ca_file=authority.file, client_cert=own.certificate, client_key=own.key)
    inside = _config(ca_file=authority.file, client_cert=own.both)
    for config in (beside, inside):
        assert resolve(config, {}).context is not None
    assert task_environment(beside) == {
        "AIRFLOW__API__SSL_CA_FILE": str(authority.file),
        "AIRFLOW__API__CLIENT_USE_PUBLIC_CERTS": "False",
        "AIRFLOW__API__CLIENT_SSL_CERT": str(own.certificate),
        "AIRFLOW__API__CLIENT_SSL_KEY": str(own.key),
    }
    assert task_environment(inside)["AIRFLOW__API__CLIENT_SSL_KEY"] == str(own.both)
    assert task_environment(_config()) == {}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ca_file": "gone.pem"}, r"^--ca-file: .*gone.pem cannot be read: No such file or directory"),
        ({"ca_file": "."}, r"^--ca-file: .* cannot be read: Is a directory"),
        ({"ca_file": "garbage"}, r"^--ca-file: there is no certificate in PEM form in .*garbage"),
        ({"ca_file": "empty"}, r"^--ca-file: there is no certificate in PEM form in .*empty"),
        ({"client_cert": "gone.pem"}, r"^--client-cert: .*gone.pem cannot be read: No such file"),
        ({"client_cert": "garbage"}, r"^--client-cert: there is no certificate in PEM form in .*garbage"),
        ({"client_cert": "client.pem"}, r"^--client-cert: there is no private key in PEM form"),
        (
            {"client_cert": "client.pem", "client_key": "gone.key"},
            r"^--client-key: .*gone.key cannot be read",
        ),
        ({"client_cert": "client.pem", "client_key": "garbage"}, r"^--client-key: there is no private key"),
        ({"client_cert": "client.pem", "client_key": "other.key"}, r"does not belong to the certificate"),
        ({"client_cert": "client.pem", "client_key": "locked.key"}, r"^--client-key: .*passphrase"),
        ({"client_key": "client.key"}, r"^--client-key: it is of no use without --client-cert"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    settings: dict[str, str], sentence: str, authority: Authority, own: Certificate
) -> None:
    folder = own.key.parent
    authority.client("other")
    (folder / "garbage").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    (folder / "empty").touch()
    _lock(own.key, folder / "locked.key")
    config = _config(**{name: folder / file for name, file in settings.items()})
    with pytest.raises(UsageError, match=sentence):
        resolve(config, {})


def _lock(key: Path, locked: Path) -> None:
    openssl = shutil.which("openssl")
    assert openssl
    words = [openssl, "pkey", "-in", str(key), "-aes128", "-passout", "pass:geheim", "-out", str(locked)]
    subprocess.run(words, check=True)


# The way there


def test_the_proxy_is_in_the_network_and_in_no_text() -> None:
    found = resolve(_config(), {"HTTPS_PROXY": "http://me:geheim@proxy:3128"})
    assert found.proxy == "http://me:geheim@proxy:3128"
    assert found.proxy_context is None
    assert "geheim" not in f"{found}{found.via}"
    assert found.via == " through the proxy http://me:***@proxy:3128"


def test_an_https_proxy_is_verified_too(authority: Authority) -> None:
    found = resolve(_config("http://127.0.0.1", ca_file=authority.file, proxy="https://proxy"), {})
    assert found.context is None
    assert found.proxy_context is not None
    assert found.proxy_context.verify_mode is ssl.CERT_REQUIRED


def test_another_address_of_the_centre_has_its_own_proxy() -> None:
    environ = {"HTTPS_PROXY": "a:1", "NO_PROXY": "inside"}
    config = _config()
    assert network.proxy_for(config, "https://airflow.example.com/execution/", environ) == "http://a:1"
    assert network.proxy_for(config, "https://inside/execution/", environ) is None


def test_nothing_is_loaded_for_nothing(tmp_path: Path) -> None:
    script = (
        "import sys; from edge_ws.worker.transports import websocket; from edge_ws.worker import network\n"
        "print([name for name in ('httpx2', 'httpx', 'certifi') if name in sys.modules])"
    )
    done = run_python("-c", script, environment={"PYTHONPATH": str(Path.cwd())}, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")
