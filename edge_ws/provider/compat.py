"""Airflow's moving parts in one place: what differs between its releases, and what may.

With the job host's runner, the only module to look at when a new Airflow comes out. Features are detected,
never version numbers compared. Knows nothing of jobs and claims. Importing it raises UnsupportedAirflowError
where another Airflow is installed: so executor and gateway are refused before anything else fails.
"""

# ruff: noqa: E402

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
import uuid
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from edge_ws import airflow_versions

# Another Airflow may lack what is imported from here on: its user is to read a sentence instead.
airflow_versions.require()

from airflow import __version__ as AIRFLOW_VERSION  # noqa: N812 - a constant, whatever its name there
from airflow import settings
from airflow.configuration import conf
from airflow.executors.base_executor import BaseExecutor
from airflow.executors.workloads import ExecuteCallback, ExecuteTask
from airflow.jobs.job import Job
from airflow.models.callback import Callback, CallbackKey
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from edge_ws.errors import RefusedError, UnreachableError, UsageError
from edge_ws.store.database import first_line

__all__ = ["AIRFLOW_VERSION", "ExecuteCallback", "ExecuteTask", "ExecutorBase", "conf"]

KEYS_ARE_IDS = hasattr(BaseExecutor, "get_task_key")
"""From 3.4 on every attempt of a task has an id of its own, and executors name it by that id."""


def supervisors_grace_s() -> float:
    """Return the seconds that a task has between SIGTERM and SIGKILL where Airflow's own executors run it."""
    # The setting is older than the supervisors that heed it; those came with keys that are ids.
    return conf.getfloat("core", "killed_task_cleanup_time") if KEYS_ARE_IDS else 5.0


def _abilities() -> dict[str, object]:
    if not hasattr(BaseExecutor, "supported_workload_types"):
        return {"supports_callbacks": True}
    from airflow.executors.workloads.base import WorkloadType  # noqa: PLC0415 - absent before 3.4

    # As a plain class attribute `supports_callbacks` would warn there.
    types = frozenset({WorkloadType.EXECUTE_TASK, WorkloadType.EXECUTE_CALLBACK})
    return {"supported_workload_types": types, "supports_task_instance_uuid": KEYS_ARE_IDS}


ExecutorBase: Any = type("ExecutorBase", (BaseExecutor,), {"__module__": __name__, **_abilities()})
"""Airflow's base class with our abilities declared the way this Airflow wants it."""


# Keys


def task_key(
    *, dag_id: str, task_id: str, run_id: str, map_index: int, try_number: int, task_instance_id: str
) -> Hashable | None:
    """Return the key under which the scheduler knows a task's attempt, None if that needs an id we lack."""
    if not KEYS_ARE_IDS:
        return TaskInstanceKey(dag_id, task_id, run_id, try_number, map_index)
    from airflow.executors.workloads.types import TaskInstanceUuid  # noqa: PLC0415 - absent before 3.4

    found = _as_uuid(task_instance_id)
    return None if found is None else TaskInstanceUuid(found)


def ti_key(ti: Any) -> Hashable:  # noqa: ANN401 - model or workload
    """Return the key of a task instance that is at hand."""
    return ExecutorBase.get_task_key(ti) if KEYS_ARE_IDS else ti.key


def ti_index(ti: Any) -> int:  # noqa: ANN401 - model or workload
    """Return the index under which Airflow's table has a task instance.

    From 3.4 on the `map_index` of a workload is the one for people: -1 in all passes of a loop.
    """
    stored = getattr(ti, "region_index", None)
    return int(ti.map_index if stored is None else stored)


def workload_key(workload: Any) -> Hashable | None:  # noqa: ANN401 - Airflow's own types
    """Return the key of a workload, None for one that has none."""
    return ti_key(workload.ti) if isinstance(workload, ExecuteTask) else getattr(workload, "key", None)


def callback_key(callback_id: str) -> Hashable:
    """Return the key under which the scheduler knows a callback."""
    return CallbackKey(callback_id)


# The metadata database


TASKS: sa.Table = TaskInstance.__table__
CALLBACKS: sa.Table = Callback.__table__


def engine() -> Engine:
    """Return the engine of Airflow's metadata database.

    Raises:
        UnreachableError: this Airflow process has none.
    """
    found: Engine | None = settings.engine
    if found is None:
        raise UnreachableError("this Airflow process has no connection to the metadata database")
    return found


@contextmanager
def guarded(session: Session) -> Iterator[Connection]:
    """Open a part of the scheduler's transaction that can fail alone.

    On PostgreSQL one failed statement would break all that the scheduler does in its transaction. A savepoint
    of the Session itself will not do: ending it counts as a commit, which the scheduler forbids.
    """
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        # A statement fails alone there anyway, and where the driver has not begun a transaction yet (it
        # waits for the first write) releasing a savepoint would commit.
        yield connection
        return
    with connection.begin_nested():
        yield connection


def can_commit(session: Session) -> bool:
    """Tell whether the session's transaction is whole: its connection is there, nothing has broken it."""
    try:
        return bool(session.is_active) and not session.connection().invalidated
    except SQLAlchemyError:
        return False


def send_callback(sink: Any, request: Any) -> None:  # noqa: ANN401 - Airflow's own types
    """Hand the sink what the DAG processor is to call, and leave the scheduler's session open.

    The sink alone commits and closes the session of its thread, which is the scheduler's. The tasks at hand
    are in no session any more then. 3.3 loses the further tries of one that was cleared as it ran. 3.4.0b2
    cannot put an attempt aside and ends, with an IntegrityError: a retry after SIGKILL, or after heartbeats
    that ceased, is enough.
    """
    session = settings.Session()
    sink.send(request, session=session)
    session.commit()


def living_schedulers(connection: Connection) -> set[int]:
    """Return the `job_id`s of the schedulers that Airflow holds for alive (as its own adoption does)."""
    c = Job.__table__.c
    query = sa.select(c.id).where(c.job_type == "SchedulerJob", c.state == "running")
    return set(connection.scalars(query))


def task_states(connection: Connection, ids: Collection[str]) -> dict[str, str | None]:
    """Return task instance id -> state of those that are some task's present attempt."""
    known = [found for found in map(_as_uuid, ids) if found is not None]
    if not known:
        return {}
    table = TaskInstance.__table__
    query = sa.select(table.c.id, table.c.state).where(table.c.id.in_(known), *present(table))
    return {str(row.id): row.state for row in connection.execute(query)}


def past_attempts(connection: Connection, ids: Collection[str]) -> dict[str, bool]:
    """Return which of the ids are attempts that Airflow has put aside -> whether it waits for their end.

    It waits for the end of what was cleared while it ran. Else the attempt itself has reported a retry, or
    the scheduler has given it up, or a task that had ended was cleared.
    """
    known = [found for found in map(_as_uuid, ids) if found is not None]
    if not known:
        return {}
    if KEYS_ARE_IDS:
        # What was cleared while it ran keeps its id until its end.
        table = TaskInstance.__table__
        past = sa.select(table.c.id).where(table.c.id.in_(known), table.c.working_set.is_(None))
        return {str(found): False for found in connection.scalars(past)}
    from airflow.models.taskinstancehistory import TaskInstanceHistory  # noqa: PLC0415 - absent from 3.4 on

    # The task has another id from that moment on, and keeps its try until it is scheduled again.
    present, past = TaskInstance.__table__, TaskInstanceHistory.__table__
    names = ("dag_id", "task_id", "run_id", "map_index", "try_number")
    same_try = sa.and_(*(present.c[name] == past.c[name] for name in names))
    query = sa.select(past.c.task_instance_id, present.c.state).where(past.c.task_instance_id.in_(known))
    rows = connection.execute(query.select_from(past.outerjoin(present, same_try)))
    return {str(row.task_instance_id): row.state == "restarting" for row in rows}


def task_states_by_try(
    connection: Connection, attempts: Collection[tuple[str, str, str, int, int]]
) -> dict[tuple[str, str, str, int, int], str | None]:
    """Return state by (dag, task, run, map index, try): for tasks that were cleared, and have a new id.

    From 3.4 on a task keeps its id until what runs under it has ended.
    """
    if not attempts or KEYS_ARE_IDS:
        return {}
    c = TaskInstance.__table__.c
    columns = (c.dag_id, c.task_id, c.run_id, c.map_index, c.try_number)
    query = sa.select(*columns, c.state).where(sa.tuple_(*columns).in_(list(attempts)))
    return {tuple(row[:5]): row.state for row in connection.execute(query)}


def present(table: sa.Table) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions of a task's present attempt, over the table of tasks."""
    # From 3.4 on the attempts of the past are in the same table.
    return (table.c.working_set.is_(sa.true()),) if "working_set" in table.c else ()


def index_of(table: sa.Table) -> sa.Column[Any]:
    """Return the column with a task's map index; from 3.4 on it counts the passes of a loop, too."""
    return table.c.region_index if "region_index" in table.c else table.c.map_index


def _as_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


# Tokens


def token_generator() -> Any:  # noqa: ANN401 - Airflow's own class
    """Return what signs task tokens, as Airflow's executors make it.

    Raises:
        UsageError: neither a secret nor a key is configured.
    """
    from airflow.api_fastapi.auth.tokens import JWTGenerator, get_signing_args  # noqa: PLC0415 - heavy

    try:
        signing = get_signing_args(make_secret_key_if_needed=False)
    except ValueError as error:
        raise UsageError(
            "Airflow's configuration: no task token can be signed; set [api_auth] jwt_secret (the same for"
            " scheduler and api-server) or jwt_private_key_path"
        ) from error
    return JWTGenerator(
        valid_for=conf.getint("execution_api", "jwt_expiration_time"),
        audience=conf.get_mandatory_list_value("execution_api", "jwt_audience")[0],
        issuer=conf.get("api_auth", "jwt_issuer", fallback=None),
        **signing,
    )


class TokenSigner:
    """Signs task tokens with what Airflow's generator is made of.

    A gateway at work mints thousands a second. The generator's own method prepares the secret and writes the
    header anew for each, which takes six times as long.
    """

    def __init__(self, generator: Any) -> None:  # noqa: ANN401 - Airflow's own class
        """Make it from `token_generator()`."""
        import jwt  # noqa: PLC0415 - for gateways only

        self._generator = generator
        self._algorithm: Any = None
        secret = generator.signing_arg
        if isinstance(secret, str):
            self._algorithm = jwt.get_algorithm_by_name(generator.algorithm)
            self._key = self._algorithm.prepare_key(secret)
            # The order of jwt.encode, which sorts a header.
            header = {"alg": generator.algorithm, "kid": generator.kid, "typ": "JWT"}
            self._head = _base64url(orjson.dumps(header))
            who = {"iss": generator.issuer, "aud": generator.audience}
            self._same = {name: value for name, value in who.items() if value}

    def sign(self, subject: str, scope: str, valid_s: float) -> str:
        """Return a token for the subject, valid for so many seconds from now."""
        if self._algorithm is None:
            # A key file: Airflow may read it again, and signing costs more than all else.
            extras = {"sub": subject, "scope": scope}
            return str(self._generator.generate(extras=extras, valid_for=valid_s))
        now = int(time.time())
        claims = {
            "sub": subject,
            "scope": scope,
            "jti": uuid.uuid4().hex,
            **self._same,
            "nbf": now,
            "exp": int(now + valid_s),
            "iat": now,
        }
        signed = self._head + b"." + _base64url(orjson.dumps(claims))
        return (signed + b"." + _base64url(self._algorithm.sign(signed, self._key))).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


RUNNING_SCOPE = "execution"
LATEST_S = 2.0**33
"""Seconds since the epoch; what ends later has no end that anybody could show."""
"""The scope of the tokens that the Execution API gives to a task when it has started."""


def token_scope(*, is_callback: bool) -> str:
    """Return the scope of a token with which a workload of that kind may start."""
    # A class attribute from 3.4 on, where callbacks have a scope of their own.
    return str(getattr(ExecuteCallback if is_callback else ExecuteTask, "token_scope", "workload"))


# Logs


def log_folder() -> Path:
    """Return the folder below which this process finds task logs."""
    return Path(conf.get("logging", "base_log_folder"))


def make_log_file(relative_path: str) -> None:
    """Create the file and the folders above it, with the permissions that Airflow is configured for."""
    from airflow.sdk.log import init_log_file  # noqa: PLC0415 - not needed in the scheduler

    init_log_file(relative_path)


def remote_log_store() -> Any | None:  # noqa: ANN401 - Airflow's own interface
    """Return the handler of remote task logs, None if none is configured."""
    from airflow.logging_config import get_remote_task_log  # noqa: PLC0415 - not needed in the scheduler

    return get_remote_task_log()


def task_instance_of(command: str) -> Any | None:  # noqa: ANN401 - Airflow's own class
    """Return the task instance that a workload's JSON is about, None for a callback."""
    body = json.loads(command)
    return ExecuteTask.model_validate(body).ti if body.get("type") == "ExecuteTask" else None


# The configuration


def configured_executors() -> list[str]:
    """Return the class paths of `[core] executor`, the default first.

    Raises:
        UsageError: Airflow makes no sense of it.
    """
    from airflow.executors.executor_loader import ExecutorLoader  # noqa: PLC0415 - for one verb only

    try:
        return [str(name.module_path) for name in ExecutorLoader.get_executor_names()]
    except Exception as error:  # whatever Airflow makes of it
        raise UsageError(f"Airflow's configuration: [core] executor: {error}") from error


# Metrics and traces


def metrics() -> Any | None:  # noqa: ANN401 - Airflow's own module
    """Return what emits metrics in this process, initialised; None where `[metrics]` wants none.

    Airflow's core and its task SDK each have a copy of the module, with a state of its own. Scheduler and
    api-server initialise core's alone, so this is core's, initialised where nobody has.
    """
    if not any(
        conf.getboolean("metrics", name, fallback=False)
        for name in ("statsd_on", "statsd_datadog_enabled", "otel_on")
    ):
        return None
    from airflow._shared.observability.metrics import stats  # noqa: PLC0415 - only where metrics are wanted

    if stats._factory is None:  # noqa: SLF001 - to initialise it again would drop its connection
        from airflow.observability.metrics import stats_utils  # noqa: PLC0415

        stats.initialize(
            factory=stats_utils.get_stats_factory(),
            export_legacy_names=conf.getboolean("metrics", "legacy_names_on"),
        )
    return stats


def takes_any_tag() -> bool:
    """Tell whether metrics are sent in a form whose tags may have any characters.

    In StatsD's they become parts of names. Where those have characters that Airflow does not take, it sends
    nothing, and logs an error for each metric.
    """
    is_plain = conf.getboolean("metrics", "statsd_on", fallback=False)
    return not is_plain or conf.getboolean("metrics", "statsd_datadog_enabled", fallback=False)


def tracer(name: str) -> Any | None:  # noqa: ANN401 - OpenTelemetry's own class
    """Return what makes spans in this process, None where `[traces]` wants none.

    Airflow sets OpenTelemetry up when it sets itself up.
    """
    if not conf.getboolean("traces", "otel_on", fallback=False):
        return None
    from opentelemetry import trace  # noqa: PLC0415 - only where traces are wanted

    return trace.get_tracer(name)


# The api-server


def execution_app() -> Any | None:  # noqa: ANN401 - an ASGI app
    """Return this api-server's Execution API, None where it is not served."""
    main = sys.modules.get("airflow.api_fastapi.main")
    routes = getattr(getattr(main, "app", None), "routes", ())
    return next((route.app for route in routes if getattr(route, "path", "") == "/execution"), None)


# Users


def airflow_user(token: str) -> Any:  # noqa: ANN401 - the auth manager's own class
    """Return the user of that token, as Airflow's API takes it for its own requests (blocking).

    Raises:
        RefusedError: the token is not valid.
        UnreachableError: the database is away.
    """
    from jwt import ExpiredSignatureError, InvalidTokenError  # noqa: PLC0415 - only where users are asked for

    try:
        # Airflow asks its database within the coroutine: not on a gateway's own event loop. Keys that it has
        # by URL are then fetched from more than one loop; where that fails it keeps the old and tries again.
        user = asyncio.run(_auth_manager().get_user_from_token(token))
    except ExpiredSignatureError as error:
        raise RefusedError("token", "the Airflow user's token has expired; get a new one") from error
    except InvalidTokenError as error:
        raise RefusedError("token", "the token is no Airflow user's, or not of this Airflow") from error
    except SQLAlchemyError as error:
        raise UnreachableError(f"Airflow's users cannot be looked up: {first_line(error)}") from error
    if user is None:
        raise RefusedError("token", "the token's user is not known to Airflow any more")
    return user


def token_expiry(token: str) -> float | None:
    """Return when a good token of a user ends, seconds since the epoch; None: not known."""
    from jwt import InvalidTokenError, decode  # noqa: PLC0415 - only where users are asked for

    try:
        ends = decode(token, options={"verify_signature": False}).get("exp")
    except InvalidTokenError:
        # An auth manager's own form of tokens.
        return None
    return float(ends) if isinstance(ends, int | float) and 0 < ends < LATEST_S else None


def may_see_jobs(user: Any) -> bool:  # noqa: ANN401
    """Tell whether the user may see Airflow's jobs, as they must for edge3's page (blocking)."""
    from airflow.api_fastapi.auth.managers.models.resource_details import AccessView  # noqa: PLC0415

    return bool(_auth_manager().is_authorized_view(access_view=AccessView.JOBS, user=user))


def may_edit_pools(user: Any) -> bool:  # noqa: ANN401
    """Tell whether the user may edit Airflow's pools (blocking).

    Of Airflow's rights it is the one that is like ours, over how many tasks run where; and the built-in roles
    that have it, Op and Admin, are the same in the simple auth manager and in FAB's. To see a view is enough
    for a Viewer, and nobody but FAB's Admin, if that, may write configuration.
    """
    return bool(_auth_manager().is_authorized_pool(method="PUT", user=user))


def _auth_manager() -> Any:  # noqa: ANN401
    # The api-server's own where there is one; a process of ours makes one, which opens nothing.
    from airflow.api_fastapi.app import create_auth_manager  # noqa: PLC0415 - a second; the api-server has it

    return create_auth_manager()
