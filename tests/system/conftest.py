"""One real Airflow with one real worker for all system tests of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.site import Site, running_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, session_pids: set[int]) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with running_site(folder, Path(__file__).parent / "dags") as site:
        site.worker("factory-7", "-c", "8", "-q", "default")
        yield site


@pytest.fixture(autouse=True)
def _spare_the_site(site: Site, session_pids: set[int]) -> Iterator[None]:
    """The site's processes, job hosts among them, live until the session's end."""
    yield
    for one in psutil.process_iter(["environ"]):
        if (one.info["environ"] or {}).get("HOME", "").startswith(str(site.home.parent)):
            session_pids.add(one.pid)
