"""How Airflow's client on a worker reaches the Execution API: whom it trusts, and by which proxy.

Patches the client's class, so only for a process that runs one job. Airflow is imported only when called.
"""

# ruff: noqa: PLC0415 - Airflow is imported only when called

from __future__ import annotations

import functools
import importlib
import ssl
from pathlib import Path
from typing import Any


def load_trust() -> None:
    """Read the certificates of the authorities once: it takes half of a short job's time."""
    from airflow.sdk.api import client

    _context(client)
    _trusted_at_load()


def _context(client: Any) -> ssl.SSLContext | None:  # noqa: ANN401
    """Return the trust of Airflow's client, None if it does not keep it."""
    make = getattr(client.Client, "_get_ssl_context_cached", None)
    return None if make is None else make(client.API_SSL_CA_FILE_PATH, client.API_SSL_CERT_PATH)


def renew_trust() -> None:
    """Forget the certificates if they have been renewed on disk since."""
    from airflow.sdk.api import client

    if _trusted() != _trusted_at_load() and hasattr(client.Client, "_get_ssl_context_cached"):
        client.Client._get_ssl_context_cached.cache_clear()  # noqa: SLF001


def _trusted() -> tuple[object, ...]:
    from airflow.sdk.api import client

    # The client brings authorities of its own before 3.4, and trusts the system's from then on.
    certifi = getattr(client, "certifi", None)
    system = ssl.get_default_verify_paths()
    paths = (
        None if certifi is None else certifi.where(),
        system.cafile,
        system.capath,
        client.API_SSL_CA_FILE_PATH,
        client.API_SSL_CERT_PATH,
    )
    return tuple(Path(path).stat().st_mtime_ns if path and Path(path).exists() else None for path in paths)


_trusted_at_load = functools.cache(_trusted)


def use_proxy(proxy: str | None) -> None:
    """Have Airflow's client, and nothing else in this process or its task, connect through that proxy."""
    from airflow.sdk.api import client

    # Its class is httpx's or, later, httpx2's.
    library = importlib.import_module(client.Client.__bases__[0].__module__.partition(".")[0])
    make = client.Client.__init__

    def make_with_proxy(self: object, **options: Any) -> None:  # noqa: ANN401
        # One that has a transport of its own stays in the process.
        if proxy is not None and not options.get("dry_run") and "transport" not in options:
            trust = _context(client) if proxy.startswith("https:") else None
            options.setdefault("proxy", library.Proxy(proxy, ssl_context=trust))
        # What is trusted is told in full; the environment's proxies are what is left to ignore.
        make(self, **{"trust_env": False, **options})

    client.Client.__init__ = make_with_proxy
