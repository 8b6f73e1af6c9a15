"""A real gateway over a store, on each usual kind of database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from edge_ws.store.store import Store
from tests.support.gateway import RunningGateway, serving


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    return Store(engine)


@pytest.fixture
def gateway(store: Store) -> Iterator[RunningGateway]:
    with serving(store) as gateway:
        yield gateway
