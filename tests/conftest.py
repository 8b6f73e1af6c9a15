"""Fixtures that every folder of tests uses: databases of each kind, the real edge3, a guard over processes."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings

from tests.support import services
from tests.support.certificates import Authority
from tests.support.databases import USUAL_KINDS, Databases, using
from tests.support.leftovers import no_leftovers
from tests.support.managers import Managers

# A busy machine is no fault of the code: time limits are pytest-timeout's business.
settings.register_profile(
    "edge-ws", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("edge-ws")


# To read the authorities that this machine trusts takes 40 ms for each client, in all processes and at each look
# of a test whether a server is there yet. No test meets a server that any of them vouches for.
_TRUSTED = Path(tempfile.mkdtemp(prefix="edge-ws-trusted-"))
atexit.register(shutil.rmtree, _TRUSTED, ignore_errors=True)
os.environ["SSL_CERT_FILE"] = str(Authority(_TRUSTED).file)


def pytest_configure(config: pytest.Config) -> None:
    """Take SIGTERM as Ctrl-C, so that fixtures stop what they started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


_STARTERS = {
    f"tests.support.{name}"
    for name in (
        "bouncer",
        "jobs",
        "managers",
        "programs",
        "proxies",
        "raw_host",
        "site",
        "small_disk",
        "stand",
    )
} | {"tests.support.standalone", "subprocess", "multiprocessing"}
"""Modules with which tests start processes, databases apart."""
_LONG = (
    "system",
    "page",
    "bench",
    "edge3/test_moving.py",
    "parity",
    "demo/test_demo.py",
    "releases",
    "chaos",
    "provider/test_db_manager.py",
    "provider/test_standalone.py",
    "simulation",
    "edge3",
    "proxies",
    "worker/test_sizes.py",
    "worker/test_leaving.py",
    "worker/test_outcomes.py",
)
"""Files, or folders of them, that take minutes, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, each of which one process runs: else the last one is waited for alone."""
    items.sort(key=_place)
    for item in items:
        if isinstance(item, pytest.Function) and any(map(_starts_processes, _modules_of(item))):
            item.add_marker("processes")


def _place(item: pytest.Item) -> int:
    path = item.path.relative_to(Path(__file__).parent).as_posix()
    return next((place for place, long in enumerate(_LONG) if path.startswith(long)), len(_LONG))


def _modules_of(item: pytest.Function) -> set[str]:
    """Return the names of the modules in which the test and its fixtures are."""
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    named = {one.func.__module__ for several in fixtures for one in several}
    return {item.module.__name__, *named} - {__name__, "conftest", "tests.conftest"}


@cache
def _starts_processes(module: str) -> bool:
    found = sys.modules.get(module)
    values = vars(found).values() if found is not None else ()
    return any(
        (value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)) in _STARTERS
        for value in values
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give all tests that lack the same service one line in the summary."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and services.LACKS in report.longrepr[2]:
        report.longrepr = (services.__file__, 1, report.longrepr[2])
    return report


@pytest.fixture(scope="session")
def session_pids() -> set[int]:
    """Processes that outlive a test on purpose; a fixture of a wider scope adds what it starts."""
    return set()


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory, session_pids: set[int]) -> Iterator[Databases]:
    """Makes databases; stops its servers at the session's end."""
    with Databases(tmp_path_factory.mktemp("databases"), session_pids) as maker:
        yield maker


@pytest.fixture(scope="session")
def managers(session_pids: set[int]) -> Iterator[Managers]:
    """Where the code of Airflow's database managers runs."""
    with Managers(session_pids) as running:
        yield running


@pytest.fixture(params=USUAL_KINDS)
def database_url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """URL of a new, migrated database, of each usual kind in turn (of every kind: `tests/store`)."""
    with databases.new(request.param, migrated=True) as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """Engine of a new, migrated database, of each kind in turn."""
    with using(database_url) as engine:
        yield engine


@pytest.fixture(params=USUAL_KINDS)
def empty_database_url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """URL of a new database without any table, of each kind in turn."""
    with databases.new(request.param, migrated=False) as url:
        yield url


@pytest.fixture
def empty_engine(empty_database_url: str) -> Iterator[sa.Engine]:
    """Engine of a new database without any table, of each kind in turn."""
    with using(empty_database_url) as engine:
        yield engine


@pytest.fixture
def sqlite_engine(databases: Databases) -> Iterator[sa.Engine]:
    """Engine of a new, migrated SQLite file: where the kind of database does not matter."""
    with databases.new("sqlite", migrated=True) as url, using(url) as engine:
        yield engine


@pytest.fixture
def postgres_engine(databases: Databases) -> Iterator[sa.Engine]:
    """Engine of a new, migrated database of the usual PostgreSQL."""
    with databases.new(USUAL_KINDS[1], migrated=True) as url, using(url) as engine:
        yield engine


@pytest.fixture(scope="session")
def edge3_path() -> Path:
    """Folder to put on PYTHONPATH for the real edge3."""
    return services.unpacked_edge3()


@pytest.fixture(autouse=True)
def _no_leftovers(request: pytest.FixtureRequest, session_pids: set[int]) -> Iterator[None]:
    with no_leftovers(request.node.nodeid, session_pids):
        yield
