"""Airflow's own metrics and traces from a real `edge-ws server`: to a StatsD server and an OTLP collector."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from airflow.utils.session import create_session

from edge_ws.protocol.frames import Accept, Ack, Finished, Go, Offer, Started, Status
from edge_ws.protocol.ids import WorkerName
from edge_ws.provider import airflow_stats, airflow_traces
from edge_ws.provider.airflow_stats import AirflowStats
from edge_ws.provider.airflow_traces import AirflowTraces
from edge_ws.provider.executor import EdgeWsExecutor
from edge_ws.server.ports import JobTrace, WorkerReading
from edge_ws.store.records import ClaimFacts, JobKey
from edge_ws.store.store import Store
from tests.support.centre import SCHEDULER, Centre
from tests.support.gateway import LogFolder, RunningGateway, Tasks, connected, make_token
from tests.support.otlp import attributes, collector
from tests.support.standalone import ready, server
from tests.support.statsd import statsd
from tests.support.waiting import until, wait_until

LATENESS_S = 2.0
"""By so much a time may be off, on a busy machine."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_standalone_gateway_tells_of_workers_and_jobs(centre: Centre, tmp_path: Path) -> None:
    store = Store(centre.engine)
    executor = EdgeWsExecutor()
    executor.job_id = SCHEDULER
    ti = centre.task(queue="q")
    trace_id, task_span = secrets.token_hex(16), secrets.token_hex(8)
    base = centre.workload(ti)
    carrier = {"traceparent": f"00-{trace_id}-{task_span}-01"}
    workload = base.model_copy(update={"ti": base.ti.model_copy(update={"context_carrier": carrier})})
    with statsd() as metrics, collector() as traces:
        wanted = {**metrics.settings(), **traces.settings(), "AIRFLOW__EDGE_WS__HEARTBEAT_INTERVAL": "1"}
        with server(tmp_path, f"sqlite:///{tmp_path / 'airflow.db'}", **wanted) as one:
            ready(one)
            gateway = RunningGateway(one.port, Tasks(), LogFolder())
            async with connected(gateway, make_token(store)) as peer:
                queued_at = time.time()
                with create_session(scoped=False) as session:
                    executor.queue_workload(workload, session=session)
                offer = await peer.expect(Offer, 20)
                offered_at = time.time()
                await peer.send(Accept(claim=offer.claim, host=peer.host))
                await peer.expect(Go)
                accepted_at = time.time()
                centre.set_task(ti, state="running")
                await peer.send(Started(claim=offer.claim, host=peer.host))
                await peer.expect(Ack)
                started_at = time.time()
                centre.set_task(ti, state="success")
                await peer.send(
                    Finished(claim=offer.claim, exit_code=0, log_end=0, detail="", log_uploaded=True)
                )
                await peer.expect(Ack)
                ended_at = time.time()
                named = "dag_id=factory,task_id=press,queue=q"
                await until(lambda: metrics.counts()[f"airflow.edge_worker.ti.start,{named}"] == 1, 20)
                await until(
                    lambda: metrics.counts()[f"airflow.edge_worker.ti.finish,{named},state=success"] == 1, 20
                )
                with anyio.fail_after(20):
                    while metrics.last("airflow.edge_worker.connected,worker_name=w1") != "1":
                        await peer.send(Status(inventory=peer.inventory, sysinfo={}))
                        # Told at the gateway's heartbeats; the worker says it again until then.
                        await anyio.sleep(0.2)
                (span,) = await until(lambda: traces.named("edge_ws."), 20)

    assert span.name == "edge_ws.job.press"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace_id, task_span)
    said = {event.name: event.time_unix_nano / 1e9 for event in span.events}
    assert list(said) == ["queued", "offered", "accepted", "started", "ended"]
    assert list(said.values()) == sorted(said.values())
    heard = (queued_at, offered_at, accepted_at, started_at, ended_at)
    for name, at in zip(said, heard, strict=True):
        assert said[name] == pytest.approx(at, abs=LATENESS_S), name
    assert span.start_time_unix_nano / 1e9 == said["queued"]
    assert span.end_time_unix_nano / 1e9 == said["ended"]
    told = attributes(span)
    assert told["airflow.dag_id"] == "factory"
    assert told["airflow.task_instance.id"] == str(ti.id)
    assert (told["edge_ws.worker"], told["edge_ws.queue"]) == ("w1", "q")
    assert span.status.code == 1


def test_off_makes_nothing(centre: Centre) -> None:
    assert AirflowStats.wanted() is None
    assert AirflowTraces.wanted() is None


def test_what_cannot_be_used_is_said_and_left_out(
    centre: Centre, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "neither")
    assert AirflowStats.wanted() is None
    assert "Airflow's metrics cannot be used" in caplog.text


READING = WorkerReading(
    worker="w1", team=None, connected=True, maintenance=False, jobs_active=0, queues=(), facts={}
)


class Broken:
    """A metrics system, or a tracer, of which every call fails."""

    def __getattr__(self, name: str) -> object:
        raise OSError("the network is unreachable")


def a_trace(command: str) -> JobTrace:
    facts = ClaimFacts(
        key=JobKey("dag", "t", "run", -1, 1),
        worker=WorkerName("w1"),
        queue="q",
        team=None,
        slots=1,
        result="failed",
        job_state="failed",
        detail="exit code 1",
        command=command,
        queued_s=3.0,
        offered_s=2.0,
        ended_s=1.0,
    )
    return JobTrace(
        claim="c", job=facts, queued_at=1.0, offered_at=2.0, accepted_at=None, started_at=None, ended_at=3.0
    )


def test_a_broken_metrics_system_is_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    stats = AirflowStats(Broken(), clock=lambda: now)
    with stats.sync_timed(None):
        stats.heard([READING, READING])
    stats.silent([("w1", None)])
    stats.started([a_trace("{}").job])
    stats.ended([a_trace("{}").job])
    assert caplog.text.count("Airflow's metrics are not sent; jobs go on") == 1
    now += airflow_stats.TELL_EVERY_S
    stats.heard([READING])
    assert caplog.text.count("Airflow's metrics are not sent; jobs go on") == 2


def test_a_broken_tracer_or_workload_is_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    traces = AirflowTraces(Broken(), clock=lambda: now)
    carrier = f"00-{'a' * 32}-{'b' * 16}-01"
    good = f'{{"ti": {{"context_carrier": {{"traceparent": "{carrier}"}}}}}}'
    traces.ended([a_trace(good), a_trace("no JSON"), a_trace('{"ti": 7}')])
    assert caplog.text.count("no span is made of a job; jobs go on") == 1
    now += airflow_traces.TELL_EVERY_S
    traces.ended([a_trace(good)])
    assert caplog.text.count("no span is made of a job; jobs go on") == 2


@pytest.mark.parametrize(
    "ti",
    [
        "null",
        '{"context_carrier": null}',
        '{"context_carrier": {}}',
        # Not sampled: Airflow has decided that this run is not traced.
        f'{{"context_carrier": {{"traceparent": "00-{"a" * 32}-{"b" * 16}-00"}}}}',
    ],
)
def test_a_job_outside_of_any_trace_has_no_span(ti: str, caplog: pytest.LogCaptureFixture) -> None:
    AirflowTraces(Broken()).ended([a_trace(f'{{"ti": {ti}}}')])
    assert caplog.text == ""


class Gauges:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def incr(self, name: str, *_: object, tags: dict[str, str]) -> None:
        self.values[name] = 1

    def gauge(self, name: str, value: float, *, tags: dict[str, str]) -> None:
        assert name not in self.values
        self.values[name] = value


@pytest.mark.parametrize("influxdb", ["True", "False"])
def test_names_that_statsd_does_not_take_are_made_plain(
    centre: Centre, influxdb: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow._shared.observability.metrics import stats

    with statsd() as listener:
        for name, value in {
            **listener.settings(),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": influxdb,
        }.items():
            monkeypatch.setenv(name, value)
        # Nobody has initialised it in this process: we do.
        monkeypatch.setattr(stats, "_factory", None)
        monkeypatch.setattr(stats, "_backend", None)
        metrics = AirflowStats.wanted()
        assert metrics is not None
        for queues in (("big machines",), ("a", "b"), ()):
            metrics.heard([replace(READING, worker="plant:7@north", team="A & B", queues=queues)])
        metrics.started([replace(a_trace("{}").job, queue="big machines")])
        tags = ",team_name=A___B" if influxdb == "True" else ""
        wait_until(lambda: "airflow.edge_worker.ti.start.big_machines.dag.t" in listener.counts())
        assert listener.last(f"airflow.edge_worker.connected.plant_7_north{tags}") == "1"
        stats._get_backend().statsd.close()
    assert caplog.text == ""


def test_a_worker_has_so_many_facts_and_no_more() -> None:
    gauges = Gauges()
    facts = {f"fact_{number}": number for number in range(1000)}
    AirflowStats(gauges).heard([replace(READING, facts=facts)])
    assert sum(name.startswith("edge_worker.fact_") for name in gauges.values) == airflow_stats.MOST_FACTS


def test_a_workers_facts_are_its_numbers_under_names_that_airflow_takes() -> None:
    gauges = Gauges()
    facts = {
        "cpu_usage": 12.5,
        "is_raining": True,
        "site": "north",
        "pid": 7,
        "connected": 0,
        "heartbeat_count": 7,
        "a fact,of=another": 1,
        "endless": float("inf"),
        "x" * 101: 1,
        "status": "good",
        "concurrency": "many",
    }
    AirflowStats(gauges).heard([replace(READING, facts=facts)])
    begin = "edge_worker."
    assert {name.removeprefix(begin): value for name, value in gauges.values.items()} == {
        "heartbeat_count": 1,
        "status": 0,
        "connected": 1,
        "maintenance": 0,
        "jobs_active": 0,
        "concurrency": -1,
        "free_concurrency": -1,
        "num_queues": 0,
        "cpu_usage": 12.5,
        "is_raining": True,
    }
