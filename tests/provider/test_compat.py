from __future__ import annotations

import json
import uuid

import pytest
import sqlalchemy as sa
from airflow.utils.sqlalchemy import prohibit_commit
from sqlalchemy.orm import Session

from edge_ws.provider import compat
from tests.support.centre import Centre


@pytest.fixture
def notes(empty_engine: sa.Engine) -> sa.Engine:
    """A database with one table, which takes each number once."""
    with empty_engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (number INTEGER PRIMARY KEY)")
    return empty_engine


def add(connection: sa.Connection, number: int) -> None:
    connection.exec_driver_sql(f"INSERT INTO notes VALUES ({number})")


def numbers(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return sorted(connection.exec_driver_sql("SELECT number FROM notes").scalars())


class TestGuarded:
    """A part of the scheduler's transaction: it fails alone, and neither commits nor breaks the rest."""

    def test_it_is_part_of_the_transaction(self, notes: sa.Engine) -> None:
        with Session(notes) as session, prohibit_commit(session) as guard:
            with compat.guarded(session) as connection:
                add(connection, 1)
            assert numbers(notes) == []
            guard.commit()
        assert numbers(notes) == [1]

    def test_it_fails_alone(self, notes: sa.Engine) -> None:
        with Session(notes) as session, prohibit_commit(session) as guard:
            add(session.connection(), 1)
            with pytest.raises(sa.exc.IntegrityError), compat.guarded(session) as connection:
                add(connection, 1)
            assert compat.can_commit(session)
            add(session.connection(), 2)
            guard.commit()
        assert numbers(notes) == [1, 2]

    def test_it_is_rolled_back_with_the_transaction(self, notes: sa.Engine) -> None:
        with Session(notes) as session:
            with compat.guarded(session) as connection:
                add(connection, 1)
            session.rollback()
        assert numbers(notes) == []


def test_a_lost_connection_cannot_commit(notes: sa.Engine) -> None:
    with Session(notes) as session:
        assert compat.can_commit(session)
        session.connection().invalidate()
        assert not compat.can_commit(session)


def test_the_task_instance_in_a_command(centre: Centre) -> None:
    ti = centre.task()
    command = centre.workload(ti).model_dump_json()
    assert str(compat.task_instance_of(command).id) == str(ti.id)
    assert compat.task_instance_of(json.dumps({"type": "ExecuteCallback"})) is None


def test_states_by_id_and_by_try(centre: Centre) -> None:
    ti, other = centre.task(state="running"), centre.task(state=None)
    attempts = [(one.dag_id, one.task_id, one.run_id, one.map_index, one.try_number) for one in (ti, other)]
    missing = (*attempts[0][:4], 9)
    with centre.engine.connect() as connection:
        found = compat.task_states(connection, [str(ti.id), str(other.id), str(uuid.uuid4()), "none", ""])
        assert found == {str(ti.id): "running", str(other.id): None}
        assert compat.task_states(connection, ["none"]) == {}
        expected = {} if compat.KEYS_ARE_IDS else dict(zip(attempts, ("running", None), strict=True))
        assert compat.task_states_by_try(connection, [*attempts, missing]) == expected
        assert compat.task_states_by_try(connection, []) == {}
