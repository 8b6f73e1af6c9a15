"""`edge-ws worker`: makes the configuration of flags, environment and file, then runs the daemon."""

from __future__ import annotations

import argparse
import os
import sys

from edge_ws.worker.config import resolve, this_machine, token_warning


def run(arguments: argparse.Namespace) -> int:
    """Run the daemon until it leaves, or with `--show-config` print the configuration."""
    resolved = resolve(vars(arguments), os.environ, this_machine())
    if arguments.show_config:
        print(resolved.shown())
        return 0
    warning = token_warning(resolved.config)
    if warning:
        print(f"edge-ws: warning: {warning}", file=sys.stderr)
    from edge_ws.worker.daemon import main

    return main(resolved.config)
