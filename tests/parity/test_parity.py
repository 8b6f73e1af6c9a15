"""The same DAGs on LocalExecutor and on edge-ws: states, tries, XComs, logs, callbacks alike.

`make parity` is the long form (PARITY=long): all of Airflow's example DAGs that need nothing outside of this
machine, fifty retried attempts with callbacks, sixty cancels spread over the heartbeat's phase.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import psutil
import pytest

from tests.parity import cases
from tests.parity.cases import Case
from tests.parity.drive import Api, Outcome, api_of, play
from tests.support.databases import USUAL_KINDS, Databases
from tests.support.site import Site, running_site
from tests.support.waiting import wait_until

LONG = os.environ.get("PARITY") == "long"
ONLY = os.environ.get("ONLY", "")
"""Only cases in whose names this regular expression is found."""
HERE = Path(__file__).parent
WORKER = "parity-edge"
TOGETHER = 3
"""Cases that run at a time, each on both executors."""
SLOTS = TOGETHER * 2 * cases.ACTED_ON
"""Of both executors together: the tasks of `acts` keep theirs until all of them have begun."""
HASH_SEED = "0"
"""Some operators log sets, and leave them in XComs: both sides' have the same order."""
OUR_DAGS = [
    "ends",
    "slow_callbacks",
    "listened",
    "retried",
    "values",
    "logs",
    "shapes",
    "acts",
    "links",
    "linked",
]

pytestmark = [pytest.mark.system, pytest.mark.timeout(7200 if LONG else 900)]


def _folders(folder: Path) -> tuple[Path, Path]:
    """Put together what both executors load: our DAGs and plugins, and Airflow's examples with theirs."""
    dags, plugins = folder / "dags", folder / "plugins"
    shutil.copytree(HERE / "dags", dags)
    shutil.copytree(HERE / "plugins", plugins)
    for file in cases.example_files(every=LONG):
        shutil.copy(file, dags)
    for examples in cases.EXAMPLES:
        if (examples / "sql").is_dir():
            shutil.copytree(examples / "sql", dags / "sql", dirs_exist_ok=True)
    return dags, plugins


@pytest.fixture(scope="session")
def parity_site(
    tmp_path_factory: pytest.TempPathFactory, databases: Databases, session_pids: set[int]
) -> Iterator[Site]:
    """One Airflow with both executors, and one worker with a state directory and a log folder of its own."""
    folder = tmp_path_factory.mktemp("parity")
    dags, plugins = _folders(folder)
    common = {
        # A busy machine's delays are no difference between executors.
        "WORKERS__EXECUTION_API_TIMEOUT": "120",
        "CORE__TASK_SUCCESS_OVERTIME": "120",
        # From 3.4 on between SIGTERM and SIGKILL: as long as ever, and not a minute.
        "CORE__KILLED_TASK_CLEANUP_TIME": "5",
        "CORE__PLUGINS_FOLDER": str(plugins),
    }
    settings = {
        **common,
        "CORE__EXECUTOR": "LocalExecutor,edge_ws:edge_ws.provider.executor.EdgeWsExecutor",
        "CORE__PARALLELISM": str(SLOTS),
        "CORE__MAX_ACTIVE_RUNS_PER_DAG": "64",
        "API__MAXIMUM_PAGE_LIMIT": "1000",
        # The api-server waits for a connection on its event loop, for which those that have one wait.
        "DATABASE__SQL_ALCHEMY_POOL_SIZE": "40",
        # Runs are triggered by hand only.
        "SCHEDULER__USE_JOB_SCHEDULE": "False",
    }
    with (
        databases.new(USUAL_KINDS[1], migrated=False) as url,
        running_site(folder, dags, url, hash_seed=HASH_SEED, **settings) as site,
    ):
        theirs = {f"AIRFLOW__{name}": value for name, value in common.items()}
        theirs["PYTHONHASHSEED"] = HASH_SEED
        site.worker(WORKER, "-c", str(SLOTS), "-q", "default", **theirs)
        yield site


@pytest.fixture(autouse=True)
def _spare_the_site(request: pytest.FixtureRequest, session_pids: set[int]) -> Iterator[None]:
    """The site's processes, job hosts and tasks among them, live until the session's end."""
    yield
    if "parity_site" in request.fixturenames:
        home = str(request.getfixturevalue("parity_site").home.parent)
        for one in psutil.process_iter(["environ"]):
            if (one.info["environ"] or {}).get("HOME", "").startswith(home):
                session_pids.add(one.pid)


def _prepared(site: Site, api: Api) -> list[str]:
    """Wait until every DAG is known, and let all be run; return the names of the example DAGs."""
    wanted = {*OUR_DAGS, *cases.SHORT_EXAMPLES}
    files = {one.name for one in Path(site.dags).glob("*.py") if one.name != "parity_notes.py"}

    def known() -> list[str]:
        found = api.pages("dags", "dags")
        parsed = {Path(one["fileloc"]).name for one in found}
        names = [one["dag_id"] for one in found]
        return names if wanted <= {*names} and files <= parsed else []

    names = wait_until(known, 600 if LONG else 150, every_s=0.5)
    api.do("POST", "pools", {"name": "parity_pool", "slots": 2})
    api.do("POST", "variables", {"key": "parity", "value": "a variable"})
    for name in names:
        api.do("PATCH", f"dags/{name}", {"is_paused": False})
    return sorted({*names} - {*OUR_DAGS})


@pytest.fixture(scope="session")
def outcomes(parity_site: Site) -> Iterator[dict[str, Future[Outcome]]]:
    """All cases, some at a time: a test waits for its own."""
    with api_of(parity_site) as api:
        examples = _prepared(parity_site, api)
        wanted = cases.long(examples) if LONG else cases.short()
        stop = threading.Event()
        with ThreadPoolExecutor(TOGETHER) as pool:
            try:
                yield {
                    case.name: pool.submit(play, parity_site, api, case, WORKER, stop)
                    for case in wanted
                    if re.search(ONLY, case.name)
                }
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)


@pytest.mark.skipif(LONG, reason="the long form has them all")
@pytest.mark.parametrize(
    "case", [one for one in cases.short() if re.search(ONLY, one.name)], ids=lambda one: one.name
)
def test_the_executors_do_alike(case: Case, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes[case.name].result()
    assert outcome.places > 3
    assert not outcome.unknown, str(outcome)


@pytest.mark.skipif(not LONG, reason="the long form: make parity")
def test_all_that_can_be_run_here_is_alike(outcomes: dict[str, Future[Outcome]]) -> None:
    done, broken = [], []
    names = {future: name for name, future in outcomes.items()}
    for future in as_completed(names):
        name = names[future]
        try:
            outcome = future.result()
        except Exception as error:  # noqa: BLE001
            broken.append(f"{name}: {type(error).__name__}: {error}")
            print("!", broken[-1][:2000], flush=True)
            continue
        done.append(outcome)
        print("=" if not outcome.unknown else "#", outcome if outcome.unknown else name, flush=True)
    print(summary(done, broken), flush=True)
    assert len(done) >= 60 or ONLY
    assert not broken
    assert not [one.case.name for one in done if one.unknown]


def summary(done: list[Outcome], broken: list[str]) -> str:
    """Return the numbers that a person wants."""
    reasons: Counter[str] = sum((one.known for one in done), Counter())
    equal = [one for one in done if not one.unknown]
    lines = [
        f"{len(done) + len(broken)} cases, {sum(one.places for one in done)} places compared",
        f"{len(equal)} equal, {len(done) - len(equal)} with unknown differences, {len(broken)} not compared",
        *(f"known, {count} lines: {reason}" for reason, count in reasons.most_common()),
    ]
    return "\n".join(lines)
