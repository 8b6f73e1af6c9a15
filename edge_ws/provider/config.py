"""Reads `[edge_ws]` (and what we need of Airflow's own sections) into frozen settings.

Defaults are `info.OPTIONS`', nowhere else. Knows no Airflow: the caller hands in Airflow's `conf`, or an
executor's team-aware one.
"""

from __future__ import annotations

import importlib
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from edge_ws.errors import UsageError
from edge_ws.protocol.frames import Timers
from edge_ws.provider.info import OPTIONS, SECTION
from edge_ws.server.config import GatewaySettings
from edge_ws.store.records import EDGE3_BEAT_S

DAY_S = 86_400.0
MEBIBYTE = 1024 * 1024
EDGE3_BEAT = "edge", "heartbeat_interval"
LIFELESS = "scheduler", "task_instance_heartbeat_timeout"
LONGEST_LEEWAY_S = 300.0
LONGEST_BEAT_S = 600.0
"""Beyond that nobody would call a worker connected."""
_BOOLEANS = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
"""As Airflow reads them."""


JWT_KEYS = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""Algorithm of a JWT -> type and curve of its keys. None of them has a shared secret, for which a public key
could be taken."""


class Conf(Protocol):
    """The part of Airflow's configuration object that is used here."""

    def get(self, section: str, key: str, *, fallback: str | None) -> str | None:
        """Return the option's text."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings:
    """What the executor needs to know."""

    gives_back_stuck_tasks: bool
    """Whether the scheduler may take back a task that has been queued for too long."""
    lifeless_s: float
    """A job on an edge3 worker counts as lifeless so long after its last word, as with edge3's executor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """Which JWTs are taken, and what their claims mean."""

    jwks_url: str
    issuer: str | None
    """None: the verifier decides about it."""
    audience: str | None
    """None: a JWT that has an audience is refused."""
    algorithms: frozenset[str]
    """Keys of JWT_KEYS."""
    leeway_s: float
    worker_claim: str
    worker_pattern: str
    """What that claim must be; `<worker>` is the worker's name, `*` and `?` stand for any characters."""
    queues_claim: str
    """Empty: every queue."""
    team_claim: str
    """Empty: every team."""


def executor_settings(conf: Conf) -> ExecutorSettings:
    """Return the executor's settings.

    Raises:
        UsageError: an option has no sense; the sentence names it.
    """
    timeout = _text(conf, "queued_timeout").lower()
    if timeout not in {"airflow", "never"}:
        raise _wrong("queued_timeout", timeout, "airflow or never")
    silence = conf.get(*LIFELESS, fallback="300")
    return ExecutorSettings(
        gives_back_stuck_tasks=timeout == "airflow",
        lifeless_s=_number(*LIFELESS, silence, least=0.0),
    )


def serves_gateway(conf: Conf) -> bool:
    """Tell whether the api-server is to serve the gateway.

    Raises:
        UsageError: the option has no sense.
    """
    return _switch(conf, "api_enabled")


def shows_page(conf: Conf) -> bool:
    """Tell whether Airflow's UI is to show the operators' page.

    Raises:
        UsageError: an option has no sense.
    """
    return serves_gateway(conf) or _switch(conf, "page_enabled")


def _switch(conf: Conf, option: str) -> bool:
    text = _text(conf, option)
    if text.lower() not in _BOOLEANS:
        raise _wrong(option, text, "True or False")
    return _BOOLEANS[text.lower()]


def gateway_settings(
    conf: Conf,
    *,
    versions: dict[str, str],
    task_settings: dict[str, str] | None = None,
    airflows_grace_s: float = 5.0,
) -> GatewaySettings:
    """Return the settings of a gateway on this machine, which passes on those for tasks.

    `airflows_grace_s`: between SIGTERM and SIGKILL where Airflow's own supervisors stop a task.

    Raises:
        UsageError: an option has no sense; the sentence names it.
    """
    leeway = conf.get("api_auth", "jwt_leeway", fallback="10")
    return GatewaySettings(
        hostname=socket.gethostname(),
        timers=Timers(
            heartbeat_s=_seconds(conf, "heartbeat_interval", least=1.0, most=LONGEST_BEAT_S),
            offer_lease_s=_seconds(conf, "offer_lease", least=1.0, most=LONGEST_BEAT_S),
            cancel_grace_s=(
                airflows_grace_s
                if _text(conf, "cancel_grace_sec").lower() == "airflow"
                else _seconds(conf, "cancel_grace_sec", least=0.0)
            ),
        ),
        execution_api_url=_url(conf, "execution_api_url"),
        versions=versions,
        task_settings=task_settings or {},
        token_leeway_s=_number("api_auth", "jwt_leeway", leeway, least=0.0),
        keep_ended_s=_seconds(conf, "keep_ended_sec", least=0.0),
        keep_offline_workers_s=_days(conf, "offline_worker_retention_days") * DAY_S,
        job_log_limit=_mebibytes(conf, "job_log_limit_mib"),
        worker_log_limit=_mebibytes(conf, "worker_log_limit_mib"),
        log_table_limit=_mebibytes(conf, "log_table_limit_mib"),
    )


def identity_settings(conf: Conf) -> IdentitySettings | None:
    """Return which JWTs of an identity provider workers may show; None: none.

    Raises:
        UsageError: an option has no sense; the sentence names it.
    """
    url = _text(conf, "trusted_jwks_url")
    if not url:
        return None
    _check_jwks_url(url)
    algorithms = frozenset(one.strip() for one in _text(conf, "jwt_algorithm").split(",") if one.strip())
    if not algorithms or not algorithms <= JWT_KEYS.keys():
        raise _wrong("jwt_algorithm", _text(conf, "jwt_algorithm"), f"some of {', '.join(JWT_KEYS)}")
    issuer, claim = _text(conf, "jwt_issuer"), _text(conf, "jwt_worker_claim")
    if not issuer and not _text(conf, "jwt_verifier"):
        raise _wrong("jwt_issuer", issuer, "set, or jwt_verifier: else every JWT of every issuer is taken")
    if not claim:
        raise _wrong("jwt_worker_claim", claim, "the name of a claim")
    pattern = _text(conf, "jwt_worker_pattern")
    if not pattern.strip("*?"):
        raise _wrong("jwt_worker_pattern", pattern, "more than * and ?: else every JWT takes any name")
    return IdentitySettings(
        jwks_url=url,
        issuer=issuer or None,
        audience=_text(conf, "jwt_audience") or None,
        algorithms=algorithms,
        leeway_s=_seconds(conf, "jwt_leeway", least=0.0, most=LONGEST_LEEWAY_S),
        worker_claim=claim,
        worker_pattern=pattern,
        queues_claim=_text(conf, "jwt_queues_claim"),
        team_claim=_text(conf, "jwt_team_claim"),
    )


def _check_jwks_url(text: str) -> None:
    """Check that whoever is on the way cannot put in keys of their own."""
    try:
        parts = urlsplit(text)
        is_here = parts.hostname in {"127.0.0.1", "::1", "localhost"}
        fits = parts.scheme == "https" or (parts.scheme == "http" and is_here)
        fits = fits and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise _wrong("trusted_jwks_url", text, "an https URL, or an http one of this very machine")


def jwt_verifier(conf: Conf) -> Callable[..., Any] | None:
    """Return the site's own check of workers' JWTs, None if there is none.

    Raises:
        UsageError: it cannot be imported.
    """
    path = _text(conf, "jwt_verifier")
    if not path:
        return None
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the site's module does
        raise _wrong("jwt_verifier", path, f"importable ({type(error).__name__}: {error})") from error
    if not callable(found):
        raise _wrong("jwt_verifier", path, "a callable")
    verifier: Callable[..., Any] = found
    return verifier


def metrics_listen(conf: Conf) -> str | None:
    """Return where the api-server's gateway answers Prometheus, as it is written; None: nowhere."""
    return _text(conf, "metrics_listen") or None


def listen_url(conf: Conf) -> str | None:
    """Return the database's URL for LISTEN if it is another than Airflow's own; the store judges it."""
    return _text(conf, "listen_sql_alchemy_conn") or None


def edge3_beat_s(conf: Conf) -> float:
    """Return the heartbeat of edge3's workers; edge3's provider need not be installed.

    Raises:
        UsageError: the option has no sense.
    """
    return edge3_beat(conf.get(*EDGE3_BEAT, fallback=None))


def edge3_beat(text: str | None) -> float:
    """Return it of the option's text, None where it is not set; raises as above."""
    section, option = EDGE3_BEAT
    return EDGE3_BEAT_S if text is None else _number(section, option, text, least=1.0)


def api_path(conf: Conf) -> str:
    """Return the path of Airflow's own URL, without a slash at its end: everything is served below it."""
    return urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")


def api_certificate(conf: Conf) -> tuple[str, str]:
    """Return the files of the api-server's certificate and its key, empty for none."""
    cert, key = (conf.get("api", name, fallback="") or "" for name in ("ssl_cert", "ssl_key"))
    return cert, key


def _text(conf: Conf, name: str) -> str:
    default = OPTIONS[name].default
    text = conf.get(SECTION, name, fallback=default)
    return (default if text is None else text).strip()


def _seconds(conf: Conf, name: str, *, least: float, most: float = math.inf) -> float:
    return _number(SECTION, name, _text(conf, name), least=least, most=most)


def _days(conf: Conf, name: str) -> float:
    return _number(SECTION, name, _text(conf, name), least=0.0, unit="days")


def _mebibytes(conf: Conf, name: str) -> int:
    """Return bytes."""
    return int(_number(SECTION, name, _text(conf, name), least=0.0, unit="mebibytes") * MEBIBYTE)


def _number(
    section: str, name: str, text: str | None, *, least: float, most: float = math.inf, unit: str = "seconds"
) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not least <= number <= most or number == math.inf:
        bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise _wrong(name, text or "", f"a number of {unit}, {bounds}", section=section)
    return number


def _url(conf: Conf, name: str) -> str | None:
    text = _text(conf, name)
    if not text:
        return None
    try:
        parts = urlsplit(text)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise _wrong(name, text, "empty, or a URL such as https://airflow.example.com/execution/")
    return text


def _wrong(name: str, text: str, wanted: str, *, section: str = SECTION) -> UsageError:
    return UsageError(f"Airflow's configuration: [{section}] {name} is {text!r}, but must be {wanted}")
