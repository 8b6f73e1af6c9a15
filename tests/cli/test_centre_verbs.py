"""Tokens and tables from the real command line, on the database that Airflow is told of."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from edge_ws.store.store import Store
from tests.support.databases import Databases, using
from tests.support.programs import clean_environment, run_edge_ws
from tests.support.rows import FakeWorker
from tests.support.waiting import free_port


class Centre:
    """A machine whose Airflow uses that database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self._environment = clean_environment(folder, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=url)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `edge-ws` there."""
        done = run_edge_ws(*words, environment=self._environment)
        assert "Traceback" not in done.stderr
        return done

    def rows(self, *words: str) -> list[dict[str, object]]:
        """Run a listing verb and return its rows."""
        done = self.run(*words, "-o", "json")
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, object]] = json.loads(done.stdout)
        return rows


def test_a_token_from_its_making_to_its_end(database_url: str, tmp_path: Path) -> None:
    centre = Centre(tmp_path, database_url)
    made = centre.run("token", "create", "press-2", "-q", "a,b", "-t", "red", "--expires", "90d")
    assert made.returncode == 0, made.stderr
    (secret,) = made.stdout.split()
    assert made.stdout == f"{secret}\n"
    assert secret not in made.stderr
    assert "workers named press-2, queues a, b, team red, until 20" in made.stderr
    with using(database_url) as engine:
        assert secret not in str(_stored_tokens(engine))
        found = Store(engine).tokens.find_token(secret)
        assert found is not None
        token, now = found
        assert token.expires_at == pytest.approx(now + 90 * 86400, abs=60)

    (row,) = centre.rows("token", "list")
    assert (row["id"], row["name"], row["worker_name_pattern"]) == (token.id, "press-2", "press-2")
    assert (row["queues"], row["team_name"], row["state"]) == (["a", "b"], "red", "valid")
    assert secret not in json.dumps(row)

    assert centre.run("token", "revoke", token.id).stdout == "revoked 1 token\n"
    assert centre.rows("token", "list")[0]["state"] == "revoked"


def test_a_token_is_rotated_shown_and_narrowed(centre: Centre) -> None:
    with using(centre.url) as engine:
        store = Store(engine)
        store.tokens.create_token("n", worker_pattern="*", queues=["a", "b"], team=None, expires_in_s=None)
        (before,) = store.tokens.all_tokens()
        FakeWorker(store, token_id=before.id, secret_hash=before.secret_hash).register(address="192.0.2.7")
        rotated = centre.run("token", "rotate", "n", "--overlap", "2h")
        assert rotated.returncode == 0, rotated.stderr
        (secret,) = rotated.stdout.split()
        assert store.tokens.find_token(secret) is not None
        assert secret not in rotated.stderr
        narrowed = centre.run("token", "narrow", "n", "-q", "b", "--expires", "30d")
        assert narrowed.stdout.startswith("token 'n' admits queues b, any team, until 20")
        wider = centre.run("token", "narrow", "n", "-q", "b,c")
        assert (wider.returncode, "does not admit c" in wider.stderr) == (2, True)
        shown = json.loads(centre.run("token", "show", "n", "-o", "json").stdout)
        assert (shown["queues"], shown["address"], shown["workers_by_old_secret"]) == (
            ["b"],
            "192.0.2.7",
            ["w1"],
        )
        assert shown["old_secret_until"] is not None


def _stored_tokens(engine: sa.Engine) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text("SELECT * FROM edge_ws_token"))]


@pytest.fixture
def centre(databases: Databases, tmp_path: Path) -> Iterator[Centre]:
    with databases.new("sqlite", migrated=True) as url:
        yield Centre(tmp_path, url)


def test_revoking_by_name_and_twice(centre: Centre) -> None:
    with using(centre.url) as engine:
        for _ in range(2):
            Store(engine).tokens.create_token(
                "n", worker_pattern="*", queues=None, team=None, expires_in_s=None
            )
    assert centre.run("token", "revoke", "n").stdout == "revoked 2 tokens\n"
    assert centre.run("token", "revoke", "n").stdout == "revoked already\n"
    unknown = centre.run("token", "revoke", "m")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "there is no token 'm'" in unknown.stderr
    # A byte that is no character: as Python has it, no database takes it.
    odd = centre.run("token", "revoke", "\udcff")
    assert (odd.returncode, odd.stdout) == (2, "")
    assert "token: '\\udcff' has a character that no text can have" in odd.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("token create two*words", "cannot name a worker"),
        ("token create press-2 --expires 0d", "expires: 0d"),
        ("token create press-2 --expires 11000d", "expires: 11000d"),
        ("token create press-2 -q a,,b", "queues: ''"),
        ("token narrow press-2", "at least one of queues"),
    ],
)
def test_wrong_arguments_are_one_sentence(centre: Centre, words: str, part: str) -> None:
    done = centre.run(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert part in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_tables_are_made_and_checked(empty_database_url: str, tmp_path: Path) -> None:
    centre = Centre(tmp_path, empty_database_url)
    assert centre.run("db", "check").returncode == 5
    made = centre.run("db", "migrate")
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.splitlines()) == 1
    assert centre.run("db", "check").returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        "token create press-2",
        "token list",
        "token revoke x",
        "db check",
        "list-workers",
        "set-worker-concurrency -H w -c 1",
    ],
)
def test_without_tables_verbs_refuse_and_name_the_database(words: str, tmp_path: Path) -> None:
    centre = Centre(tmp_path, f"sqlite:///{tmp_path}/other.db")
    done = centre.run(*words.split())
    assert (done.returncode, done.stdout) == (5, "")
    assert f"there is no database {centre.url} (is it the centre's? see AIRFLOW_HOME and" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    # Nor is there an empty one now.
    assert not (tmp_path / "other.db").exists()
    (tmp_path / "other.db").touch()
    done = centre.run(*words.split())
    assert (done.returncode, done.stdout) == (5, "")
    assert f"{centre.url} has no edge-ws tables (is it the centre's? see AIRFLOW_HOME and" in done.stderr


def test_an_unreachable_database_is_one_sentence_without_the_password(tmp_path: Path) -> None:
    centre = Centre(tmp_path, f"postgresql+psycopg2://me:geheim-geheim@127.0.0.1:{free_port()}/airflow")
    done = centre.run("list-workers")
    assert (done.returncode, done.stdout) == (4, "")
    assert "me:***@127.0.0.1" in done.stderr
    assert "geheim" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("url", ["nonsense", "sqlite:///relative.db", "nosuchdialect://x/y"])
def test_an_airflow_that_does_not_start_is_one_sentence(url: str, tmp_path: Path) -> None:
    done = Centre(tmp_path, url).run("list-workers")
    assert (done.returncode, done.stdout) == (2, "")
    assert "edge-ws: Airflow cannot be set up here: " in done.stderr
    assert "sql_alchemy_conn" in done.stderr
