"""What many tests of the worker stand on: an Execution API, and a whole machine with a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.execution_api import ExecutionApi, execution_api
from tests.support.jobs import make_site
from tests.support.stand import Stand
from tests.support.waiting import free_port


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def api() -> Iterator[ExecutionApi]:
    with execution_api() as running:
        yield running


@pytest.fixture
def stand(tmp_path: Path, sqlite_engine: sa.Engine, api: ExecutionApi) -> Iterator[Stand]:
    made = Stand(make_site(tmp_path / "site"), sqlite_engine, free_port(), api)
    try:
        yield made
    finally:
        made.end()
