"""Databases of every kind: what SQL means differs between them, and between PostgreSQL's releases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from edge_ws.store.store import Store
from tests.support.databases import KINDS, POSTGRES_KINDS, Databases, using
from tests.support.rows import LIFE, FakeWorker


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """URL of a new, migrated database, of each kind in turn."""
    with databases.new(request.param, migrated=True) as url:
        yield url


@pytest.fixture(params=KINDS)
def empty_database_url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """URL of a new database without any table, of each kind in turn."""
    with databases.new(request.param, migrated=False) as url:
        yield url


@pytest.fixture(params=POSTGRES_KINDS)
def postgres_engine(request: pytest.FixtureRequest, databases: Databases) -> Iterator[sa.Engine]:
    """Engine of a new, migrated database, of each kind of PostgreSQL in turn."""
    with databases.new(request.param, migrated=True) as url, using(url) as engine:
        yield engine


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    return Store(engine)


@pytest.fixture
def one(store: Store) -> FakeWorker:
    """A worker that is registered."""
    fake = FakeWorker(store)
    fake.register(life=LIFE)
    return fake
