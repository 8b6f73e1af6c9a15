"""Airflow's users at `v1/admin/`: its real auth manager, its real tokens, its all-admins mode."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import uvicorn
from airflow.api_fastapi.app import create_auth_manager, purge_cached_app
from airflow.api_fastapi.auth.managers.simple.middleware import SimpleAllAdminMiddleware
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.auth.middlewares.refresh_token import JWTRefreshMiddleware
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.testclient import TestClient

from edge_ws.errors import EdgeWsError, RefusedError, UnreachableError
from edge_ws.provider.mount import Door, make_gateway, make_shell
from edge_ws.provider.ports import AirflowUsers
from edge_ws.server.fleet_stream import OF_ONE
from edge_ws.store.store import Store
from tests.support.centre import Centre
from tests.support.streams import event_source
from tests.support.waiting import wait_until
from tests.support.workers import register_worker

SET = "/edge-ws/v1/admin/set-worker-concurrency"
LIST = "/edge-ws/v1/admin/list-workers"
BODY = {"worker": "oven", "concurrency": 3}


@pytest.fixture
def sign(centre: Centre) -> Iterator[Callable[..., str]]:
    """Makes tokens as Airflow's POST /auth/token does."""
    purge_cached_app()
    _forget_keys()

    def make(role: str | None, name: str = "vera", valid_s: int = 60) -> str:
        user = SimpleAuthManagerUser(username=name, role=role)
        token: str = create_auth_manager().generate_jwt(user, expiration_time_in_seconds=valid_s)
        return token

    yield make
    purge_cached_app()
    _forget_keys()


@pytest.mark.parametrize(
    ("role", "may_read", "may_manage"),
    [
        (None, False, False),
        ("viewer", True, False),
        ("user", True, False),
        ("op", True, True),
        ("admin", True, True),
    ],
)
def test_the_rights_of_each_role(
    sign: Callable[..., str], role: str | None, may_read: bool, may_manage: bool
) -> None:
    user = AirflowUsers().user(sign(role))
    assert (user.name, user.may_read, user.may_manage) == ("vera", may_read, may_manage)


def test_a_token_that_is_none(sign: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    good = sign("admin")
    with pytest.raises(RefusedError, match="expired"):
        AirflowUsers().user(sign("admin", valid_s=-60))
    for token in ("", "x", "a.b.c", good[:-2], "é"):
        with pytest.raises(RefusedError, match="no Airflow user's"):
            AirflowUsers().user(token)
    with pytest.raises(RefusedError, match="no Airflow user's"):
        # A task's token is of the same secret, but for the Execution API.
        AirflowUsers().user(_task_token())
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "another" * 10)
    _forget_keys()
    with pytest.raises(RefusedError, match="not of this Airflow"):
        AirflowUsers().user(good)


def _task_token() -> str:
    from edge_ws.provider.ports import AirflowTaskTokens

    return AirflowTaskTokens().mint("x", is_callback=False, valid_s=60.0)


def _forget_keys() -> None:
    # Airflow keeps them for as long as the process lives.
    manager = type(create_auth_manager())
    manager._get_token_validator.cache_clear()
    manager._get_token_signer.cache_clear()


def test_a_token_that_was_logged_out(sign: Callable[..., str]) -> None:
    token = sign("admin")
    create_auth_manager().revoke_token(token)
    with pytest.raises(RefusedError, match="no Airflow user's"):
        AirflowUsers().user(token)


def test_without_its_database_nobody_is_known(sign: Callable[..., str], centre: Centre) -> None:
    token = sign("admin")
    with centre.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE revoked_token RENAME TO hidden")
    with pytest.raises(UnreachableError, match="users cannot be looked up"):
        AirflowUsers().user(token)


def test_an_auth_manager_that_fails_tells_no_stranger(
    sign: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    # A role that this auth manager does not know makes it fail.
    with (
        caplog.at_level(logging.ERROR, "edge_ws.provider.ports"),
        pytest.raises(EdgeWsError, match="auth manager failed") as caught,
    ):
        AirflowUsers().user(sign("emperor"))
    assert "emperor" not in str(caught.value).lower()
    assert "EMPEROR" in caplog.text


# In the api-server


def _airflow(*, all_admins: bool = False) -> FastAPI:
    """An api-server that mounts the real gateway the way Airflow does, lifespan and middleware included."""
    shell = make_shell(Door(make_gateway), lambda: None)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with shell.router.lifespan_context(shell):
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/edge-ws", shell)
    if all_admins:
        app.add_middleware(SimpleAllAdminMiddleware)
    return app


def _by(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_reading_and_managing_are_apart(sign: Callable[..., str], centre: Centre) -> None:
    register_worker(Store(centre.engine), "oven")
    with TestClient(_airflow()) as client:
        viewer, op = _by(sign("viewer")), _by(sign("op", "otto"))
        assert [row["worker_name"] for row in client.get(LIST, headers=viewer).json()] == ["oven"]
        refused = client.post(SET, json=BODY, headers=viewer)
        assert refused.status_code == 403
        assert "user vera may not change workers" in refused.json()["sentence"]
        assert "roles Op and Admin" in refused.json()["sentence"]
        assert client.post(SET, json=BODY, headers=op).json()["told"] == "concurrency 3"
        assert client.get(LIST).status_code == 401
        assert client.post(SET, json=BODY, headers=_by(sign("op", valid_s=-60))).status_code == 401
        # The browser's: another site's page could make use of it.
        assert client.get(LIST, headers={"cookie": f"_token={sign('admin')}"}).status_code == 403


def test_the_cookie_counts_for_airflows_own_pages(sign: Callable[..., str], centre: Centre) -> None:
    register_worker(Store(centre.engine), "oven")
    ours = {"sec-fetch-site": "same-origin"}

    def cookie(role: str, **more: Any) -> dict[str, str]:
        return {"cookie": f"_token={sign(role, **more)}", **ours}

    with TestClient(_airflow()) as client:
        me = client.get("/edge-ws/v1/admin/me", headers=cookie("viewer")).json()
        assert (me["user"], me["may_see"], me["may_manage"]) == ("vera", True, False)
        assert me["signed_in_by"] == "cookie"
        assert datetime.fromisoformat(me["expires_at"]) > datetime.now(UTC)
        page = client.get("/edge-ws/v1/admin/view?of=workers", headers=cookie("viewer"))
        assert [row["worker_name"] for row in page.json()["rows"]] == ["oven"]
        assert client.post(SET, json=BODY, headers=cookie("viewer")).status_code == 403
        assert client.post(SET, json=BODY, headers=cookie("op")).status_code == 200
        strange = {**cookie("op"), "sec-fetch-site": "cross-site"}
        assert client.post(SET, json=BODY, headers=strange).status_code == 403
        assert client.get(LIST, headers=cookie("op", valid_s=-60)).status_code == 401
        # Signed out.
        left = cookie("op")
        create_auth_manager().revoke_token(left["cookie"].partition("=")[2])
        assert client.get(LIST, headers=left).status_code == 401


def test_a_stream_passes_airflows_middlewares(sign: Callable[..., str], centre: Centre) -> None:
    store = Store(centre.engine)
    with _listening(_airflow()) as url:
        headers = {
            "cookie": f"_token={sign('viewer')}",
            "sec-fetch-site": "same-origin",
            "accept-encoding": "gzip",
        }
        with event_source(f"{url}/edge-ws/v1/admin/stream?of=workers", headers) as source:
            source.page(lambda page: page["total"] == 0)
            register_worker(store, "oven")
            source.page(lambda page: page["total"] == 1)
        # A page that is closed is found to be so, and a new one has its place.
        for _ in range(2 * OF_ONE):
            with event_source(f"{url}/edge-ws/v1/admin/stream?of=summary", headers) as source:
                wait_until(lambda source=source: source.status == 200 and source.pages)


@contextmanager
def _listening(app: FastAPI) -> Iterator[str]:
    """Serve it with the middlewares that the api-server has between its web server and the gateway."""
    app.add_middleware(JWTRefreshMiddleware)
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), 30.0)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def _all_admins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True")


@pytest.mark.usefixtures("_all_admins")
def test_where_all_are_admins_ones_own_token_still_counts(sign: Callable[..., str], centre: Centre) -> None:
    register_worker(Store(centre.engine), "oven")
    with TestClient(_airflow(all_admins=True)) as client:
        # Airflow's own decision: its API lets everybody in as well.
        assert client.post(SET, json=BODY).status_code == 200
        # But no page of another site, which cannot send JSON without asking.
        assert client.post(SET, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
        assert client.post(SET, json=BODY, headers=_by(sign("viewer"))).status_code == 403
        assert client.post(SET, json=BODY, headers=_by("nonsense")).status_code == 401
