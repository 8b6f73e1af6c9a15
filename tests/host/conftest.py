"""One pre-loaded host for all tests of a module that leave it as it was; the others start their own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.support.execution_api import ExecutionApi, execution_api
from tests.support.jobs import Site, make_site
from tests.support.raw_host import Line, RawHost, raw_host


@pytest.fixture(scope="module")
def api() -> Iterator[ExecutionApi]:
    with execution_api() as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def shared_host(site: Site) -> Iterator[RawHost]:
    with raw_host(site.folder / "hosts", site.environment()) as host:
        host.connect().hello()
        yield host


@pytest.fixture
def line(shared_host: RawHost) -> Iterator[Line]:
    connected = shared_host.connect()
    yield connected
    connected.close()


@pytest.fixture
def claim() -> str:
    return str(uuid.uuid4())
