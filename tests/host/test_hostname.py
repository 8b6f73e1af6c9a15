"""The host name that Airflow shows."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from edge_ws.host import hostname


def said(**environment: str) -> str:
    module, function = hostname.CALLABLE.rsplit(".", 1)
    kept = {name: value for name, value in os.environ.items() if name != hostname.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", f"from {module} import {function}; print({function}())"],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_callable_returns_the_workers_name() -> None:
    assert said(**{hostname.VARIABLE: "factory-7"}) == "factory-7"
    assert said() == socket.gethostname()
