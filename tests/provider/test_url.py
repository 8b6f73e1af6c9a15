"""The operators' verbs through a real gateway process, as an Airflow user, to a worker that is connected."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

from edge_ws.protocol.frames import Applied, Wish
from edge_ws.protocol.ids import CONTROL
from edge_ws.store.store import Store
from tests.support.centre import Centre
from tests.support.gateway import LogFolder, Peer, RunningGateway, Tasks, connected, make_token
from tests.support.programs import clean_environment, run_edge_ws
from tests.support.standalone import Server, ready, server

SECRET = "t" * 64


def _token(role: str, name: str) -> str:
    """Return a token as the api-server of that secret gives it."""
    SimpleAuthManager._get_token_signer.cache_clear()
    user = SimpleAuthManagerUser(username=name, role=role)
    token: str = SimpleAuthManager().generate_jwt(user, expiration_time_in_seconds=600)
    SimpleAuthManager._get_token_signer.cache_clear()
    return token


@pytest.fixture
def tokens(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", SECRET)
    return {role: _token(role, f"the-{role}") for role in ("viewer", "op")}


async def _apply(peer: Peer) -> None:
    """Do as a worker does that hears of a wish."""
    while True:
        wish = await peer.expect(Wish, within_s=120)
        await peer.send(
            Applied(
                revision=wish.revision,
                concurrency=4 if wish.concurrency is None else wish.concurrency,
                queues=wish.queues,
                maintenance=wish.maintenance,
                leaving=wish.shutdown,
            )
        )


def test_from_the_command_to_the_worker_and_back(
    centre: Centre, tokens: dict[str, str], tmp_path: Path
) -> None:
    store = Store(centre.engine)
    secret = make_token(store)

    def run(one: Server, role: str, *words: str) -> subprocess.CompletedProcess[str]:
        # No Airflow is configured there, and no database.
        environment = clean_environment(tmp_path, EDGE_WS_ADMIN_TOKEN=tokens[role])
        return run_edge_ws(*words, "--url", one.url, environment=environment)

    def told(done: subprocess.CompletedProcess[str]) -> Any:
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    async def story(one: Server) -> None:
        def do(*words: str, role: str = "op") -> Any:
            return anyio.to_thread.run_sync(partial(run, one, role, *words))

        gateway = RunningGateway(one.port, Tasks(), LogFolder())
        async with connected(gateway, secret, greet=False) as peer, anyio.create_task_group() as tasks:
            await peer.hello(capabilities=(CONTROL,))
            tasks.start_soon(_apply, peer)
            found = told(await do("set-worker-concurrency", "-H", "w1", "-c", "3", "-w", "-o", "json"))
            assert (found["worker_name"], found["told"]) == ("w1", "concurrency 3")
            assert 0 < found["applied_ms"] < 30_000
            words = ("remote-edge-worker-request-maintenance", "-H", "w?", "-c", "belt", "-y", "-w")
            assert (await do(*words)).stdout.startswith("w1: maintenance; applied in ")
            (row,) = told(await do("list-workers", "-o", "json", role="viewer"))
            assert (row["concurrency"], row["state"]) == (3, "maintenance mode")
            assert row["maintenance_comment"].endswith(
                "] - the-op put node into maintenance mode\nComment: belt"
            )
            refused = await do("set-worker-concurrency", "-H", "w1", "-c", "4", role="viewer")
            assert (refused.returncode, refused.stdout) == (3, "")
            assert "user the-viewer may not change workers" in refused.stderr
            tasks.cancel_scope.cancel()

    with server(tmp_path, f"sqlite:///{tmp_path / 'airflow.db'}", secret=SECRET) as one:
        ready(one)
        anyio.run(story, one)
        log = one.log.read_text()
    assert '"the-op" wishes: set-worker-concurrency {"worker": "w1", "concurrency": 3}' in log
    assert tokens["op"] not in log
