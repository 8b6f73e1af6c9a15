"""Two neighbouring releases, and Airflow databases that the old one has migrated."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.releases.parts import EXECUTOR, Release
from tests.releases.wheel import unpacked_old_release
from tests.support.programs import PACKAGE


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The release before this one."""
    folder = tmp_path_factory.mktemp("old")
    release = Release("old", unpacked_old_release(folder))
    done = release.run(folder, "sqlite://", "-c", "import edge_ws; print(edge_ws.__file__)")
    # Else both releases would be this tree's, and every mix would work.
    assert done.stdout.strip() == str(release.path / "edge_ws" / "__init__.py"), done.stderr
    return release


@pytest.fixture(scope="session")
def new() -> Release:
    """This tree."""
    return Release("new", PACKAGE.parent)


@dataclass(frozen=True)
class Centre:
    """Where the parts of the data centre meet."""

    folder: Path
    database: str
    token: str
    """Admits any worker."""

    def run(self, release: Release, *words: str) -> str:
        """Run `python WORDS` there with that release; return what it prints."""
        done = release.run(self.folder, self.database, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def prepared(release: Release, folder: Path, database: str) -> Centre:
    """Let that release make the tables in an empty database, with a DAG and a token in them."""
    centre = Centre(folder, database, "")
    # Our tables come with Airflow's own: the provider's info names our manager.
    centre.run(release, "-m", "airflow", "db", "migrate")
    return replace(centre, token=centre.run(release, str(EXECUTOR), "furnish").strip())


@pytest.fixture(scope="session")
def _template(old: Release, tmp_path_factory: pytest.TempPathFactory) -> Centre:
    folder = tmp_path_factory.mktemp("template")
    return prepared(old, folder, f"sqlite:///{folder / 'airflow.db'}")


@pytest.fixture
def centre(_template: Centre, tmp_path: Path) -> Centre:
    """A new SQLite database as the old release leaves it."""
    file = tmp_path / "airflow.db"
    # Whole without its -wal: the last engine to use it has closed it.
    shutil.copyfile(_template.folder / file.name, file)
    return replace(_template, folder=tmp_path, database=f"sqlite:///{file}")
