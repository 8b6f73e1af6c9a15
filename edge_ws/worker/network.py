"""Every address the daemon uses, made from the one it is given; how to get there and whom to trust there.

What is made here holds for every connection to the centre: WebSocket, HTTP and the tasks' own. Opens none.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edge_ws.errors import UsageError
from edge_ws.protocol import http
from edge_ws.worker import proxy as proxies
from edge_ws.worker.config import WorkerConfig

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger("edge_ws.worker")


# Addresses


def ws_url(base_url: str) -> str:
    """Return the WebSocket endpoint below Airflow's base URL (http or https, any sub-path)."""
    # "http" and "https" differ from "ws" and "wss" in their front only.
    return "ws" + base_url.removeprefix("http").rstrip("/") + http.PREFIX + http.WEBSOCKET_PATH


def poll_url(base_url: str) -> str:
    """Return where a long-poll is held."""
    return base_url.rstrip("/") + http.PREFIX + http.POLL_PATH


def send_url(base_url: str) -> str:
    """Return where frames go that cannot wait for the next long-poll."""
    return base_url.rstrip("/") + http.PREFIX + http.SEND_PATH


def whoami_url(base_url: str) -> str:
    """Return where the gateway says whom it takes a credential for."""
    return base_url.rstrip("/") + http.PREFIX + http.WHOAMI_PATH


def health_url(base_url: str) -> str:
    """Return where the gateway says how it is."""
    return base_url.rstrip("/") + http.PREFIX + http.HEALTH_PATH


def execution_api_url(base_url: str) -> str:
    """Return where tasks find Airflow's Execution API, unless the centre says otherwise in `welcome`."""
    return base_url.rstrip("/") + "/execution/"


def is_private(url: str) -> bool:
    """Tell whether what travels to that URL cannot be read on the way: https, or never off this machine."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme == "https" or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# The way there


@dataclass(frozen=True, slots=True)
class Network:
    """One server, the way to it and whom to trust there."""

    base_url: str
    context: ssl.SSLContext | None
    """For connections to the server; None for plain http."""
    proxy: str | None = field(repr=False)
    """The forward proxy's URL, its credentials in it; None: connect directly."""
    proxy_context: ssl.SSLContext | None = None
    """For connections to the proxy; None if that is none, or a plain http one."""

    @property
    def via(self) -> str:
        """The end of a sentence about a connection, without secrets: through which proxy, or nothing."""
        return "" if self.proxy is None else f" through the proxy {proxies.masked(self.proxy)}"


def resolve(config: WorkerConfig, environ: Mapping[str, str]) -> Network:
    """Return the network of a worker.

    Raises:
        UsageError: plain http to another machine is not allowed, a certificate's file is of no use, or a
            variable holds no proxy's URL.
    """
    if not (config.allow_insecure or is_private(config.url)):
        raise UsageError(
            f"{config.url} is plain http, and leads to another machine: token and tasks would travel "
            "unencrypted; give an https URL, or allow it with --allow-insecure"
        )
    return reach(config, config.url, environ)


def reach(config: WorkerConfig, url: str, environ: Mapping[str, str]) -> Network:
    """Return the way to any URL of the centre, be it plain http.

    Raises:
        UsageError: a certificate's file is of no use, or a variable holds no proxy's URL.
    """
    proxy = proxy_for(config, url, environ)
    is_https = url.startswith("https:")
    has_https_proxy = proxy is not None and proxy.startswith("https:")
    is_told = any((config.ca_file, config.client_cert, config.client_key))
    # Settings are checked even where nothing needs them; the system's authorities are read only for use.
    context = _ssl_context(config) if is_https or has_https_proxy or is_told else None
    return Network(
        base_url=url,
        context=context if is_https else None,
        proxy=proxy,
        proxy_context=context if has_https_proxy else None,
    )


def proxy_for(config: WorkerConfig, url: str, environ: Mapping[str, str]) -> str | None:
    """Return the proxy for a URL of the centre.

    Raises:
        UsageError: a variable holds no proxy's URL.
    """
    return proxies.find(url, config.proxy, environ).url


class ExecutionApi:
    """Where tasks find Airflow's Execution API, and the way there."""

    def __init__(self, config: WorkerConfig, environ: Mapping[str, str]) -> None:
        """Begin with what the worker's own URL makes likely.

        Raises:
            UsageError: a variable holds no proxy's URL.
        """
        self._config = config
        self._environ = environ
        self.url = execution_api_url(config.url)
        self.proxy = proxy_for(config, config.url, environ)

    def move(self, url: str) -> None:
        """Take the URL that the centre tells."""
        self.url = url
        try:
            self.proxy = proxy_for(self._config, url, self._environ)
        except UsageError as error:
            # It may be plain http, and no variable for that has been looked at yet.
            log.error("tasks connect without a proxy: %s", error)  # noqa: TRY400 - a sentence, no traceback
            self.proxy = None

    def network(self) -> Network:
        """Return the way there for the daemon itself.

        Raises:
            UsageError: as `reach`.
        """
        return reach(self._config, self.url, self._environ)


def task_environment(config: WorkerConfig) -> dict[str, str]:
    """Return the variables with which Airflow's client in the job host trusts, and shows, the same as we do.

    They are Airflow's own: what else a task connects to is not touched by them.
    """
    told: dict[str, str] = {}
    if config.ca_file is not None:
        told["AIRFLOW__API__SSL_CA_FILE"] = str(config.ca_file)
        # Without this Airflow trusts the public authorities, too.
        told["AIRFLOW__API__CLIENT_USE_PUBLIC_CERTS"] = "False"
    if config.client_cert is not None:
        told["AIRFLOW__API__CLIENT_SSL_CERT"] = str(config.client_cert)
        told["AIRFLOW__API__CLIENT_SSL_KEY"] = str(config.client_key or config.client_cert)
    return told


def http_client(network: Network, **options: Any) -> httpx2.AsyncClient:  # noqa: ANN401
    """Return an HTTP client that goes this way and no other; `options` are AsyncClient's."""
    # Imported here: a worker that gets its WebSocket, as nearly all do, never pays for it.
    import httpx2  # noqa: PLC0415

    proxy = network.proxy and httpx2.Proxy(network.proxy, ssl_context=network.proxy_context)
    # For plain http an empty one, which trusts nobody: httpx2's own reads hundreds of certificates.
    context = network.context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx2.AsyncClient(verify=context, proxy=proxy, trust_env=False, **options)


# Whom to trust


def _ssl_context(config: WorkerConfig) -> ssl.SSLContext:
    """Return the context for all TLS: certificates are verified, and the names in them."""
    if config.client_key is not None and config.client_cert is None:
        raise UsageError("--client-key: it is of no use without --client-cert")
    cafile = config.ca_file
    with _read("--ca-file", cafile, "no certificate in PEM form"):
        context = ssl.create_default_context(cafile=cafile)
    if config.client_cert is not None:
        _load_own(context, config.client_cert, config.client_key)
    return context


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    with _read("--client-cert", certificate, "no certificate in PEM form"):
        # It is of no use as an authority; only to tell a wrong file from a wrong key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    asked: list[bool] = []

    def no_password() -> str:
        asked.append(True)
        return ""

    file, setting = (certificate, "--client-cert") if key is None else (key, "--client-key")
    with _read(setting, file, "no private key in PEM form, or one that does not belong to the certificate"):
        try:
            context.load_cert_chain(certificate, key, no_password)
        except ssl.SSLError as error:
            if asked:
                raise UsageError(
                    f"{setting}: the key in {file} is protected by a passphrase; give one without"
                ) from error
            raise


@contextlib.contextmanager
def _read(setting: str, file: Path | None, what: str) -> Iterator[None]:
    """Say what is wrong with a file that OpenSSL reads; its own words name no file."""
    try:
        if file is not None:
            file.open("rb").close()
        yield
    except ssl.SSLError as error:
        raise UsageError(f"{setting}: there is {what} in {file}") from error
    except OSError as error:
        raise UsageError(f"{setting}: {file} cannot be read: {error.strerror}") from error
