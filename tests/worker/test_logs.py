"""Log tails: every byte once, a few chunks ahead, whatever happens to file and connection."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from edge_ws.protocol.codec import LOG_CHUNK
from edge_ws.protocol.frames import Log
from edge_ws.protocol.ids import ClaimId
from edge_ws.worker.logs import IN_FLIGHT, Logs
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
C = ClaimId("c")


class Server:
    """Takes chunks as the gateway does."""

    def __init__(self) -> None:
        self.data = b""
        self.up = True
        self.lose = 0
        self.in_flight = 0
        self.most = 0
        self.waiting: list[Log] = []
        self.flushed: dict[ClaimId, int] = {}

    def send(self, frame: Log) -> bool:
        if not self.up:
            return False
        self.waiting.append(frame)
        self.most = max(self.most, len(self.waiting))
        return True

    def answer(self, logs: Logs) -> None:
        """Acknowledge what has arrived; lose some of it."""
        while self.waiting:
            frame = self.waiting.pop(0)
            if self.lose > 0:
                self.lose -= 1
                continue
            if frame.offset <= len(self.data):
                self.data += frame.data[len(self.data) - frame.offset :]
            logs.acked(frame.claim, len(self.data))

    def on_flushed(self, claim: ClaimId, end: int) -> None:
        self.flushed[claim] = end


async def test_a_growing_file_arrives_whole(tmp_path: Path) -> None:
    server = Server()
    logs = Logs(server.send, server.on_flushed)
    path = tmp_path / "log"
    path.write_bytes(b"of an earlier round\n")
    start = path.stat().st_size
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(logs.run)
        logs.tail(C, str(path), start)
        with path.open("ab", 0) as file:
            for number in range(5):
                file.write(b"line %d\n" % number)

                def grown(end: int = 7 * (number + 1)) -> bool:
                    server.answer(logs)
                    return len(server.data) == end

                await until(grown)
        assert server.flushed == {}
        logs.flush(C)
        await until(lambda: server.flushed == {C: 35})
        tasks.cancel_scope.cancel()
    assert server.data == path.read_bytes()[start:]


async def test_the_first_log_wakes_it(tmp_path: Path) -> None:
    server = Server()
    logs = Logs(server.send, server.on_flushed)
    path = tmp_path / "log"
    path.write_bytes(b"hello\n")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(logs.run)
        await anyio.wait_all_tasks_blocked()
        logs.tail(C, str(path), 0)
        await until(lambda: server.waiting)
        logs.drop(C)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("lose", [0, 1, 2, 5])
async def test_a_large_file_through_a_bad_connection(tmp_path: Path, lose: int) -> None:
    server = Server()
    server.lose = lose
    logs = Logs(server.send, server.on_flushed)
    path = tmp_path / "log"
    content = bytes(range(256)) * 3000
    path.write_bytes(content)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(logs.run)
        logs.tail(C, str(path), 0)
        await until(lambda: len(server.waiting) == IN_FLIGHT)
        server.waiting.clear()
        logs.resend(only_stuck=False)
        logs.flush(C)

        def done() -> bool:
            server.answer(logs)
            logs.resend(only_stuck=True)
            return C in server.flushed

        await until(done)
        tasks.cancel_scope.cancel()
    assert server.data == content
    assert server.flushed == {C: len(content)}
    assert server.most <= 2 * IN_FLIGHT
    assert len(content) > IN_FLIGHT * LOG_CHUNK


async def test_a_renamed_and_removed_file_is_read_to_its_end(tmp_path: Path) -> None:
    server = Server()
    logs = Logs(server.send, server.on_flushed)
    path = tmp_path / "log"
    with path.open("wb", 0) as file:
        file.write(b"first ")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(logs.run)
            logs.tail(C, str(path), 0)
            await until(lambda: bool(server.waiting))
            path.rename(tmp_path / "rotated")
            (tmp_path / "rotated").unlink()
            file.write(b"second")
            logs.flush(C)

            def done() -> bool:
                server.answer(logs)
                return C in server.flushed

            await until(done)
            tasks.cancel_scope.cancel()
    assert server.data == b"first second"


async def test_no_file_is_an_empty_log_and_a_line_still_arrives(tmp_path: Path) -> None:
    server = Server()
    logs = Logs(server.send, server.on_flushed)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(logs.run)
        logs.tail(C, str(tmp_path / "absent"), 0)
        logs.flush(C)
        await until(lambda: server.flushed == {C: 0})
        other = ClaimId("d")
        logs.flush(other, b"why\n")

        def done() -> bool:
            server.answer(logs)
            return other in server.flushed

        await until(done)
        tasks.cancel_scope.cancel()
    assert server.data == b"why\n"


async def test_the_servers_word_counts_where_it_knew_more(tmp_path: Path) -> None:
    server = Server()
    server.data = b"01234"
    logs = Logs(server.send, server.on_flushed)
    (tmp_path / "log").write_bytes(b"0123456789")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(logs.run)
        logs.tail(C, str(tmp_path / "log"), 0)
        logs.flush(C)

        def done() -> bool:
            server.answer(logs)
            return C in server.flushed

        await until(done)
        tasks.cancel_scope.cancel()
    assert server.data == b"0123456789"


async def test_nothing_is_read_while_there_is_no_connection(tmp_path: Path) -> None:
    server = Server()
    server.up = False
    logs = Logs(server.send, server.on_flushed)
    (tmp_path / "log").write_bytes(b"x")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(logs.run)
        logs.tail(C, str(tmp_path / "log"), 0)
        logs.flush(C)
        with anyio.move_on_after(0.3):
            await anyio.sleep_forever()
        assert server.flushed == {}
        server.up = True

        def done() -> bool:
            server.answer(logs)
            return C in server.flushed

        await until(done)
        tasks.cancel_scope.cancel()
