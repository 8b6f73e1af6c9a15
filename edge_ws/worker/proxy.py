"""Which forward proxy stands between this machine and an address, by setting or by environment.

Opens no connection, and reads no environment of its own. No sentence from here holds a password.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote, urlsplit

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import can_be_looked_up

OFF = "none"
"""As a setting: no proxy, whatever the environment says."""
_PORTS = {"http": 80, "https": 443}
_SHAPE = "http://user:password@proxy.example.com:3128"


@dataclass(frozen=True, slots=True)
class Found:
    """The proxy for one address."""

    url: str | None = field(repr=False)
    """None: connect directly."""
    origin: str
    """What said so: a setting, a variable, or `none`."""


def find(
    url: str,
    setting: str | None,
    environ: Mapping[str, str],
    *,
    remedy: str = f"`--proxy {OFF}` ignores it",
) -> Found:
    """Return the proxy for an http or https URL.

    The setting (as `check` returns it) decides alone if there is one. Otherwise the variables do, as curl
    reads them: NO_PROXY, then HTTPS_PROXY or HTTP_PROXY by the URL's scheme, then ALL_PROXY; lower case comes
    first, and one that is set but empty means none.

    Raises:
        UsageError: a variable holds no proxy's URL; the sentence names it, and ends with the remedy.
    """
    if setting is not None:
        return Found(None if setting == OFF else setting, "proxy")
    exceptions = next((name for name in ("no_proxy", "NO_PROXY") if name in environ), None)
    if exceptions is not None and is_excepted(url, environ[exceptions]):
        return Found(None, exceptions)
    scheme = urlsplit(url).scheme
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
        # A web server passes a request's "Proxy" header to CGI programs as HTTP_PROXY.
        if name not in environ or (name == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
            continue
        if not environ[name].strip():
            return Found(None, name)
        try:
            proxy = check(environ[name])
        except ValueError as error:
            raise UsageError(f"{name}: {error}; {remedy}") from error
        return Found(None if proxy == OFF else proxy, name)
    return Found(None, "none")


def check(text: str) -> str:
    """Return a proxy's URL in the one form that all libraries read alike; `OFF` for an empty text or "none".

    Raises:
        ValueError: it is no proxy's URL; the sentence does not repeat it.
    """
    text = text.strip()
    if not text or text.lower() == OFF:
        return OFF
    if "://" not in text:
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
        userinfo = [unquote(part or "", errors="strict") for part in (parts.username, parts.password)]
    except ValueError:
        raise _no_proxy_url() from None
    if parts.scheme.startswith("socks"):
        raise ValueError("a SOCKS proxy is not supported, only http:// and https:// proxies are")
    if not _has_only_an_address(parts) or port == 0 or not text.isascii() or not text.isprintable():
        raise _no_proxy_url()
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    user = f"{quote(userinfo[0], safe='')}:{quote(userinfo[1], safe='')}@" if any(userinfo) else ""
    return f"{parts.scheme}://{user}{host}:{port or _PORTS[parts.scheme]}"


def _has_only_an_address(parts: SplitResult) -> bool:
    if not parts.hostname or not can_be_looked_up(parts.hostname):
        return False
    extra = parts.query or parts.fragment or parts.path not in {"", "/"}
    return parts.scheme in _PORTS and " " not in parts.netloc and not extra


def _no_proxy_url() -> ValueError:
    return ValueError(
        f"it is not a proxy's URL such as {_SHAPE} (in name and password write / ? # @ : % as %2F and so on)"
    )


def masked(proxy: str) -> str:
    """Return a proxy's URL for people to read, without its password."""
    return re.sub(r"//([^:@/]*):[^@/]*@", r"//\1:***@", proxy)


def is_excepted(url: str, exceptions: str) -> bool:
    """Tell whether a NO_PROXY list names the URL's host.

    An entry is a name, which counts for all below it too (`example.com`, `.example.com`, `*.example.com`), an
    address, a network (`10.0.0.0/8`), any of the first two with a port, or `*` for all.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or _PORTS[parts.scheme]
    return any(_names(entry, host, port) for entry in re.split(r"[,\s]+", exceptions.lower()) if entry)


def _names(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    # An IPv6 address has colons of its own: with a port it stands in brackets.
    if with_port := re.fullmatch(r"(\[.*\]|[^:]*):([0-9]{1,5})", entry):
        entry = with_port[1]
        if int(with_port[2]) != port:
            return False
    entry = entry.strip("[]")
    if address is not None:
        return address == _address(entry)
    entry = entry.removeprefix("*").strip(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
