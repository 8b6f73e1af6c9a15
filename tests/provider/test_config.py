from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_ws.errors import UsageError
from edge_ws.protocol.frames import Timers
from edge_ws.provider.config import (
    edge3_beat_s,
    executor_settings,
    gateway_settings,
    identity_settings,
    jwt_verifier,
    listen_url,
    serves_gateway,
    shows_page,
)


class Conf:
    """Airflow's configuration, as far as it is set."""

    def __init__(self, **options: str) -> None:
        self._options = options

    def get(self, section: str, key: str, *, fallback: str | None) -> str | None:
        return self._options.get(f"{section}__{key}", fallback)


def test_defaults() -> None:
    assert executor_settings(Conf()).gives_back_stuck_tasks
    assert not serves_gateway(Conf())
    settings = gateway_settings(Conf(), versions={"airflow": "3.3.2"})
    assert settings.timers == Timers()
    assert settings.execution_api_url is None
    assert settings.token_leeway_s == 10.0
    assert settings.keep_ended_s == 300.0
    assert settings.keep_offline_workers_s == 30 * 86_400.0
    assert settings.versions == {"airflow": "3.3.2"}
    assert settings.hostname


def test_set_options() -> None:
    conf = Conf(
        edge_ws__heartbeat_interval="5",
        edge_ws__offer_lease=" 2.5 ",
        edge_ws__cancel_grace_sec="0",
        edge_ws__execution_api_url="https://airflow.example.com/team/execution/",
        edge_ws__keep_ended_sec="60",
        edge_ws__offline_worker_retention_days="0.5",
        api_auth__jwt_leeway="30",
    )
    settings = gateway_settings(conf, versions={})
    assert settings.timers == Timers(heartbeat_s=5.0, offer_lease_s=2.5, cancel_grace_s=0.0)
    assert settings.execution_api_url == "https://airflow.example.com/team/execution/"
    assert settings.token_leeway_s == 30.0
    assert settings.keep_ended_s == 60.0
    assert settings.keep_offline_workers_s == 43_200.0


def test_the_grace_is_airflows_own_if_nobody_has_set_one() -> None:
    for conf, grace_s in ((Conf(), 60.0), (Conf(edge_ws__cancel_grace_sec="7"), 7.0)):
        assert gateway_settings(conf, versions={}, airflows_grace_s=60.0).timers.cancel_grace_s == grace_s


def test_the_url_for_listen() -> None:
    assert listen_url(Conf()) is None
    assert listen_url(Conf(edge_ws__listen_sql_alchemy_conn=" postgresql://db/x ")) == "postgresql://db/x"


def test_edge3s_heartbeat_is_its_own_setting() -> None:
    assert edge3_beat_s(Conf()) == 30.0
    assert edge3_beat_s(Conf(edge__heartbeat_interval="120")) == 120.0
    with pytest.raises(UsageError, match=r"\[edge\] heartbeat_interval is 'often', but must be a number"):
        edge3_beat_s(Conf(edge__heartbeat_interval="often"))


@pytest.mark.parametrize(("text", "wanted"), [("never", False), ("NEVER", False), ("airflow", True)])
def test_queued_timeout(text: str, wanted: Any) -> None:
    assert executor_settings(Conf(edge_ws__queued_timeout=text)).gives_back_stuck_tasks is wanted


@pytest.mark.parametrize(("text", "wanted"), [("True", True), ("t", True), ("1", True), ("False", False)])
def test_api_enabled(text: str, wanted: Any) -> None:
    assert serves_gateway(Conf(edge_ws__api_enabled=text)) is wanted


def test_page_enabled() -> None:
    assert shows_page(Conf()) is False
    assert shows_page(Conf(edge_ws__api_enabled="True")) is True
    assert shows_page(Conf(edge_ws__page_enabled="True")) is True


ISSUED = {"edge_ws__trusted_jwks_url": "https://idp/keys", "edge_ws__jwt_issuer": "https://idp"}


def test_no_jwts_unless_a_provider_is_trusted() -> None:
    assert identity_settings(Conf()) is None
    assert jwt_verifier(Conf()) is None


def test_the_names_are_edge3s_and_so_are_the_defaults() -> None:
    settings = identity_settings(Conf(**ISSUED))
    assert settings is not None
    assert (settings.jwks_url, settings.issuer, settings.audience) == (
        "https://idp/keys",
        "https://idp",
        None,
    )
    assert (settings.algorithms, settings.leeway_s) == ({"RS256"}, 30.0)
    assert (settings.worker_claim, settings.worker_pattern) == ("sub", "<worker>")
    assert (settings.queues_claim, settings.team_claim) == ("", "")
    more = {"edge_ws__jwt_algorithm": "RS512, ES256", "edge_ws__jwt_verifier": f"{__name__}.verify"}
    settings = identity_settings(Conf(**{**ISSUED, **more, "edge_ws__jwt_issuer": ""}))
    assert settings is not None
    assert (settings.algorithms, settings.issuer) == ({"RS512", "ES256"}, None)


def test_the_verifier_is_imported() -> None:
    assert jwt_verifier(Conf(edge_ws__jwt_verifier="json.dumps")) is json.dumps
    for wrong in ("json.nothing", "nowhere.at.all", "dumps", "json.decoder"):
        with pytest.raises(UsageError, match=r"jwt_verifier is .*, but must be"):
            jwt_verifier(Conf(edge_ws__jwt_verifier=wrong))


def _issued(conf: Conf) -> object:
    conf._options = {**ISSUED, **conf._options}
    return identity_settings(conf)


@pytest.mark.parametrize(
    ("read", "name", "text"),
    [
        (executor_settings, "edge_ws__queued_timeout", "600"),
        (executor_settings, "edge_ws__queued_timeout", ""),
        (serves_gateway, "edge_ws__api_enabled", "perhaps"),
        (shows_page, "edge_ws__page_enabled", "perhaps"),
        (gateway_settings, "edge_ws__heartbeat_interval", "15s"),
        (gateway_settings, "edge_ws__heartbeat_interval", "0"),
        (gateway_settings, "edge_ws__heartbeat_interval", "nan"),
        (gateway_settings, "edge_ws__offer_lease", "-1"),
        (gateway_settings, "edge_ws__offer_lease", "inf"),
        (gateway_settings, "edge_ws__cancel_grace_sec", ""),
        (gateway_settings, "edge_ws__keep_ended_sec", "a while"),
        (gateway_settings, "edge_ws__offline_worker_retention_days", "-1"),
        (gateway_settings, "edge_ws__execution_api_url", "airflow.example.com"),
        (gateway_settings, "edge_ws__execution_api_url", "ftp://airflow.example.com/"),
        (gateway_settings, "edge_ws__execution_api_url", "http://[::1/"),
        (gateway_settings, "edge_ws__execution_api_url", "http://host:port/"),
        (gateway_settings, "api_auth__jwt_leeway", "ten"),
        (_issued, "edge_ws__jwt_algorithm", "HS256"),
        (_issued, "edge_ws__jwt_algorithm", "RS256,none"),
        (_issued, "edge_ws__jwt_algorithm", ","),
        (_issued, "edge_ws__jwt_algorithm", "GUESS"),
        (_issued, "edge_ws__jwt_leeway", "301"),
        (_issued, "edge_ws__jwt_issuer", ""),
        (_issued, "edge_ws__jwt_worker_claim", ""),
        (_issued, "edge_ws__jwt_worker_pattern", "*"),
        (_issued, "edge_ws__trusted_jwks_url", "http://idp.example.com/keys"),
        (_issued, "edge_ws__trusted_jwks_url", "http://127.0.0.1.example.com/keys"),
        (_issued, "edge_ws__trusted_jwks_url", "https://user:geheim@idp/keys"),
        (_issued, "edge_ws__trusted_jwks_url", "file:///etc/keys"),
    ],
)
def test_a_wrong_value_is_named(read: Callable[..., object], name: str, text: str) -> None:
    section, _, option = name.partition("__")
    more = {"versions": {}} if read is gateway_settings else {}
    with pytest.raises(UsageError) as caught:
        read(Conf(**{name: text}), **more)
    assert f"[{section}] {option} is {text!r}, but must be" in str(caught.value)
