"""`edge-ws check`: looks at everything that edge-ws needs at the centre, and says what to do.

Changes nothing, prints nothing. One finding never hides another: what cannot be looked at says so.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import httpx2
from sqlalchemy.engine import Engine

from edge_ws.errors import EdgeWsError, UnreachableError, UsageError
from edge_ws.protocol import http
from edge_ws.protocol.ids import EXPIRY_TOLD_S
from edge_ws.provider import compat
from edge_ws.provider.config import (
    Conf,
    IdentitySettings,
    edge3_beat_s,
    gateway_settings,
    identity_settings,
    jwt_verifier,
    listen_url,
    serves_gateway,
)
from edge_ws.provider.jwks import KEEP_S, fetch_set, read_set
from edge_ws.server.eligibility import Fit, Reason, fits, is_here, lasted, no_jobs
from edge_ws.server.why_queued import pause_told
from edge_ws.store import schema
from edge_ws.store.database import shown_url
from edge_ws.store.records import SEEN_BEATS, TokenRecord
from edge_ws.store.store import Store
from edge_ws.store.view_records import Backlog, JobView, QueuePause, WorkerView


class Verdict(Enum):
    """Of one thing that was looked at."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as it could."""
    WRONG = "wrong"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What there is to say about one thing."""

    check: str
    verdict: Verdict
    says: str
    do: str = ""

    def told(self) -> str:
        """Return it as a line."""
        word = self.verdict.value
        shown = word.upper() if self.verdict is Verdict.WRONG else word
        return f"{shown:<11}  {self.check:<13}  {self.says}{'; ' + self.do if self.do else ''}"

    def as_row(self) -> dict[str, str]:
        """Return it for JSON."""
        return {"check": self.check, "verdict": self.verdict.value, "says": self.says, "do": self.do}


def ok(check: str, says: str) -> Finding:
    """Return that all is well."""
    return Finding(check=check, verdict=Verdict.OK, says=says)


def warning(check: str, says: str, do: str) -> Finding:
    """Return that it works, but not as it could."""
    return Finding(check=check, verdict=Verdict.WARNING, says=says, do=do)


def wrong(check: str, says: str, do: str = "") -> Finding:
    """Return what is wrong, and what to do unless the sentence says it."""
    return Finding(check=check, verdict=Verdict.WRONG, says=says, do=do)


def not_checked(check: str, why: str) -> Finding:
    """Return why it could not be looked at."""
    return Finding(check=check, verdict=Verdict.NOT_CHECKED, says=why)


NAMED = 3
"""Workers, queues or tokens that are named; of the rest only the number is told."""
_TAKES = frozenset({Reason.FREE, Reason.POLLS, Reason.FULL})
_AS_WISHED = frozenset(
    one.value for one in (Reason.MAINTENANCE, Reason.PAUSED, Reason.LEAVING, Reason.OFFLINE)
)
"""Reasons to take no jobs that somebody has wanted."""
_LOOK = "look at it on its host: edge-ws status and edge-ws doctor"
_RENEW = "make a new one (airflow edge-ws token create NAME) and put it into the worker's token file"


def workers(known: Sequence[WorkerView]) -> Finding:
    """Judge the fleet; who has said goodbye is no fault, nor who takes nothing because it was told so."""
    if not known:
        do = "make a token (airflow edge-ws token create NAME), and start edge-ws worker with it on its host"
        return warning("workers", "none has connected yet", do)
    faults = [
        f"{one.name} {found.why}"
        for one in known
        if (found := no_jobs(one)) is not None and found.code not in _AS_WISHED
    ]
    here = sum(is_here(one) for one in known)
    says = f"{here} of {len(known)} connected"
    if not faults:
        return ok("workers", says)
    judge = warning if here else wrong
    return judge("workers", f"{says}: {_told(faults)}", _LOOK)


def queues(
    waiting: Sequence[Backlog],
    first: Sequence[JobView],
    known: Sequence[WorkerView],
    pauses: Mapping[str, QueuePause] | None = None,
) -> Finding:
    """Judge what waits.

    Args:
        waiting: the queues in which jobs wait.
        first: of each of them the job that is next.
        known: all workers.
        pauses: the paused queues, by name: what waits there was wanted, and is told.
    """
    if pauses:
        return _with_pauses(waiting, first, known, pauses)
    if not waiting:
        return ok("queues", "no job waits")
    backlogs = {one.queue: one for one in waiting}
    unserved = []
    for job in first:
        found = fits(job, known)
        if not found or found[0].reason not in _TAKES:
            unserved.append(f"{_waits(backlogs[job.queue])} and nobody takes them: {_nearest(found)}")
    if unserved:
        do = "airflow edge-ws show-job says of one job what keeps it and what to do"
        return wrong("queues", _told(unserved), do)
    return ok("queues", f"workers are there for all that waits: {_told([_waits(one) for one in waiting])}")


def _with_pauses(
    waiting: Sequence[Backlog],
    first: Sequence[JobView],
    known: Sequence[WorkerView],
    pauses: Mapping[str, QueuePause],
) -> Finding:
    """Tell of the paused queues, and judge the others."""
    others = [one for one in waiting if one.queue not in pauses]
    judged = queues(others, [job for job in first if job.queue not in pauses], known)
    queued = {one.queue: one.queued for one in waiting}
    paused = [f"{pause_told(one)} ({queued.get(name, 0)} job(s) wait)" for name, one in pauses.items()]
    said = f"{_told(paused)}; elsewhere {judged.says}"
    if judged.verdict is not Verdict.OK:
        return replace(judged, says=said)
    return warning("queues", said, "airflow edge-ws resume-queue QUEUE has its jobs handed out again")


def _waits(one: Backlog) -> str:
    oldest = "" if one.oldest_wait_s is None else f", the oldest for {lasted(one.oldest_wait_s)}"
    return f"queue {one.queue}: {one.queued} job(s) wait{oldest}"


def _nearest(found: Sequence[Fit]) -> str:
    if not found:
        return "no worker has connected yet"
    if not found[0].serves:
        return "no worker serves that queue"
    serving = [f"{one.worker.name} {one.why}" for one in found if one.serves]
    return _told(serving)


def tokens(known: Sequence[TokenRecord], fleet: Sequence[WorkerView], now: float) -> Finding:
    """Judge the tokens by which workers come; `now` is the database's time."""
    good = [one for one in known if one.revoked_at is None]
    limited = [(one, one.expires_at) for one in good if one.expires_at is not None]
    expired = [
        f"{one.name} expired {_day(at)}, and {_told(users)} came by it"
        for one, at in limited
        if at <= now and (users := _users(one, fleet))
    ]
    if expired:
        return wrong("tokens", _told(expired), _RENEW)
    soon = [f"{one.name} expires {_day(at)}" for one, at in limited if now < at <= now + EXPIRY_TOLD_S]
    if soon:
        return warning("tokens", _told(soon), _RENEW)
    valid = len(good) - sum(at <= now for _, at in limited)
    return ok("tokens", f"{valid} valid, and none expires within {lasted(EXPIRY_TOLD_S)}")


def _users(one: TokenRecord, fleet: Sequence[WorkerView]) -> list[str]:
    return [
        worker.name
        for worker in fleet
        if worker.token is not None
        and (worker.token.name, worker.token.expires_at) == (one.name, one.expires_at)
    ]


def _told(several: Sequence[str]) -> str:
    more = f"; and {len(several) - NAMED} more" if len(several) > NAMED else ""
    return "; ".join(several[:NAMED]) + more


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


EXECUTOR = "edge_ws.provider.executor.EdgeWsExecutor"
HEARD_WITHIN_S = 5.0
ANSWER_WITHIN_S = 10.0
CLOCKS_APART_S = 5.0
"""Airflow takes a task token that is 10 s out of time (`[api_auth] jwt_leeway`)."""


def render(findings: Sequence[Finding], form: str) -> str:
    """Return the findings, a line each, or as one JSON list."""
    if form == "json":
        return json.dumps([one.as_row() for one in findings])
    return "\n".join(one.told() for one in findings)


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 1 if anything is wrong."""
    return int(any(one.verdict is Verdict.WRONG for one in findings))


def look(engine: Engine, conf: Conf) -> Iterator[Finding]:
    """Yield what is found, as it is found."""
    yield _said("settings", lambda: _settings(conf))
    yield _said("executor", lambda: executor(compat.configured_executors()))
    yield _said("secret", _secret)
    host = conf.get("api", "host", fallback="")
    yield _said("strangers", lambda: strangers(host if serves_gateway(conf) else None))
    if conf.get("edge_ws", "trusted_jwks_url", fallback=""):
        yield _said("identities", lambda: _identities(conf))
    tables = _said("tables", lambda: _tables(engine))
    yield tables
    store = Store(engine, listen_url=listen_url(conf), edge3_beat_s=edge3_beat_s(conf))
    for name, verb in (
        ("clock", lambda: clock(store.views.clock)),
        ("wake-up", lambda: _wake_up(store, engine.dialect.name)),
        ("gateways", lambda: _gateways(store, conf)),
        ("workers", lambda: workers(store.views.workers())),
        ("queues", lambda: _queues(store)),
        ("tokens", lambda: tokens(store.tokens.all_tokens(), store.views.workers(), store.views.clock())),
    ):
        yield _said(name, verb) if tables.verdict is Verdict.OK else not_checked(name, "see tables")
    base_url = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
    execution_api_url = conf.get("edge_ws", "execution_api_url", fallback="") or f"{base_url}/execution/"
    yield from from_outside(base_url, execution_api_url)


def _said(check: str, verb: Callable[[], Finding]) -> Finding:
    """Return the verb's finding; an expected fault says what is wrong by itself."""
    try:
        return verb()
    except EdgeWsError as error:
        return wrong(check, str(error))


# On this machine and in the database


def _settings(conf: Conf) -> Finding:
    gateway_settings(conf, versions={})
    identity_settings(conf)
    jwt_verifier(conf)
    return ok("settings", "[edge_ws] makes sense")


def executor(configured: Sequence[str]) -> Finding:
    """Judge the class paths in `[core] executor`."""
    if EXECUTOR not in configured:
        names = ", ".join(one.rpartition(".")[2] for one in configured)
        says = f"[core] executor is {names}: no task comes to edge-ws"
        return wrong("executor", says, f"add {EXECUTOR} and restart the scheduler")
    if configured[0] == EXECUTOR:
        return ok("executor", "edge-ws is the default")
    return ok("executor", 'edge-ws runs the tasks that name it: executor="EdgeWsExecutor"')


def _secret() -> Finding:
    compat.token_generator()
    return ok("secret", "task tokens can be signed; scheduler and api-server must have the same secret")


def _identities(conf: Conf) -> Finding:
    trusted = identity_settings(conf)
    assert trusted is not None
    return identities(trusted, lambda: fetch_set(trusted.jwks_url))


def identities(trusted: IdentitySettings, fetch: Callable[[], bytes]) -> Finding:
    """Judge whether workers' JWTs can be verified, by what `fetch` returns."""
    try:
        keys = read_set(fetch(), trusted.algorithms)
    except UnreachableError as error:
        do = f"gateways go on by the keys they know for {KEEP_S / 60:.0f} min, and take no JWT after that"
        return wrong("identities", str(error), do)
    count = len({kid for kid, _ in keys})
    whose = trusted.issuer or "whatever issuer jwt_verifier takes"
    return ok("identities", f"JWTs of {whose} can be verified: {count} key(s) at {trusted.jwks_url}")


def _tables(engine: Engine) -> Finding:
    schema.check(engine)
    return ok("tables", f"{shown_url(engine)} has what this release needs")


def clock(read: Callable[[], float]) -> Finding:
    """Compare the database's clock, which `read` returns, with this machine's."""
    before = time.time()
    there = read()
    after = time.time()
    # Whatever lies within the time that the answer took is no difference.
    apart_s = max(before - there, there - after, 0.0)
    if apart_s <= CLOCKS_APART_S:
        return ok("clock", f"the database's and this machine's are {apart_s:.1f} s apart")
    says = f"the database's clock and this machine's are {apart_s:.0f} s apart"
    return wrong("clock", says, "have both machines keep time (NTP)")


def _wake_up(store: Store, dialect: str) -> Finding:
    """Tell whether a gateway on this machine would be woken by changes, as each one tests it for itself."""
    heard = threading.Event()
    watch = store.watch(lambda _: heard.set())
    watch.start()
    try:
        heard.wait(HEARD_WITHIN_S if dialect in {"postgresql", "sqlite"} else 0.0)
        by = watch.wakeup.by
    finally:
        watch.stop()
    if by == "polling":
        says = "nothing tells of changes: gateways look up to twice a second"
        if dialect != "postgresql":
            return warning("wake-up", says, "PostgreSQL would tell")
        do = "past a pooler such as PgBouncer [edge_ws] listen_sql_alchemy_conn must name the database itself"
        return warning("wake-up", f"LISTEN hears no echo, {says}", do)
    return ok("wake-up", {"listen": "LISTEN hears what is sent"}.get(by, f"changes are seen by {by}"))


def _gateways(store: Store, conf: Conf) -> Finding:
    enabled = serves_gateway(conf)
    fresh_s = SEEN_BEATS * gateway_settings(conf, versions={}).timers.heartbeat_s
    # Each by the setting that it runs with.
    alive = [one for one in store.views.gateways() if one.is_alive]
    if alive:
        shown = ", ".join(f"{one.hostname}:{one.pid} ({max(0.0, one.seen_s):.0f} s ago)" for one in alive)
        return ok("gateways", f"{len(alive)} seen lately: {shown}")
    says = f"none was seen for {fresh_s:.0f} s"
    if enabled:
        return wrong("gateways", says, "[edge_ws] api_enabled is True: start the api-server, or restart it")
    do = "set [edge_ws] api_enabled = True and restart the api-server, or run: edge-ws server"
    return wrong("gateways", says, do)


def strangers(api_host: str | None) -> Finding:
    """Judge what holds off those who open connections and finish nothing.

    Args:
        api_host: where the api-server listens; None: it does not serve the gateway.
    """
    if api_host is None:
        return ok("strangers", "edge-ws server limits connections and unfinished requests by itself")
    with suppress(ValueError):
        if api_host == "localhost" or ipaddress.ip_address(api_host).is_loopback:
            return ok("strangers", f"what is in front of the api-server, at {api_host}, limits them")
    says = "the api-server's web server limits neither connections nor what they leave unfinished"
    return warning("strangers", says, "let only a proxy reach it that does: examples/nginx.conf shows how")


def _queues(store: Store) -> Finding:
    """Judge each queue in which something waits by the job that is next in it."""
    waiting = [one for one in store.views.backlogs() if one.queued]
    first = [job for one in waiting for job in store.views.jobs(1, queue=one.queue, state="queued")]
    return queues(waiting, first, store.views.workers(), store.views.pauses())


# Through the network


def from_outside(base_url: str, execution_api_url: str) -> Iterator[Finding]:
    """Ask for what workers ask for at Airflow's own URL; without one there is nothing to ask."""
    if not base_url:
        for check in ("base_url", "websocket", "execution API"):
            yield not_checked(check, "[api] base_url is not set; workers get their URL by --url")
        return
    with httpx2.Client(verify=ssl.create_default_context(), timeout=ANSWER_WITHIN_S) as client:
        gateway = base_url + http.PREFIX
        reached = _said("base_url", lambda: _health(client, gateway + http.HEALTH_PATH))
        yield reached
        if reached.verdict is Verdict.OK:
            yield _said("websocket", lambda: _upgrade(client, gateway + http.WEBSOCKET_PATH))
        else:
            yield not_checked("websocket", "see base_url")
        yield _said("execution API", lambda: _execution(client, execution_api_url))


def _get(client: httpx2.Client, url: str, headers: dict[str, str] | None = None) -> httpx2.Response:
    try:
        return client.get(url, headers=headers)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise UsageError(
            f"{url} cannot be reached from here: {str(error) or type(error).__name__}"
        ) from error


def _body(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _health(client: httpx2.Client, url: str) -> Finding:
    response = _get(client, url)
    body = _body(response)
    if http.ERROR_HEADER in response.headers:
        return wrong("base_url", f"the gateway at {url} hands out no jobs: {body.get('sentence', '')}")
    if body.get("edge_ws") != "gateway":
        says = f"{url} answers with status {response.status_code}, but not as a gateway"
        do = (
            "[edge_ws] api_enabled must be True where the api-server runs, or the proxy in front must send"
            f" {http.PREFIX}/ to an edge-ws server"
        )
        return wrong("base_url", says, do)
    return ok("base_url", f"{url} answers: {body.get('workers')} workers, wake-up by {body.get('wakeup')}")


def _upgrade(client: httpx2.Client, url: str) -> Finding:
    """Ask for a WebSocket without a token: the gateway refuses it, what blocks it answers otherwise."""
    asks = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "ZWRnZS13cyBjaGVja3MgdQ==",
    }
    response = _get(client, url, asks)
    code = response.headers.get(http.ERROR_HEADER)
    if code is not None and response.status_code != 426:
        return ok("websocket", "a WebSocket request reaches the gateway")
    says = "what is in front of the gateway lets no WebSocket pass, so workers use long-poll"
    do = "have it pass the Upgrade header; examples/nginx.conf shows how"
    return warning("websocket", f"{says} (status {response.status_code})", do)


def _execution(client: httpx2.Client, execution_api_url: str) -> Finding:
    url = execution_api_url.rstrip("/") + "/health"
    # With [core] simple_auth_manager_all_admins Airflow adds a user's token to each request, and its
    # Execution API, which looks at the first such header only, logs a traceback of that.
    response = _get(client, url, {"authorization": "none"})
    if response.status_code == 200 and "status" in _body(response):
        return ok("execution API", f"{url} answers")
    says = f"{url} answers with status {response.status_code}, but not as the Execution API"
    do = (
        "have the proxy in front send /execution/ to the api-server, start edge-ws server with --airflow-url,"
        " or set [edge_ws] execution_api_url"
    )
    return wrong("execution API", says, do)
