"""The host name that Airflow shows for a task: the worker's own name.

Airflow calls `worker_name` in every supervisor and task process (`[core] hostname_callable`), so this module
imports nothing of ours and nothing of Airflow's.
"""

from __future__ import annotations

import os
import socket

VARIABLE = "EDGE_WS_WORKER_NAME"
"""Set by the job host at its start, inherited by its jobs: Airflow's callable takes no argument."""
CALLABLE = "edge_ws.host.hostname.worker_name"


def worker_name() -> str:
    """Return the worker's name, this machine's where no job host has set one."""
    return os.environ.get(VARIABLE) or socket.gethostname()
