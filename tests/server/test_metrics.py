"""What Prometheus is shown: the names of the page and no others, bounded labels, the fleet's values once."""

from __future__ import annotations

import math
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from edge_ws.errors import UsageError
from edge_ws.protocol.frames import Accept, Finished, Go, Offer, Started
from edge_ws.protocol.ids import WorkerName
from edge_ws.protocol.session import ServerSession
from edge_ws.server.admin import perform
from edge_ws.server.app import Gateway
from edge_ws.server.config import GatewaySettings
from edge_ws.server.figures import Figures
from edge_ws.server.fleet_metrics import speaker
from edge_ws.server.hub import Hub, Link
from edge_ws.server.metrics import (
    FLEET,
    GATEWAY,
    OTHERS,
    QUEUES,
    VERSIONS,
    WORKER,
    WORKERS,
    Copy,
    FleetFacts,
    Metrics,
    QueueFacts,
    WorkerFacts,
    copy,
)
from edge_ws.server.metrics_listener import MetricsListener
from edge_ws.store.records import Principal
from edge_ws.store.store import Store
from tests.support import services
from tests.support.gateway import LogFolder, RunningGateway, Tasks, connected, make_token, running_gateway
from tests.support.programs import PACKAGE
from tests.support.rows import enqueue, new_job
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.anyio
FACTS = {
    "edge_ws_version": "1.2.3",
    "airflow_version": "3.3.2",
    "python_version": "3.11.9",
    "jobs_running": 2,
    "outbox_entries": 1,
    "outbox_bytes": 4096,
    "outbox_oldest_s": 3.5,
    "log_backlog_bytes": 10,
    "loop_lag_ms": 12,
    "daemon_rss_mb": 40,
    "clock_skew_s": -0.5,
    "round_trip_ms": 30,
    "cpu_usage": 50,
    "sys_load": 1.5,
    "memory_usage": 25,
    "disk_free_gb": 2,
}


def a_copy(workers: list[WorkerFacts] | None = None, queues: dict[str, QueueFacts] | None = None) -> Copy:
    copied = copy(("id", "host", "1", "1.0", "3.3"), Figures(), Hub(lambda: None, lambda _: None), 0, 0.0)
    copied.workers = [worker("w1")] if workers is None else workers
    copied.fleet = FleetFacts(
        gateways={"alive": 1, "silent": 0},
        workers={"idle": 1},
        queues={"q": QueueFacts(queued=1)} if queues is None else queues,
        tokens_expiring=1,
        tokens_expired_in_use=0,
    )
    return copied


def worker(name: str, **facts: Any) -> WorkerFacts:
    return WorkerFacts(name, "websocket", 1.0, 4, 1, {**FACTS, **facts})


def samples(text: bytes | str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = text.decode() if isinstance(text, bytes) else text
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for one in families for s in one.samples}


def of(text: bytes | str, name: str, **labels: str) -> float | None:
    return samples(text).get((name, tuple(sorted(labels.items()))))


def on_the_page() -> dict[str, tuple[str, set[str], str]]:
    gateways = (PACKAGE / "METRICS.md").read_text().split("\n## The worker\n")[0]
    rows = re.findall(r"(?m)^\| `(edgews_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", gateways)
    return {
        name: (kind, set(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows
    }


def test_the_page_has_what_is_exported() -> None:
    page = on_the_page()
    for name, family in {**GATEWAY, **FLEET, **WORKER}.items():
        assert page[name] == (family.kind, set(family.labels), family.help), name
    exported = {}
    for family in text_string_to_metric_families(Metrics().render(a_copy()).decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for one in family.samples for label in one.labels} - {"le"}
        exported[name] = (family.type, labels)
    # What has not happened yet has no labels to show.
    silent = {"edgews_drops_total", "edgews_refusals_total"}
    wanted = {
        n: (f.kind, set() if n in silent else set(f.labels))
        for n, f in {**GATEWAY, **FLEET, **WORKER}.items()
    }
    assert exported == wanted


def test_names_follow_prometheus_rules() -> None:
    for name, family in {**GATEWAY, **FLEET, **WORKER}.items():
        assert (family.kind == "counter") == name.endswith("_total"), name
        assert not {"dag_id", "run_id", "task_id", "claim"} & set(family.labels)
    services.prometheus()
    command = ["promtool", "check", "metrics"]
    told = subprocess.run(command, input=Metrics().render(a_copy()), capture_output=True, check=False)
    assert (told.returncode, told.stdout + told.stderr) == (0, b"")


def test_units_are_base_units() -> None:
    text = Metrics().render(a_copy())
    for name, value in (
        ("edgews_worker_event_loop_lag_seconds", 0.012),
        ("edgews_worker_resident_memory_bytes", 40 * 2**20),
        ("edgews_worker_cpu_usage_ratio", 0.5),
        ("edgews_worker_disk_free_bytes", 2**31),
        ("edgews_worker_slots_used", 1),
    ):
        assert of(text, name, worker="w1") == pytest.approx(value)


def test_a_worker_s_words_make_no_labels_without_end() -> None:
    metrics = Metrics()
    seen = set()
    for number in range(3 * VERSIONS):
        text = metrics.render(a_copy([worker("w1", edge_ws_version=f"9.{number}")]))
        seen |= {dict(labels)["version"] for name, labels in samples(text) if name == "edgews_worker_info"}
    assert len(seen) <= VERSIONS + 1
    assert OTHERS in seen
    nasty = 'a"\n} 1\nevil_total{x="1'
    text = metrics.render(
        a_copy([worker("w1", airflow_version=nasty, cpu_usage="NaN", sys_load=float("inf"))])
    )
    assert b"evil_total" not in text
    assert of(text, "edgews_worker_cpu_usage_ratio", worker="w1") is None
    assert of(text, "edgews_worker_load1", worker="w1") is None


def test_queues_that_only_workers_name_are_few() -> None:
    queues = {f"made-up-{number:05}": QueueFacts(workers=1, slots=2, free=1) for number in range(20 * QUEUES)}
    queues |= {"work": QueueFacts(queued=3, oldest_wait_s=7.0), "zzz": QueueFacts(is_paused=True)}
    text = Metrics().render(a_copy(queues=queues))
    shown = [labels for name, labels in samples(text) if name == "edgews_queue_slots"]
    assert len(shown) == QUEUES + 1
    assert of(text, "edgews_queue_oldest_wait_seconds", queue="work") == 7.0
    assert of(text, "edgews_queue_paused", queue="zzz") == 1
    assert of(text, "edgews_queue_slots", queue=OTHERS) == 2 * (19 * QUEUES + 2)


def test_names_that_come_and_go_leave_no_series() -> None:
    hub, metrics = Hub(lambda: None, lambda _: None), Metrics()
    for number in range(50):
        link = Link(Principal(worker=WorkerName(f"made-up-{number}")), ServerSession(0.0), "websocket")
        hub.add(link)
        text = metrics.render(copy(("id", "host", "1", "1", "3"), Figures(), hub, 0, 0.0))
        names = {dict(labels)["worker"] for name, labels in samples(text) if name == "edgews_worker_slots"}
        assert names == {link.name}
        hub.remove(link)
    for number in range(WORKERS + 10):
        hub.add(Link(Principal(worker=WorkerName(f"w{number}")), ServerSession(0.0), "websocket"))
    text = metrics.render(copy(("id", "host", "1", "1", "3"), Figures(), hub, 0, 0.0))
    assert text.count(b"edgews_worker_slots{") == WORKERS


def a_gateway(store: Store, name: str = "test", *, has_metrics: bool = True) -> Gateway:
    tasks = Tasks()
    return Gateway(store, GatewaySettings(hostname=name), tasks, tasks, LogFolder(), has_metrics=has_metrics)


@asynccontextmanager
async def shown(gateway: Gateway) -> AsyncIterator[Callable[[], str]]:
    """Run a listener for the gateway; gives what asks it."""
    port = free_port()
    listener = MetricsListener.of(f"127.0.0.1:{port}", "here")
    listener.bind()
    async with listener.serving(lambda: gateway):
        yield lambda: listener.url
    assert listener.port is None


async def scrape(url: str) -> str:
    async with httpx2.AsyncClient() as client:
        answer = await client.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return answer.text


async def test_a_job_s_way_is_counted(engine: sa.Engine, store: Store) -> None:
    gateway = a_gateway(store)
    token = make_token(store)
    with running_gateway(gateway) as base_url:
        running = RunningGateway(int(base_url.rpartition(":")[2]), Tasks(), LogFolder())
        async with connected(running, token) as peer, shown(gateway) as listener:
            enqueue(engine, new_job(queue="q"))
            offer = await peer.expect(Offer)
            await peer.send(Accept(claim=offer.claim, host=peer.host))
            await peer.expect(Go)
            await peer.send(Started(claim=offer.claim, host=peer.host))
            await peer.send(Finished(claim=offer.claim, exit_code=0, log_end=0))
            await until(lambda: gateway.figures.counts["ends:success"])
            text = await scrape(listener())
            assert of(text, "edgews_connections", transport="websocket") == 1
            assert of(text, "edgews_connects_total", transport="websocket") == 1
            assert of(text, "edgews_offers_total") == 1
            assert of(text, "edgews_offer_results_total", result="accepted") == 1
            assert of(text, "edgews_job_ends_total", outcome="success") == 1
            assert of(text, "edgews_push_latency_seconds_count") == 1
            assert of(text, "edgews_start_latency_seconds_count") == 1
            assert of(text, "edgews_worker_slots", worker="w1") == 4
            assert of(text, "edgews_queue_free_slots", queue="q") == 4
            assert of(text, "edgews_fleet_exporter") == 1
            assert of(text, "edgews_gateways", state="alive") == 1
            assert (of(text, "edgews_database_seconds_count", kind="write") or 0) > 3
            # Not on the path that workers use.
            async with httpx2.AsyncClient() as client:
                for path in ("/metrics", "/edge-ws/metrics", "/edge-ws/healthz"):
                    assert (await client.get(base_url + path)).status_code == 404
                assert (await client.get(listener().replace("/metrics", "/healthz"))).text == "ok\n"
        with store._database.read() as connection:
            connection.execute(sa.text("SELECT 1"))
    assert gateway.figures.counts["drops:lost"] + gateway.figures.counts["drops:left"] == 1
    # Ended in good order: no gateway any more, and its hour still counts.
    (kept,) = store.figures.gateways()
    assert (kept.has_ended, kept.is_alive) == (True, False)
    assert store.views.gateways() == []


async def test_the_fleet_s_values_come_from_one_of_several(store: Store) -> None:
    deaf, first, second = (
        a_gateway(store, "a", has_metrics=False),
        a_gateway(store, "b"),
        a_gateway(store, "c"),
    )
    async with deaf.running(), first.running(), second.running():
        texts = [await one.metrics() for one in (deaf, first, second)]
        assert [of(text, "edgews_fleet_exporter") for text in texts] == [0, 1, 0]
        assert [of(text, "edgews_tokens_expiring") for text in texts] == [None, 0, None]
        assert speaker(store.figures.gateways()) == first.id
        # As if it had been killed: nobody hears of it any more.
        with store._database.write() as connection:
            connection.execute(
                sa.text("UPDATE edge_ws_gateway SET seen_at = seen_at - 600 WHERE id = :id"),
                {"id": first.id},
            )
        second._counted_at = -math.inf
        text = await second.metrics()
        assert of(text, "edgews_fleet_exporter") == 1
        assert of(text, "edgews_gateways", state="silent") == 1
        # It was only slow, and says so.
        await first._reaper.announce()
        second._counted_at = -math.inf
        assert of(await second.metrics(), "edgews_fleet_exporter") == 0
    assert Counter(one.is_alive for one in store.figures.gateways())[True] == 0


async def test_the_hour_of_two_gateways_outlives_one_of_them(store: Store) -> None:
    first, second = a_gateway(store, "a"), a_gateway(store, "b")

    def shown() -> Any:
        return perform(store, "figures", {}, own=(second.id, second.figures.snapshot()))

    async with second.running():
        async with first.running():
            first.figures.count("offers")
            second.figures.count("offers")
            assert shown()["hour"]["offers"] == 1
            await first._reaper.announce()
            assert shown()["hour"]["offers"] == 2
            assert {one["hostname"] for one in shown()["gateways"]} == {"a", "b"}
            first.figures.count("offers")
        assert shown()["hour"]["offers"] == 3
        assert [one["hostname"] for one in shown()["gateways"]] == ["b"]


def test_processes_of_one_server_take_a_port_each() -> None:
    first = free_port()
    listeners = [MetricsListener("127.0.0.1", range(first, min(first + 20, 65536))) for _ in range(3)]
    try:
        for one in listeners:
            one.bind()
        assert len({one.port for one in listeners}) == 3
        late = MetricsListener.of(f"127.0.0.1:{listeners[0].port}", "here")
        with pytest.raises(
            UsageError, match=r"metrics cannot be served on 127.0.0.1, port \d+: Address already"
        ):
            late.bind()
    finally:
        for one in listeners:
            if one._socket is not None:
                one._socket.close()


@pytest.mark.parametrize(
    "text",
    ["", "9795", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "a:2-1", "a:1-100", "a b:1", "::1:9795"],
)
def test_a_bad_address_is_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--metrics-listen: .* is no address such as 127\.0\.0\.1:9795"):
        MetricsListener.of(text, "--metrics-listen")


async def test_without_a_gateway_it_says_so() -> None:
    port = free_port()
    listener = MetricsListener.of(f"127.0.0.1:{port}", "here")
    listener.bind()
    async with listener.serving(lambda: None), httpx2.AsyncClient() as client:
        with anyio.fail_after(10):
            for path in ("metrics", "healthz"):
                assert (await client.get(f"http://127.0.0.1:{port}/{path}")).status_code == 503
