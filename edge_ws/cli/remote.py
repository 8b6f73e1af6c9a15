"""The centre at the other end of `--url`: sends operations to a gateway's `v1/admin/`, as an Airflow user.

Knows of the operations only their names.
"""

from __future__ import annotations

import logging
import ssl
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from edge_ws.cli.operator_verbs import TOKEN_VARIABLE
from edge_ws.errors import EdgeWsError, RefusedError, UnreachableError, UsageError
from edge_ws.protocol import http
from edge_ws.protocol.ids import is_base_url
from edge_ws.worker import network, proxy

ANSWER_WITHIN_S = 60.0
CONNECT_WITHIN_S = 10.0


class Gateway:
    """A gateway that is asked by HTTP."""

    def __init__(self, client: httpx2.Client, url: str) -> None:
        self._client = client
        self._url = url

    def __call__(self, operation: str, given: dict[str, object], *, changes: bool) -> Any:  # noqa: ANN401 - JSON
        """Return the operation's result.

        Raises:
            UsageError: the gateway finds something wrong with what is asked.
            RefusedError: the token is not good, or its user may not do this.
            UnreachableError: there is no gateway, or it cannot serve now.
        """
        url = f"{self._url}{http.ADMIN_PATH}/{operation}"
        told = {name: value for name, value in given.items() if value is not None}
        try:
            if changes:
                # Whoever runs this was asked already.
                answer = self._client.post(url, json=told)
            else:
                answer = self._client.get(url, params=_query(told))
        except httpx2.InvalidURL as error:
            raise UsageError(f"--url: {error}") from error
        except httpx2.HTTPError as error:
            raise UnreachableError(f"{url} cannot be reached: {error or type(error).__name__}") from error
        return _result(url, answer)

    def has_gateway(self) -> bool:
        """Say yes: this one answers."""
        return True


def _query(told: Mapping[str, object]) -> httpx2.QueryParams:
    return httpx2.QueryParams(
        {name: [*map(str, value)] if isinstance(value, list) else str(value) for name, value in told.items()}
    )


def _result(url: str, answer: httpx2.Response) -> object:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if answer.status_code == 200 and body is not None:
        return body
    if http.ERROR_HEADER not in answer.headers or not isinstance(body, dict):
        raise UnreachableError(
            f"{url} answered HTTP {answer.status_code}, and not as a gateway of edge-ws does; is the URL"
            " Airflow's, and the gateway's release no older than this one?"
        )
    raise _error(answer.status_code, str(body.get("error")), str(body.get("sentence")))


def _error(status: int, code: str, sentence: str) -> EdgeWsError:
    if status in {401, 403}:
        return RefusedError(code, sentence)
    return UnreachableError(sentence) if status >= 500 else UsageError(sentence)


@contextmanager
def gateway(arguments: Namespace, environ: Mapping[str, str]) -> Iterator[Gateway]:
    """Yield the gateway at `--url`.

    Raises:
        UsageError: a flag or a variable is wrong, or there is no token.
    """
    url = _base(arguments.url)
    if not (arguments.allow_insecure or network.is_private(url)):
        raise UsageError(
            f"{url} is plain http, and leads to another machine: the token would travel unencrypted;"
            " give an https URL, or allow it with --allow-insecure"
        )
    # It tells of each request; where `airflow` has started us, on stdout.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    headers = {"authorization": f"Bearer {_token(arguments.token_file, environ)}"}
    past_it = f"to go past it, name {urlsplit(url).hostname} in NO_PROXY"
    way = proxy.find(url, None, environ, remedy=past_it).url
    context = _context(arguments.ca_file)
    timeout = httpx2.Timeout(ANSWER_WITHIN_S, connect=CONNECT_WITHIN_S)
    with httpx2.Client(
        verify=context,
        proxy=way and httpx2.Proxy(way, ssl_context=context if way.startswith("https:") else None),
        trust_env=False,
        timeout=timeout,
        headers=headers,
    ) as client:
        yield Gateway(client, url + http.PREFIX)


def _base(text: str) -> str:
    if not is_base_url(text):
        raise UsageError("--url: it must be Airflow's URL, such as https://airflow.example.com")
    # The gateway's own URL is taken, too.
    return text.rstrip("/").removesuffix(http.PREFIX)


def _token(file: str | None, environ: Mapping[str, str]) -> str:
    if file is None:
        token = environ.get(TOKEN_VARIABLE, "").strip()
    else:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--token-file: {file} cannot be read: {error}") from error
    if not token or not token.isascii() or not token.isprintable():
        where = (
            f"--url: there is no --token-file, and {TOKEN_VARIABLE}"
            if file is None
            else f"--token-file: {file}"
        )
        raise UsageError(f"{where} holds no token; Airflow's POST /auth/token gives one")
    return token


def _context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise UsageError(f"--ca-file: there is no certificate in PEM form in {ca_file}") from error
    except OSError as error:
        raise UsageError(f"--ca-file: {ca_file} cannot be read: {error.strerror}") from error
