"""Airflow on a worker: load it, read a workload, run it.

What a new Airflow release may move is here and in the modules that it calls (`bundles`, `outcome`,
`execution_api`, `site_settings`, `supervision`, `task_log`). Knows no socket, journal or other job:
`run` is called in a process of its own that ends afterwards, so it may patch Airflow there. Imports Airflow
only when called.
"""

# ruff: noqa: PLC0415 - Airflow is imported only when called

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import math
import os
import selectors
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import orjson

from edge_ws import airflow_versions
from edge_ws.host import bundles, execution_api, outcome, site_settings, task_log
from edge_ws.host.execution_api import LONGEST_PAUSE_S, PATIENCE_S, Patience
from edge_ws.host.sentences import how_it_ended, one_line, shortened
from edge_ws.host.supervision import Supervision
from edge_ws.streams import LossyFile

if TYPE_CHECKING:
    import pydantic

# Airflow's classes cannot be named without importing it.
_Workload = Any
_Process = Any

_PRELOADED = (
    "airflow.executors.base_executor",
    "airflow.executors.workloads",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.execution_time.callback_supervisor",
    "airflow.sdk.definitions.connection",
    "airflow.dag_processing.dagbag",
    "airflow.dag_processing.bundles.manager",
    "airflow.dag_processing.bundles.local",
)
_PRELOADED_IF_THERE = (
    "airflow.providers.standard.operators.python",
    "airflow.providers.standard.operators.bash",
    "airflow.providers.standard.decorators.python",
    "airflow.sdk._shared.logging.factory",
    "encodings.idna",
    "setproctitle",
)
"""What a task would import after the fork; the more is here, the less each job costs."""
_OTEL_SWITCHES = ("AIRFLOW__TRACES__OTEL_ON", "AIRFLOW__METRICS__OTEL_ON")
_HEARTBEATS = ("workers", "max_failed_heartbeats")
_TRIES = ("workers", "execution_api_retries")
_LONGEST_PAUSE = ("workers", "execution_api_retry_wait_max")


class Report(outcome.Witness, Protocol):
    """What `run` tells while it runs."""

    def forked(self, pid: int) -> None:
        """The task's process exists, the leader of its own process group; nothing of the task runs yet."""

    def started(self) -> None:
        """Airflow has accepted the start: the task runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the job host needs to know of a payload."""

    log_path: str | None
    """Relative to Airflow's log folder."""
    log_file: str | None
    """Where the supervisor will write; absolute."""


Fault = Literal["", "host", "unsure"]
"""host: nothing has reached Airflow, and another host may do better. unsure: Airflow did not answer the
start. Empty: Airflow refused the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job went."""

    not_started: str | None = None
    """Why the task never ran and never will, None if it did run or may have."""
    fault: Fault = ""
    """Of one that is not started: whose fault that is."""
    exit_code: int = 0
    """0 whenever Airflow knows the outcome, or is still to be told it."""
    detail: str = ""
    log_uploaded: bool = False
    """The supervisor has sent the log to Airflow's remote log store itself."""


# Loading


def preload() -> str:
    """Import all that a task needs, start no thread for it, and return Airflow's version.

    Raises:
        UnsupportedAirflowError: it is a release that edge-ws does not work with.
        ImportError: Airflow is not installed, or something it needs is not; `name` is the module's.
    """
    airflow_versions.require()
    with _exporters_off():
        version: str = importlib.import_module("airflow").__version__
        _set_defaults()
        for name in _PRELOADED:
            importlib.import_module(name)
        for name in _PRELOADED_IF_THERE:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        for name in ("DAG", "BaseOperator", "task", "Variable", "XComArg"):
            getattr(importlib.import_module("airflow.sdk"), name)
    _workload_reader()
    execution_api.load_trust()
    gc.collect()
    # What is loaded now is never collected in a child either, so its pages stay shared.
    gc.freeze()
    return version


@contextlib.contextmanager
def _exporters_off() -> Iterator[None]:
    """Keep OpenTelemetry's export threads out of the process that forks; jobs start their own."""
    before = {name: os.environ.get(name) for name in _OTEL_SWITCHES}
    os.environ.update(dict.fromkeys(_OTEL_SWITCHES, "False"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _set_defaults() -> None:
    """Let a task outlive an outage of the centre of minutes, unless the user has decided otherwise.

    60 heartbeats are 5 minutes, as long as Airflow itself waits for one; its own number is 3, or 30 from 3.4
    on. The supervisor reads it at its import.
    """
    from airflow.configuration import conf

    if not site_settings.is_set_here(conf, *_HEARTBEATS):
        os.environ[site_settings.variable(*_HEARTBEATS)] = "60"


def _patience(supervision: Supervision) -> Patience:
    """Return for how long requests are repeated, unless the user has decided otherwise.

    Airflow's client has read its settings already: it is imported with Airflow itself.
    """
    from airflow.configuration import conf

    return Patience(
        supervision,
        patience_s=None if site_settings.is_set_here(conf, *_TRIES) else PATIENCE_S,
        pause_s=math.inf if site_settings.is_set_here(conf, *_LONGEST_PAUSE) else LONGEST_PAUSE_S,
    )


@functools.cache
def _workload_reader() -> pydantic.TypeAdapter[_Workload]:
    from airflow.executors import workloads
    from pydantic import TypeAdapter

    return TypeAdapter(workloads.ExecuteTask | workloads.ExecuteCallback)


def set_title(title: str) -> None:
    """Name this process for `ps`, if the library for it is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("setproctitle").setproctitle(title)


# Reading


def describe(payload: str) -> Described:
    """Check a workload's JSON.

    Raises:
        ValueError: it is not one that this Airflow can run; one sentence.
    """
    try:
        path = _read(payload).log_path
    except ValueError:
        raise
    except Exception as error:  # noqa: BLE001 - one odd payload must not end the host and its other jobs
        raise ValueError(f"the payload cannot be read: {one_line(error)}") from None
    return Described(log_path=path, log_file=None if path is None else str(log_folder() / path))


def _read(payload: str) -> _Workload:
    from pydantic import ValidationError

    try:
        kind = orjson.loads(payload)["type"]
    except (ValueError, TypeError, LookupError):
        raise ValueError("the payload is not a workload's JSON with a type") from None
    if kind not in {"ExecuteTask", "ExecuteCallback"}:
        raise ValueError(
            f"the payload is of type {str(kind)[:40]!r}, and only ExecuteTask and ExecuteCallback run here"
        )
    try:
        return _workload_reader().validate_json(payload)
    except ValidationError as error:
        # The union tries both types; the complaints of the other one are of no use.
        faults = [fault for fault in error.errors() if fault["loc"][:1] == (kind,)]
        where = ".".join(str(part) for part in faults[0]["loc"][1:]) or "it"
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise ValueError(f"the {kind} payload is not valid: {where}: {faults[0]['msg']}{more}") from None


def log_folder() -> Path:
    """Return the folder of tasks' logs."""
    from airflow.sdk.configuration import conf

    return Path(conf.get("logging", "base_log_folder")).absolute()


# Running


@dataclass(slots=True)
class _Start:
    """What is known of the start of the job's task."""

    accepted: bool = False
    refusal: str | None = None
    log: LossyFile | None = None
    """The task's."""

    def keep_log(self, log: LossyFile) -> None:
        """Note where the task's log goes."""
        self.log = log


def run(
    payload: str,
    *,
    token: str,
    server: str,
    proxy: str | None,
    worker: str,
    settings: Mapping[str, str],
    report: Report,
    supervision: Supervision,
) -> Outcome:
    """Run the workload to its end, in a process that does nothing else and ends afterwards.

    `proxy` is the only one on the way to `server`, None for none: the environment's are not for that.
    `settings` are the centre's, as in `site_settings`.
    """
    from airflow.configuration import conf

    start = _Start()
    patience = _patience(supervision)
    try:
        workload = _read(payload)
    except ValueError as error:
        return Outcome(exit_code=1, detail=str(error))
    try:
        site_settings.take_from_centre(conf, settings)
        workload.token = token
        if fault := bundles.fault_of(workload, worker):
            return Outcome(not_started=fault, fault="host")
        _start_exporters()
        execution_api.renew_trust()
        execution_api.use_proxy(proxy)
        task_log.lose_rather_than_fail(start.keep_log)
        _watch_start(report, start, supervision)
        ends = _watch_end(outcome.Noted(report, workload.log_path), patience)
        from airflow.executors.base_executor import BaseExecutor

        code = BaseExecutor.run_workload(workload, server=server)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the job ends here and its end is told
        if start.accepted:
            detail = f"the job did not end as it should: {one_line(error)}"
            return Outcome(exit_code=1, detail=detail, log_uploaded=_uploads(start))
        # From 3.4 on a callback is announced before its process is made.
        refusal = start.refusal or _refusal(error)
        if refusal is not None:
            return Outcome(not_started=refusal)
        return Outcome(not_started=one_line(error), fault="unsure" if _was_sent(error) else "host")
    detail = _explain(code)
    if code == 0 and workload.type == "ExecuteTask" and not ends.is_settled:
        # Of `os._exit(0)` Airflow's supervisor tells nobody; it takes the code for the outcome.
        code, detail = 1, "the task's process ended without telling its outcome"
    return Outcome(exit_code=code, detail=detail, log_uploaded=_uploads(start))


def _start_exporters() -> None:
    """Set up the tracing that was kept off while loading, if it is configured."""
    from airflow import settings
    from airflow.configuration import conf

    if conf.getboolean("traces", "otel_on", fallback=False) and hasattr(settings, "configure_otel"):
        settings.configure_otel(conf)


def _watch_start(report: Report, seen: _Start, supervision: Supervision) -> None:
    """Wrap the supervisor's start of a process, to report it and to notice the process's end at once."""
    from airflow.sdk.execution_time import callback_supervisor, supervisor

    supervision.wrap(supervisor.WatchedSubprocess)
    fork = supervisor.WatchedSubprocess.start.__func__

    def forked(cls: type, /, **options: object) -> _Process:
        process = fork(cls, **options)
        # Airflow gives a task a group of its own, a callback none: its signals would reach this process.
        with contextlib.suppress(OSError):
            os.setpgid(process.pid, process.pid)
        _wake_at_exit(process)
        supervision.attend(process)
        report.forked(process.pid)
        return process

    supervisor.WatchedSubprocess.start = classmethod(forked)
    for kind in (supervisor.ActivitySubprocess, callback_supervisor.CallbackSubprocess):
        kind.start = classmethod(_reporting(kind.start.__func__, report, seen))


def _watch_end(witness: outcome.Witness, patience: Patience) -> outcome.Watch:
    """Wrap the supervisor's client, to learn what it tells of the task's end, and how long it tries."""
    from airflow.sdk.api import client

    patience.put_into(client.Client)
    watch = outcome.Watch(witness, patience)
    watch.put_into(client.Client)
    return watch


def _reporting(start: Callable[..., _Process], report: Report, seen: _Start) -> Callable[..., _Process]:
    def started(cls: type, /, **options: object) -> _Process:
        try:
            process = start(cls, **options)
        except Exception as error:
            seen.refusal = _refusal(error)
            raise
        seen.accepted = True
        report.started()
        return process

    return started


def _wake_at_exit(process: _Process) -> None:
    """Let the process's end wake the supervisor's selector.

    Without it, a process that closes its sockets just before it can be waited for leaves the supervisor
    asleep for `[workers] min_heartbeat_interval`, 5 s: more than half of all forked runs, and each refused
    start.
    """
    try:
        exit_file = os.fdopen(os.pidfd_open(process.pid), "rb", 0)
    except OSError:
        return  # A kernel or sandbox without pidfds: late, but right.
    process.selector.register(
        exit_file, selectors.EVENT_READ, data=(lambda _file: False, process.selector.unregister)
    )


def _refusal(error: BaseException) -> str | None:
    """Return what the Execution API's 4xx to the start says, None if it was no such answer."""
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(getattr(cause, "response", None), "status_code", 0)
        if 400 <= status < 500:
            says = getattr(cause, "detail", None)
            if isinstance(says, dict):
                says = ", ".join(f"{name} {value}" for name, value in says.items())
            return shortened(f"the Execution API refused the start with {status}: {says or cause}")
        cause = cause.__cause__
    return None


_NEVER_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"}
)
"""Of the HTTP library's errors, those in which no request has left this machine."""


def _was_sent(error: BaseException) -> bool:
    """Tell whether the error may be that of a start that Airflow was asked for, and did not answer."""
    cause: BaseException | None = error
    while cause is not None:
        library = type(cause).__module__.partition(".")[0]
        if library in {"httpx", "httpx2"} and type(cause).__name__ not in _NEVER_SENT:
            return True
        if getattr(getattr(cause, "response", None), "status_code", 0) >= 500:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _uploads(start: _Start) -> bool:
    from airflow.sdk.log import load_remote_log_handler

    # The supervisor uploads at the end of whatever it could start.
    return start.accepted and load_remote_log_handler() is not None


def _explain(code: int) -> str:
    if code == 0:
        return ""
    return f"the task's process {how_it_ended(code)}"
