"""`edge-ws worker`: makes the configuration of flags, environment and file, then runs the daemon."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from edge_ws import streams
from edge_ws.cli import hidden_token
from edge_ws.cli.first_process import stand_aside
from edge_ws.worker.config import Resolved, resolve, this_machine, token_warning
from edge_ws.worker.settings import TOKEN_VARIABLE


def run(arguments: argparse.Namespace) -> int:
    """Run the daemon until it leaves, or with `--show-config` print the configuration."""
    token = hidden_token.take(os.environ)
    told = dict(os.environ) if token is None else {**os.environ, TOKEN_VARIABLE: token}
    resolved = resolve(vars(arguments), told, this_machine())
    if arguments.show_config:
        print(resolved.shown())
        return 0
    if hidden_token.is_in(os.environ):
        hidden_token.execute_again(os.environ)
    if token is not None:
        hidden_token.close_memory()
    warning = token_warning(resolved.config)
    if warning:
        print(f"edge-ws: warning: {warning}", file=sys.stderr)
    stand_aside()
    return _work(resolved)


def _work(resolved: Resolved) -> int:
    import anyio

    from edge_ws.worker.daemon import Daemon
    from edge_ws.worker.state import StateDirectory

    config = resolved.config
    streams.protect_standard_streams()
    # Not the root's level: the debug lines of websockets show the token.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("edge_ws").setLevel(config.log_level.upper())
    state = StateDirectory(config.state_dir)
    anyio.run(Daemon(config, state, dict(os.environ), resolved.rows()).run)
    return 0
