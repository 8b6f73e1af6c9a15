"""`edge-ws demo`: a real Airflow, a worker and one DAG run, on this machine. Importing it does nothing."""

from __future__ import annotations

import argparse


def main(arguments: argparse.Namespace) -> int:
    """Run the demo and return the exit code.

    Raises:
        EdgeWsError: a part failed; the sentence names it.
    """
    from edge_ws.demo.show import show

    return show(as_json=arguments.output == "json", keep=arguments.keep)
