"""What every test behind a real proxy needs: a stand, and certificates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxies.stand import Stand, standing
from tests.support.certificates import Authority
from tests.support.databases import Databases


@pytest.fixture
def stand(tmp_path: Path, databases: Databases) -> Iterator[Stand]:
    with databases.new("postgresql-18", migrated=True) as url, standing(tmp_path, url) as stand:
        yield stand


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))
