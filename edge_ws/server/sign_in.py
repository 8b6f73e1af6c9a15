"""Who asks of `v1/admin/`, as far as a request shows it: a token, or the cookie of Airflow's own page.

A browser sends the cookie with whatever any page makes it ask for, so it counts only for what Airflow's own
pages ask. Pure; whether the token is good is for others to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from edge_ws.errors import EdgeWsError, RefusedError

COOKIE = "_token"
"""In which Airflow keeps the token of who has signed in, whichever its auth manager is."""
_PORTS = {"http": ":80", "https": ":443"}


class CrossOriginError(EdgeWsError):
    """A browser asks by its cookie for another page than one of this server."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a request shows."""

    token: str
    by_cookie: bool

    @property
    def by(self) -> str:
        """How, in a word."""
        return "cookie" if self.by_cookie else "token"


def shown(request: Request) -> Shown:
    """Return the client's own token; what stands in `Authorization` goes before the cookie.

    With `[core] simple_auth_manager_all_admins` Airflow appends an administrator's header to each request in
    its api-server. One without a header is an administrator's there, as for Airflow's own API; one that came
    with a header is judged by it alone, be it good or not.

    Raises:
        RefusedError: it shows none.
    """
    sent = request.headers.getlist("authorization")
    if not sent and (cookie := request.cookies.get(COOKIE, "").strip()):
        return Shown(cookie, by_cookie=True)
    scheme, _, token = sent[0].partition(" ") if sent else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise RefusedError(
            "token", "send an Airflow user's token as Authorization: Bearer; POST /auth/token gives one"
        )
    return Shown(token.strip(), by_cookie=False)


def check_same_origin(headers: Headers) -> None:
    """Check that a page of this server asks.

    A browser says by `Sec-Fetch-Site` whose page asks, but only over https or on the same machine. Elsewhere
    it names the page in `Origin` or in `Referer`. No script can set any of them for another site's page.

    Raises:
        CrossOriginError: another page asks, or nothing tells which.
    """
    site = headers.getlist("sec-fetch-site")
    if site:
        if [one.strip().lower() for one in site] != ["same-origin"]:
            raise CrossOriginError(
                f"a page of another origin asks (Sec-Fetch-Site: {site[0][:20]}); with the cookie only pages"
                " of this Airflow may"
            )
        return
    named = headers.getlist("origin") or headers.getlist("referer")
    if not named:
        raise CrossOriginError(
            "the request has a cookie, but nothing tells which page asks (Sec-Fetch-Site, Origin or Referer);"
            " a program sends the token as Authorization: Bearer"
        )
    if len(named) > 1 or not _is_host(named[0], headers.getlist("host")):
        raise CrossOriginError(
            f"a page of {_host_of(named[0])[:100] or 'another origin'} asks; with the cookie only pages of"
            " this Airflow may (a proxy in front must pass the Host header on)"
        )


def _is_host(url: str, hosts: list[str]) -> bool:
    """Tell whether a URL's host and port are those that the request was sent to."""
    if len(hosts) != 1:
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    port = _PORTS.get(parts.scheme)
    if port is None or not parts.netloc:
        return False
    # The scheme is the proxy's business; a port that goes without saying is said by some.
    return parts.netloc.lower().removesuffix(port) == hosts[0].strip().lower().removesuffix(port)


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""
