"""Addresses and trust."""

from __future__ import annotations

import ssl

import pytest

from edge_ws.worker.network import execution_api_url, health_url, ssl_context, ws_url


@pytest.mark.parametrize(
    ("base", "websocket"),
    [
        ("http://localhost:8080", "ws://localhost:8080/edge-ws/v1/ws"),
        ("https://airflow.example.com", "wss://airflow.example.com/edge-ws/v1/ws"),
        ("https://example.com/team/airflow", "wss://example.com/team/airflow/edge-ws/v1/ws"),
        ("https://example.com/team/airflow/", "wss://example.com/team/airflow/edge-ws/v1/ws"),
        ("https://[2001:db8::1]:8443/x", "wss://[2001:db8::1]:8443/x/edge-ws/v1/ws"),
        ("http://http.example.com", "ws://http.example.com/edge-ws/v1/ws"),
    ],
)
def test_websocket_address(base: str, websocket: str) -> None:
    assert ws_url(base) == websocket


def test_http_addresses_keep_the_sub_path() -> None:
    assert health_url("https://example.com/a") == "https://example.com/a/edge-ws/health"
    assert execution_api_url("https://example.com/a") == "https://example.com/a/execution/"
    assert execution_api_url("https://example.com/") == "https://example.com/execution/"


def test_https_is_verified_and_http_has_no_context() -> None:
    context = ssl_context("https://example.com")
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert ssl_context("http://example.com") is None
