"""How Airflow's client on a worker reaches the Execution API: whom it trusts, by which proxy, how long.

Airflow's own number of tries is over after some seconds, and whatever the task wanted then fails: too soon
for a site whose line is away for a minute. So they are repeated for minutes here, but for those that have
somebody else to repeat them. Patches the client's class, so only for a process that runs one job; Airflow is
imported only when called.
"""
# ruff: noqa: PLC0415 - Airflow is imported only when called

from __future__ import annotations

import contextlib
import functools
import importlib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol


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


PATIENCE_S = 240.0
"""No heartbeat is sent meanwhile, and Airflow fails a task without one for 300 s by default: what can never
pass must have failed by then, with its reason in the task's log."""
LONGEST_PAUSE_S = 10.0
"""Between two tries; Airflow's own is 90 s, for which a task would stand still after the line is back."""
_INTERNAL_ERROR = 500


class Waiting(Protocol):
    """Whoever waits between two tries."""

    def pause(self, seconds: float) -> None:
        """Wait, and no longer than until the task is to be stopped."""

    def left_s(self) -> float:
        """Return how long a request may still be repeated; `inf` unless the task is to be stopped."""


class Patience:
    """Decides for all clients of this process whether a request is tried again."""

    def __init__(
        self, waiting: Waiting, *, patience_s: float | None = PATIENCE_S, pause_s: float = LONGEST_PAUSE_S
    ) -> None:
        """`patience_s`: how long a request is repeated; None for as often as Airflow does.

        `pause_s`: the longest time between two tries.
        """
        self._waiting = waiting
        self._patience_s = patience_s
        self._pause_s = pause_s
        self._tries: int | None = None
        self._is_short = False
        self._airflows: Callable[[Any], bool] = lambda _state: True

    def put_into(self, client: Any) -> None:  # noqa: ANN401 - Airflow's client class
        """Have all clients of that class ask this one."""
        # Until 3.4 the method of that name is the repeating one itself.
        repeating = getattr(client, "_request_with_retry", client.request).retry
        self._airflows, wait = repeating.stop, repeating.wait
        repeating.wait = lambda state: min(wait(state), self._pause_s)
        repeating.stop, repeating.sleep = self._is_over, self._waiting.pause

    @contextlib.contextmanager
    def tries(self, number: int | None = None) -> Iterator[None]:
        """Try a request so often at the most; None for as often as Airflow does."""
        self._is_short, self._tries = True, number
        try:
            yield
        finally:
            self._is_short, self._tries = False, None

    def _is_over(self, state: Any) -> bool:  # noqa: ANN401 - the retrying library's class
        """Tell whether the try that has failed was the last one."""
        if state.upcoming_sleep >= self._waiting.left_s():
            return True
        if self._tries is not None:
            return bool(state.attempt_number >= self._tries)
        if self._is_short or self._patience_s is None or _is_airflows_own(state.outcome.exception()):
            return self._airflows(state)
        return bool(state.seconds_since_start + state.upcoming_sleep >= self._patience_s)


def _is_airflows_own(error: BaseException | None) -> bool:
    """Tell whether the request arrived and Airflow stumbled over it, as it may do each time."""
    return getattr(getattr(error, "response", None), "status_code", 0) == _INTERNAL_ERROR
