"""The files of the operators' page: what a browser asks for below `/edge-ws/page/`.

They hold no secret, so anybody may have them; what they show comes from `v1/admin/`, which asks who is there.
Served also while the gateway cannot serve: the page is where operators read why. Airflow's own document loads
them as modules, by plain `import`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge_ws.server.answers import refusal

PATH = "/page"
"""Below the gateway's prefix."""
_FOLDER = Path(__file__).with_name("page")
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # Asked about each time, by its hash: no browser mixes two releases' modules after an upgrade.
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    # One that is opened by itself, as a document, may do nothing.
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    content: bytes
    type: str
    etag: str


@cache
def _files() -> Mapping[str, _File]:
    """Return the files by name; they are a few, and part of the program."""
    found = {}
    for path in _FOLDER.iterdir():
        if path.suffix in _TYPES:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[path.name] = _File(content=content, type=_TYPES[path.suffix], etag=etag)
    return found


async def page_files(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request for a file; an ASGI app, to be mounted at `PATH`."""
    if scope["type"] != "http":
        return
    await _answer(Request(scope))(scope, receive, send)


def _answer(request: Request) -> Response:
    if request.method not in {"GET", "HEAD"}:
        sentence = "the page's files take GET and HEAD"
        return refusal(405, "method", sentence, headers={"allow": "GET, HEAD"})
    name = request.scope["path"].removeprefix(request.scope.get("root_path", "")).removeprefix("/")
    file = _files().get(name)
    if file is None:
        return refusal(404, "not_found", f"the page has no file {name[:60]}")
    headers = {**_HEADERS, "etag": file.etag}
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.type, headers=headers)
