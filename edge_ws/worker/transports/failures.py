"""What a connection that failed means, in one sentence: the same for every transport.

Knows the faults of sockets, TLS and proxies, not of any protocol above; imports no HTTP library.
"""

from __future__ import annotations

import errno
import math
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

from edge_ws.errors import Unreachable, UnreachableError
from edge_ws.worker import proxy
from edge_ws.worker.network import Network

_HOSTNAME_MISMATCH = frozenset({62, 64})
"""OpenSSL's codes of a certificate that is for another name, or another address."""
TOO_LARGE = frozenset({413, 414, 431})
"""HTTP statuses that say that less would pass."""
_OUT_OF_DATE = frozenset({9, 10})
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE"})
_UNTRUSTED = (
    "if an authority of your own signed it, or that of a proxy that looks into TLS, give that authority's "
    "certificate with --ca-file"
)


def failure(network: Network, url: str, error: BaseException) -> UnreachableError:
    """Return what an exception of a connection to `url` (or of a library that met one) means."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return UnreachableError(_tls(network, url, cause), kind=Unreachable.TLS)
    for cause in causes:
        if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
            return _socket(network, url, cause)
    if any(isinstance(cause, TimeoutError) for cause in causes) or "Timeout" in type(error).__name__:
        return UnreachableError(f"{url} did not answer in time{network.via}")
    text = str(error) or type(error).__name__
    return UnreachableError(f"{url} cannot be reached{network.via}: {text}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception and what it was raised from, the innermost first."""
    if error is None:
        return
    yield from _causes(error.__cause__ or error.__context__)
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _causes(one)
    yield error


def _tls(network: Network, url: str, error: ssl.SSLError) -> str:
    # Which of the two it was, the exception does not say.
    has_https_proxy = network.proxy_context is not None
    whose = f"{url}, or that of its proxy," if has_https_proxy else url
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {whose} is not trusted: {error.verify_message}; "
            f"{untrusted_advice(error.verify_code)}"
        )
    reason = error.reason or str(error)
    advice = tls_advice(reason)
    return f"no TLS with {whose}{network.via}: {reason.lower().replace('_', ' ')}" + (
        f"; {advice}" if advice else ""
    )


def untrusted_advice(verify_code: int) -> str:
    """Return what to do about a certificate that OpenSSL does not trust for that reason."""
    if verify_code in _HOSTNAME_MISMATCH:
        return "give a URL with a name that the certificate is for"
    if verify_code in _OUT_OF_DATE:
        return "renew it at the centre, or set this machine's clock"
    return _UNTRUSTED


def tls_advice(reason: str) -> str:
    """Return what to do about a TLS fault that OpenSSL names so; nothing if it is not known."""
    if reason in _NOT_TLS:
        return "is it a plain http address?"
    if "CERTIFICATE" in reason and "ALERT" in reason:
        return "it wants a client's certificate, or another one: --client-cert"
    return ""


def _socket(network: Network, url: str, error: OSError) -> UnreachableError:
    if error.errno in {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}:
        sentence = f"the connection to {url}{network.via} broke off while it was opened: {_words(error)}"
        return UnreachableError(sentence, kind=Unreachable.BROKE_OFF)
    # With a proxy, that is whom we connect to ourselves.
    if network.proxy is not None:
        sentence = f"the proxy {proxy.masked(network.proxy)} cannot be reached: {_words(error)}; see --proxy"
        return UnreachableError(sentence, kind=Unreachable.PROXY)
    if isinstance(error, socket.gaierror):
        return UnreachableError(f"{urlsplit(url).hostname} cannot be found: {_words(error)}; see --url")
    return UnreachableError(f"{url} cannot be reached: {_words(error)}")


def _words(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or str(error)
    # asyncio's own text repeats the address.
    return os.strerror(error.errno)


def no_certificate(url: str, status: int, body: bytes) -> UnreachableError | None:
    """Return what a web server's answer means that wants a client's certificate; None if it is not that."""
    # nginx says it so, within an HTTP answer.
    if status != 400 or b"SSL certificate" not in body:
        return None
    sentence = f"{url} wants a client's certificate, or another one; give it with --client-cert"
    return UnreachableError(sentence, kind=Unreachable.TLS)


def proxy_refused(network: Network, url: str, status: int, *, wants: str | None = None) -> UnreachableError:
    """Return what the proxy's own HTTP status means, in place of a connection.

    `wants` is its `Proxy-Authenticate` header, if it is known; of several, all of them with commas between.
    """
    assert network.proxy is not None
    parts, shown = urlsplit(url), proxy.masked(network.proxy)
    where = f"{parts.hostname}:{parts.port or (443 if parts.scheme in {'https', 'wss'} else 80)}"
    if status == 407:
        sentence = f"the proxy {shown} answered with status 407: {_credentials(network.proxy, wants)}"
        return UnreachableError(sentence, kind=Unreachable.PROXY)
    if status >= 500:
        sentence = f"the proxy {shown} cannot reach {where}: it answered with status {status}"
        return UnreachableError(sentence)
    sentence = f"the proxy {shown} does not let us through to {where}: it answered with status {status}"
    return UnreachableError(f"{sentence}; have that allowed there", kind=Unreachable.PROXY)


def _credentials(proxy_url: str, wants: str | None) -> str:
    """Return what to do about a proxy that wants credentials, or others."""
    schemes = _schemes(wants or "")
    if schemes and "basic" not in {scheme.lower() for scheme in schemes}:
        return (
            f"it wants {' or '.join(schemes)} credentials, and only Basic ones can be sent; have it take "
            "Basic ones, or set up a proxy here that speaks to it"
        )
    if urlsplit(proxy_url).username:
        return "the credentials in its URL are wrong; see --proxy"
    return "it wants credentials: --proxy http://user:password@..."


def _schemes(wants: str) -> list[str]:
    """Return the ways to authenticate that `Proxy-Authenticate` offers: those words with no `=` behind."""
    offers = re.sub(r'"[^"]*"', "", wants).split(",")
    words = [offer.split()[0] for offer in offers if offer.split()]
    return list(dict.fromkeys(word for word in words if "=" not in word))


# Answers in the gateway's place


def is_temporary(status: int) -> bool:
    """Tell whether an HTTP status says to come back later."""
    return status >= 500 or status in {408, 425, 429}


def foreign(
    network: Network,
    url: str,
    status: int,
    *,
    location: str | None = None,
    retry_after: str | None = None,
    nobody: bool = False,
) -> UnreachableError:
    """Return what an HTTP answer without our marker means: it is a proxy's, or another server's.

    `nobody`: whoever was asked again who is there has not answered, or wants to be asked later.
    """
    shown = urlsplit(url)._replace(query="").geturl()
    sentence = f"{shown} answered with HTTP status {status}"
    after_s = _seconds(retry_after)
    if status in TOO_LARGE:
        sentence += ": something on the way takes smaller messages only"
        return UnreachableError(sentence, kind=Unreachable.TOO_LARGE, retry_after_s=after_s)
    if is_temporary(status) or nobody:
        return UnreachableError(f"{sentence}; it is not ready or not there", retry_after_s=after_s)
    if location is not None and 300 <= status < 400:
        sentence += f" (a redirect to {location})"
        advice = redirect_advice(network.base_url, url, location)
        return UnreachableError(f"{sentence}; {advice}", kind=Unreachable.FOREIGN, retry_after_s=after_s)
    return UnreachableError(
        f"{sentence}: no edge-ws is there; --url is Airflow's base URL, and at the centre [edge_ws] "
        "api_enabled must be True (restart the api-server after a change)",
        kind=Unreachable.FOREIGN,
        retry_after_s=after_s,
    )


def redirect_advice(base_url: str, url: str, location: str) -> str:
    """Return what to do about a redirect: only the same place under another address is one for `--url`."""
    wanted, target = urlsplit(url), urlsplit(urljoin(url, location))
    below = wanted.path.removeprefix(urlsplit(base_url).path.rstrip("/"))
    if below and target.path.rstrip("/").endswith(below) and not target.query:
        scheme = {"ws": "http", "wss": "https"}.get(target.scheme, target.scheme)
        moved = target._replace(scheme=scheme, path=target.path.rstrip("/").removesuffix(below), fragment="")
        return f"if Airflow has moved there, give --url {moved.geturl()}"
    return (
        f"something before Airflow wants a person to log in, or sends elsewhere what it does not know: have "
        f"requests to {urlsplit(base_url).path.rstrip('/')}/edge-ws/ passed on to Airflow as they are"
    )


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, as a number or as a date; None for neither."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            at = parsedate_to_datetime(retry_after)
        except (ValueError, TypeError, OverflowError):
            return None
        seconds = at.timestamp() - time.time()
    return max(0.0, seconds) if math.isfinite(seconds) else None
