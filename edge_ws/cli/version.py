"""`edge-ws version`."""

from __future__ import annotations

import argparse

from edge_ws.cli.output import tell
from edge_ws.protocol.ids import PROTOCOL
from edge_ws.worker.sysinfo import versions


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001 - the shape of every verb
    """Print our version, the protocol's, and those of what we run on."""
    found = versions()
    airflow = f"Airflow {found['airflow']}" if "airflow" in found else "no Airflow"
    tell(f"edge-ws {found['edge_ws']} (protocol {PROTOCOL}, {airflow}, Python {found['python']})")
    return 0
