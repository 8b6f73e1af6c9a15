"""Which proxy is taken, for which addresses, and how it is written."""

from __future__ import annotations

import urllib.request

import pytest

from edge_ws.errors import UsageError
from edge_ws.worker.proxy import OFF, check, find, is_excepted, masked

URL = "https://airflow.example.com/x"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("http://proxy:3128", "http://proxy:3128"),
        ("http://Proxy:3128/", "http://proxy:3128"),
        ("proxy.corp:3128", "http://proxy.corp:3128"),
        ("HTTPS://proxy", "https://proxy:443"),
        ("http://proxy", "http://proxy:80"),
        ("http://me@proxy:1", "http://me:@proxy:1"),
        ("http://me:p%40ss%3A%2F%23@proxy:1", "http://me:p%40ss%3A%2F%23@proxy:1"),
        ("http://me:p@ss:x@proxy:1", "http://me:p%40ss%3Ax@proxy:1"),
        ("http://CORP%5Cme:gr%C3%BCn@proxy:1", "http://CORP%5Cme:gr%C3%BCn@proxy:1"),
        ("http://[::1]:3128", "http://[::1]:3128"),
        ("", OFF),
        (" ", OFF),
        ("none", OFF),
        ("None", OFF),
    ],
)
def test_one_form(text: str, meant: str) -> None:
    assert check(text) == meant


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("socks5://me:geheim@p:1080", "SOCKS"),
        ("socks5h://p", "SOCKS"),
        ("ftp://p", "not a proxy's URL"),
        ("http://", "not a proxy's URL"),
        ("http://p:0", "not a proxy's URL"),
        ("http://p:port", "not a proxy's URL"),
        ("http://p:99999", "not a proxy's URL"),
        ("http://p/path", "not a proxy's URL"),
        ("http://p?geheim", "not a proxy's URL"),
        ("http://me:geheim/x@p:1", "not a proxy's URL"),
        ("http://me:geheim#x@p:1", "not a proxy's URL"),
        ("http://me:geheim%FF@p:1", "not a proxy's URL"),
        ("http://me:geheim grün@p:1", "not a proxy's URL"),
        ("http://[::1", "not a proxy's URL"),
        ("http://p\r\nX: y", "not a proxy's URL"),
    ],
)
def test_what_is_none_is_refused_and_not_repeated(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part) as caught:
        check(text)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example", "1.2.3.999"])
def test_a_host_that_cannot_be_looked_up(host: str) -> None:
    with pytest.raises(ValueError, match="not a proxy's URL"):
        check(f"http://{host}:3128")


def test_no_password_is_shown() -> None:
    assert masked(check("http://me:geh@eim@proxy:1")) == "http://me:***@proxy:1"
    assert masked(check("http://proxy:1")) == "http://proxy:1"
    assert masked(OFF) == OFF


@pytest.mark.parametrize(
    ("url", "environ", "proxy", "origin"),
    [
        (URL, {}, None, "none"),
        (URL, {"HTTPS_PROXY": "a:1", "ALL_PROXY": "b:1", "HTTP_PROXY": "c:1"}, "http://a:1", "HTTPS_PROXY"),
        (URL, {"HTTPS_PROXY": "a:1", "https_proxy": "b:1"}, "http://b:1", "https_proxy"),
        (URL, {"HTTP_PROXY": "c:1", "http_proxy": "c:1"}, None, "none"),
        (URL, {"ALL_PROXY": "b:1"}, "http://b:1", "ALL_PROXY"),
        (URL, {"ALL_PROXY": "a:1", "all_proxy": "b:1"}, "http://b:1", "all_proxy"),
        (URL, {"HTTPS_PROXY": "", "ALL_PROXY": "b:1"}, None, "HTTPS_PROXY"),
        (URL, {"HTTPS_PROXY": "a:1", "NO_PROXY": "*"}, None, "NO_PROXY"),
        (URL, {"HTTPS_PROXY": "a:1", "NO_PROXY": "*", "no_proxy": "x"}, "http://a:1", "HTTPS_PROXY"),
        (URL, {"HTTPS_PROXY": "socks5://a:1", "NO_PROXY": "example.com"}, None, "NO_PROXY"),
        ("http://x", {"HTTPS_PROXY": "a:1", "http_proxy": "c:1"}, "http://c:1", "http_proxy"),
        ("http://x", {"HTTP_PROXY": "c:1"}, "http://c:1", "HTTP_PROXY"),
        ("http://x", {"HTTP_PROXY": "c:1", "REQUEST_METHOD": "GET"}, None, "none"),
        ("http://x", {"ALL_PROXY": "b:1"}, "http://b:1", "ALL_PROXY"),
    ],
)
def test_the_environment(url: str, environ: dict[str, str], proxy: str | None, origin: str) -> None:
    found = find(url, None, environ)
    assert (found.url, found.origin) == (proxy, origin)


def test_the_setting_decides_alone() -> None:
    environ = {"HTTPS_PROXY": "a:1", "NO_PROXY": "*"}
    assert find(URL, "http://own:1", environ).url == "http://own:1"
    assert find(URL, OFF, {"HTTPS_PROXY": "a:1"}).url is None


def test_a_wrong_variable_is_named_and_not_repeated() -> None:
    with pytest.raises(UsageError, match=r"^ALL_PROXY: a SOCKS proxy .*`--proxy none` ignores it") as caught:
        find(URL, None, {"ALL_PROXY": "socks5://me:geheim@p"})
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "exceptions", "excepted"),
    [
        ("https://a.example.com", "example.com", True),
        ("https://example.com", "example.com", True),
        ("https://example.com", ".example.com", True),
        ("https://a.example.com", ".example.com", True),
        ("https://a.example.com", "*.example.com", True),
        ("https://A.Example.COM.", "EXAMPLE.com", True),
        ("https://badexample.com", "example.com", False),
        ("https://example.com.evil", "example.com", False),
        ("https://x", " a , x , ", True),
        ("https://x", "a x", True),
        ("https://x", "", False),
        ("https://x", ",", False),
        ("https://x", ".", False),
        ("https://x", "*", True),
        ("https://x", "x:443", True),
        ("https://x:8443", "x:443", False),
        ("https://x:8443", "x:8443", True),
        ("http://x", "x:80", True),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://11.1.2.3", "10.0.0.0/8", False),
        ("https://10.1.2.3", "10.1.2.3", True),
        ("https://10.1.2.3:1", "10.1.2.3:2", False),
        ("https://110.1.2.3", "10.1.2.3", False),
        ("https://x", "10.0.0.0/8,fe80::/10", False),
        ("https://10.1.2.3", "nonsense/99", False),
        ("https://[::1]", "::1", True),
        ("https://[0:0::1]:8443", "[::1]:8443", True),
        ("https://[::1]:8443", "[::1]", True),
        ("https://[fd00::7]", "fd00::/8", True),
    ],
)
def test_exceptions(url: str, exceptions: str, excepted: bool) -> None:
    assert is_excepted(url, exceptions) is excepted


def test_names_are_excepted_as_the_standard_library_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for exceptions in ("example.com", ".example.com", "a.example.com", "ample.com", "*", "x:443"):
        for host in ("example.com", "a.example.com", "b.a.example.com", "x"):
            theirs = urllib.request.proxy_bypass_environment(f"{host}:443", {"no": exceptions})
            assert is_excepted(f"https://{host}", exceptions) == bool(theirs), (exceptions, host)
