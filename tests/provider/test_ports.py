from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
import sqlalchemy as sa
from airflow.api_fastapi.auth.tokens import JWTGenerator, generate_private_key
from airflow.configuration import conf

from edge_ws.errors import EdgeWsError, UnreachableError, UsageError
from edge_ws.provider import compat
from edge_ws.provider.ports import AirflowFinishedLogs, AirflowTaskStates, AirflowTaskTokens
from edge_ws.server.ports import ARCHIVED, RESTARTING
from edge_ws.store.database import Database
from tests.support.centre import Centre

LOG = "dag_id=factory/run_id=run-1/task_id=press/attempt=1.log"


class TestTaskStates:
    def test_known_ids_have_their_state_and_others_are_absent(self, centre: Centre) -> None:
        running, fresh = centre.task(state="running"), centre.task(state=None)
        states = AirflowTaskStates(Database(centre.engine)).states(
            [str(running.id), str(fresh.id), str(uuid.uuid4())]
        )
        assert states == {str(running.id): "running", str(fresh.id): None}

    def test_a_task_that_was_cleared_while_it_ran_is_to_end(self, centre: Centre) -> None:
        ti = centre.task(state="running")
        centre.clear(ti)
        states = AirflowTaskStates(Database(centre.engine)).states([str(ti.id)])
        assert states == {str(ti.id): RESTARTING}

    def test_a_retry_puts_the_attempt_aside(self, centre: Centre) -> None:
        ti = centre.task("weld", state="running")
        centre.retry(ti)
        states = AirflowTaskStates(Database(centre.engine))
        assert states.states([str(ti.id)]) == {str(ti.id): ARCHIVED}
        # So it is whatever becomes of the task afterwards.
        centre.set_present(ti, state="running", try_number=2)
        assert states.states([str(ti.id)]) == {str(ti.id): ARCHIVED}
        centre.clear(ti)
        assert states.states([str(ti.id)]) == {str(ti.id): ARCHIVED}

    def test_a_task_that_had_ended_is_cleared(self, centre: Centre) -> None:
        ti = centre.task(state="success")
        centre.clear(ti)
        states = AirflowTaskStates(Database(centre.engine)).states([str(ti.id)])
        assert states == {str(ti.id): ARCHIVED}

    def test_a_deleted_task_is_absent_with_its_past_attempts(self, centre: Centre) -> None:
        ti = centre.task("weld", state="running")
        centre.retry(ti)
        centre.delete_run(ti)
        assert AirflowTaskStates(Database(centre.engine)).states([str(ti.id)]) == {}

    def test_nothing_asked(self, centre: Centre) -> None:
        assert AirflowTaskStates(Database(centre.engine)).states([]) == {}

    def test_a_database_that_is_away(self, tmp_path: Path) -> None:
        engine = sa.create_engine(f"sqlite:///{tmp_path}/no/such.db")
        with pytest.raises(UnreachableError, match=r"such\.db"):
            AirflowTaskStates(Database(engine)).states([str(uuid.uuid4())])


@pytest.mark.usefixtures("centre")
class TestTaskTokens:
    @pytest.mark.parametrize("is_callback", [False, True])
    def test_airflows_execution_api_takes_them(self, is_callback: bool) -> None:
        token = AirflowTaskTokens().mint("an-id", is_callback=is_callback, valid_s=60.0)
        said = jwt.decode(
            token,
            conf.get("api_auth", "jwt_secret"),
            algorithms=["HS512"],
            audience="urn:airflow.apache.org:task",
        )
        assert said["sub"] == "an-id"
        assert said["scope"] == ("callback" if is_callback and compat.KEYS_ARE_IDS else "workload")
        assert said["exp"] - said["iat"] == 60

    def test_one_for_an_outcome_is_as_a_running_tasks(self) -> None:
        token = AirflowTaskTokens().mint_for_outcome("an-id", valid_s=60.0)
        said = jwt.decode(token, options={"verify_signature": False})
        assert (said["sub"], said["scope"], said["exp"] - said["iat"]) == ("an-id", "execution", 60)

    @pytest.mark.parametrize("issuer", [None, "us"])
    def test_they_say_what_airflows_own_say(self, issuer: str | None) -> None:
        generator = compat.token_generator()
        generator.issuer = issuer
        ours = compat.TokenSigner(generator).sign("an-id", "workload", 60.0)
        theirs = generator.generate(extras={"sub": "an-id", "scope": "workload"}, valid_for=60.0)
        assert jwt.get_unverified_header(ours) == jwt.get_unverified_header(theirs)
        said, wanted = (jwt.decode(one, options={"verify_signature": False}) for one in (ours, theirs))
        assert list(said) == list(wanted)
        changing = {"jti", "nbf", "exp", "iat"}
        assert {k: said[k] for k in said.keys() - changing} == {
            k: wanted[k] for k in wanted.keys() - changing
        }
        assert said["jti"] != wanted["jti"]

    def test_a_key_file_is_left_to_airflow(self) -> None:
        generator = JWTGenerator(private_key=generate_private_key(), audience="a", valid_for=1.0)
        token = compat.TokenSigner(generator).sign("an-id", "workload", 60.0)
        assert jwt.get_unverified_header(token)["alg"] == generator.algorithm
        assert jwt.decode(token, options={"verify_signature": False})["sub"] == "an-id"

    def test_no_secret_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "")
        with pytest.raises(UsageError, match="jwt_secret"):
            AirflowTaskTokens().mint("an-id", is_callback=False, valid_s=60.0)


@pytest.fixture
def logs(centre: Centre) -> AirflowFinishedLogs:
    return AirflowFinishedLogs()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs"


class TestFinishedLogs:
    def test_a_new_file(self, logs: AirflowFinishedLogs, folder: Path) -> None:
        assert logs.size(LOG) == 0
        logs.write(LOG, 0, [b"one\n", b"two\n"])
        assert (folder / LOG).read_bytes() == b"one\ntwo\n"
        assert logs.size(LOG) == 8

    def test_another_round_is_appended_and_a_repeated_one_replaced(
        self, logs: AirflowFinishedLogs, folder: Path
    ) -> None:
        logs.write(LOG, 0, [b"round 1\n"])
        base = logs.size(LOG)
        logs.write(LOG, base, [b"round", b" 2 brok"])
        logs.write(LOG, base, [b"round 2\n"])
        logs.write(LOG, base, [b"round 2\n"])
        assert (folder / LOG).read_bytes() == b"round 1\nround 2\n"

    def test_a_file_that_has_shrunk_is_not_filled_with_zeros(
        self, logs: AirflowFinishedLogs, folder: Path
    ) -> None:
        logs.write(LOG, 100, [b"one\n"])
        assert (folder / LOG).read_bytes() == b"one\n"

    @staticmethod
    def line(text: str) -> bytes:
        return f'{{"timestamp":"2026-11-30T08:00:00Z","event":"{text}"}}\n'.encode()

    @pytest.mark.parametrize("before", [0, 1, 50_000])
    @pytest.mark.parametrize("cut", [1, 7, 100, 100_000])
    def test_what_the_worker_has_written_there_itself_is_not_written_again(
        self, logs: AirflowFinishedLogs, folder: Path, before: int, cut: int
    ) -> None:
        """It shares the folder; the next round has begun already, and its supervisor appends."""
        earlier = b"".join(self.line(f"earlier {number}") for number in range(before))
        own, next_round = b"".join(self.line(f"own {number}") for number in range(20)), self.line("next")
        logs.write(LOG, 0, [earlier + own + next_round])

        def chunks(data: bytes) -> list[bytes]:
            return [data[begin : begin + cut] for begin in range(0, len(data), cut)]

        for _ in range(2):
            logs.write(LOG, logs.size(LOG), chunks(own))
            assert (folder / LOG).read_bytes() == earlier + own + next_round
        last = self.line("said by the daemon alone")
        logs.write(LOG, logs.size(LOG), chunks(own + last))
        assert (folder / LOG).read_bytes() == earlier + own + next_round + last

    def test_a_move_that_was_cut_short_is_begun_again(self, logs: AirflowFinishedLogs, folder: Path) -> None:
        first, second = self.line("first"), self.line("second") + self.line("third")
        logs.write(LOG, 0, [first])
        base = logs.size(LOG)
        logs.write(LOG, base, [second[:40]])
        logs.write(LOG, base, [second])
        logs.write(LOG, base, [second])
        assert (folder / LOG).read_bytes() == first + second

    def test_lines_without_a_time_may_be_alike(self, logs: AirflowFinishedLogs, folder: Path) -> None:
        logs.write(LOG, 0, [b"again\n"])
        logs.write(LOG, 6, [b"again\n"])
        assert (folder / LOG).read_bytes() == b"again\n" * 2

    def test_no_bytes_at_all(self, logs: AirflowFinishedLogs, folder: Path) -> None:
        logs.write(LOG, 0, [])
        assert (folder / LOG).read_bytes() == b""

    def test_airflows_permissions(
        self, logs: AirflowFinishedLogs, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS", "0o700")
        monkeypatch.setenv("AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS", "0o600")
        logs.write(LOG, 0, [b"one\n"])
        assert stat.S_IMODE((folder / LOG).stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / LOG).parent.stat().st_mode) == 0o700

    def test_ids_of_240_characters(self, logs: AirflowFinishedLogs, folder: Path) -> None:
        path = f"dag_id={'d' * 240}/run_id={'r' * 240}/task_id={'t' * 240}/attempt=1.log"
        logs.write(path, 0, [b"one\n"])
        assert (folder / path).read_bytes() == b"one\n"

    @pytest.mark.parametrize(
        "path",
        [
            "../outside.log",
            "dag_id=x/../../outside.log",
            "/etc/passwd",
            "",
            ".",
            "dag_id=x/..",
            "a\0b",
            "a" * 300,
            "link/outside.log",
        ],
    )
    def test_a_path_that_leaves_the_folder_or_is_none(
        self, logs: AirflowFinishedLogs, folder: Path, tmp_path: Path, path: str
    ) -> None:
        folder.mkdir(parents=True)
        (folder / "link").symlink_to(tmp_path)
        for act in (lambda: logs.size(path), lambda: logs.write(path, 0, [b"x"])):
            with pytest.raises(EdgeWsError):
                act()
        assert not (tmp_path / "outside.log").exists()

    def test_a_folder_in_the_files_place(self, logs: AirflowFinishedLogs, folder: Path) -> None:
        (folder / LOG).mkdir(parents=True)
        with pytest.raises(EdgeWsError, match="no file"):
            logs.write(LOG, 0, [b"x"])

    def test_a_file_in_a_folders_place(self, logs: AirflowFinishedLogs, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "dag_id=factory").write_text("")
        with pytest.raises(EdgeWsError, match="cannot be"):
            logs.write(LOG, 0, [b"x"])

    def test_a_fault_of_the_source_is_passed_on(self, logs: AirflowFinishedLogs) -> None:
        def chunks() -> Iterator[bytes]:
            yield b"one\n"
            raise UnreachableError("the database is away")

        with pytest.raises(UnreachableError):
            logs.write(LOG, 0, chunks())


class TestCopies:
    """The logs of running jobs."""

    def test_bytes_are_where_they_belong(self, logs: AirflowFinishedLogs, folder: Path) -> None:
        assert logs.copied(LOG, "c") == 0
        logs.copy(LOG, "c", 0, b"one\n")
        logs.copy(LOG, "c", 4, b"two\n")
        logs.copy(LOG, "c", 2, b"e\ntwo\n")
        assert logs.copied(LOG, "c") == 8
        (copy,) = (folder / LOG).parent.iterdir()
        assert copy.name.startswith(Path(LOG).name)
        assert copy.read_bytes() == b"one\ntwo\n"

    def test_each_claim_has_its_own_and_the_log_is_another_file(
        self, logs: AirflowFinishedLogs, folder: Path
    ) -> None:
        logs.write(LOG, 0, [b"the round before\n"])
        logs.copy(LOG, "c", 0, b"one\n")
        logs.copy(LOG, "d", 0, b"two\n")
        logs.drop_copy(LOG, "c")
        assert (folder / LOG).read_bytes() == b"the round before\n"
        assert (logs.copied(LOG, "c"), logs.copied(LOG, "d")) == (0, 4)

    def test_none_to_drop(self, logs: AirflowFinishedLogs) -> None:
        logs.drop_copy(LOG, "c")

    def test_a_log_whose_name_is_too_long_for_a_copy(self, logs: AirflowFinishedLogs) -> None:
        path = "a" * 250
        logs.write(path, 0, [b"one\n"])
        with pytest.raises(EdgeWsError, match="too long"):
            logs.copy(path, "c", 0, b"x")
        logs.drop_copy(path, "c")

    @pytest.mark.parametrize("path", ["../outside.log", "a\0b"])
    def test_a_path_that_leaves_the_folder_or_is_none(
        self, logs: AirflowFinishedLogs, tmp_path: Path, path: str
    ) -> None:
        for act in (
            lambda: logs.copied(path, "c"),
            lambda: logs.copy(path, "c", 0, b"x"),
            lambda: logs.drop_copy(path, "c"),
        ):
            with pytest.raises(EdgeWsError):
                act()
        assert not list(tmp_path.glob("outside*"))

    def test_what_cannot_be_written_or_removed(self, logs: AirflowFinishedLogs, folder: Path) -> None:
        (folder / f"{LOG}.edge-ws-c").mkdir(parents=True)
        with pytest.raises(EdgeWsError, match="cannot be written"):
            logs.copy(LOG, "c", 0, b"x")
        with pytest.raises(EdgeWsError, match="cannot be removed"):
            logs.drop_copy(LOG, "c")


class Remote:
    """A remote log store as Airflow knows them; keeps what it is given."""

    def __init__(self) -> None:
        self.uploads: list[tuple[str, object]] = []

    def upload(self, path: os.PathLike[str] | str, ti: object = None) -> None:
        self.uploads.append((str(path), ti))


class Broken(Remote):
    def upload(self, path: os.PathLike[str] | str, ti: object = None) -> None:
        raise RuntimeError("no bucket")


def with_remote(remote: object) -> AirflowFinishedLogs:
    return AirflowFinishedLogs(remote_store=lambda: remote)


class TestUpload:
    def test_without_a_remote_store_nothing_happens(self, centre: Centre, logs: AirflowFinishedLogs) -> None:
        logs.upload(LOG, centre.workload(centre.task()).model_dump_json())

    def test_the_store_gets_the_relative_path_and_the_task(self, centre: Centre) -> None:
        remote, ti = Remote(), centre.task()
        with_remote(remote).upload(LOG, centre.workload(ti).model_dump_json())
        ((path, told),) = remote.uploads
        assert path == LOG
        assert (str(told.id), told.dag_id, told.try_number) == (str(ti.id), "factory", 1)

    @pytest.mark.parametrize("path", [LOG, "../outside.log"])
    def test_a_failure_is_logged_and_not_raised(
        self, centre: Centre, caplog: pytest.LogCaptureFixture, path: str
    ) -> None:
        with_remote(Broken()).upload(path, centre.workload(centre.task()).model_dump_json())
        assert "was not sent to the remote store" in caplog.text
