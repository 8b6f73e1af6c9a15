"""The real edge3 beside edge-ws: its settings for a site, its unchanged worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2

from tests.support.programs import clean_environment
from tests.support.site import Process, Site

EXECUTOR = "airflow.providers.edge3.executors.EdgeExecutor"
OURS = "edge_ws.provider.executor.EdgeWsExecutor"
LEEWAY = "API_AUTH__JWT_LEEWAY"
SETTINGS = {
    "EDGE__API_ENABLED": "True",
    # edge3's worker ends at the first of its tokens that is too old, and they live for so long: on a busy
    # machine 10 s are soon over.
    LEEWAY: "120",
}
"""What the centre needs beside our own settings."""


def edge3_environment(site: Site, folder: Path) -> dict[str, str]:
    """Return what an edge3 worker needs: the secret of the centre, its URL, a home of its own."""
    secret = "AIRFLOW__API_AUTH__JWT_SECRET"
    return clean_environment(
        folder,
        PYTHONPATH=site.environment["PYTHONPATH"],
        SITE_NOTES=str(site.notes),
        AIRFLOW__CORE__DAGS_FOLDER=str(site.dags),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        # Airflow refuses a DAG that names an executor which is not in the configuration of the host.
        AIRFLOW__CORE__EXECUTOR=site.environment["AIRFLOW__CORE__EXECUTOR"],
        # So that tests wait less: for its polls, and for it when the api-server is back.
        AIRFLOW__EDGE__JOB_POLL_INTERVAL="1",
        AIRFLOW__EDGE__API_RETRY_WAIT_MAX="1",
        AIRFLOW__EDGE__API_RETRIES="90",
        AIRFLOW__EDGE__HEARTBEAT_INTERVAL="1",
        AIRFLOW__EDGE__API_URL=f"{site.url}/edge_worker/v1/rpcapi",
        **{name: site.environment[name] for name in (secret, f"AIRFLOW__{LEEWAY}")},
    )


def edge3_worker(site: Site, name: str, *words: str) -> Process:
    """Start `airflow edge worker`, unchanged."""
    folder = site.home / f"remote-{name}"
    folder.mkdir(exist_ok=True)
    environment = edge3_environment(site, folder)
    process = site.spawn(
        f"worker-{name}", "airflow", "edge", "worker", "-H", name, *words, environment=environment
    )
    process.wait_for("Starting worker with API endpoint")
    return process


def ui(site: Site, method: str, path: str, body: object = None) -> Any:
    """Ask a route that edge3's page asks, as a logged in user."""
    headers = {"authorization": f"Bearer {site.token}"}
    with httpx2.Client(timeout=30) as client:
        answer = client.request(method, f"{site.url}/edge_worker/ui/{path}", json=body, headers=headers)
    assert answer.status_code < 300, answer.text
    return answer.json() if answer.content else None
