"""The files of the operators' page: types, caches, and that they reach nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from edge_ws.server import page_files

FILES = sorted(page_files._FOLDER.iterdir())


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=[Mount("/sub/edge-ws" + page_files.PATH, page_files.page_files)]))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_is_served_with_its_type(client: TestClient, file: Path) -> None:
    answer = client.get(f"/sub/edge-ws/page/{file.name}")
    assert answer.status_code == 200
    assert answer.content == file.read_bytes()
    assert answer.headers["content-type"] == page_files._TYPES[file.suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_browser_asks_each_time_and_gets_what_it_has_not(client: TestClient) -> None:
    first = client.get("/sub/edge-ws/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/sub/edge-ws/page/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    # A proxy that compresses makes it a weak one.
    weak = {"if-none-match": f'"other", W/{first.headers["etag"]}'}
    assert client.get("/sub/edge-ws/page/main.js", headers=weak).status_code == 304
    older = client.get("/sub/edge-ws/page/main.js", headers={"if-none-match": '"of-an-older-release"'})
    assert (older.status_code, older.content) == (200, first.content)


@pytest.mark.parametrize(
    "path", ["nothing.js", "", "../page_files.py", "%2e%2e/page_files.py", "..%2fauth.py", "page/main.js"]
)
def test_there_is_nothing_else(client: TestClient, path: str) -> None:
    answer = client.get(f"/sub/edge-ws/page/{path}")
    assert answer.status_code == 404, answer.text[:80]


def test_it_is_only_read(client: TestClient) -> None:
    refused = client.post("/sub/edge-ws/page/main.js")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert client.head("/sub/edge-ws/page/main.js").status_code == 200


def test_no_file_asks_another_server_or_imports_what_is_not_there() -> None:
    names = {file.name for file in FILES}
    for file in FILES:
        text = file.read_text()
        # Whom it would ask, names of XML apart.
        assert set(re.findall(r"""["'(]https?://[\w.-]+""", text)) <= {'"http://www.w3.org'}, file.name
        imported = set(re.findall(r'from "\./([^"]+)"', text))
        assert imported <= names, file.name
        assert len(text.splitlines()) <= 300, file.name
