"""Sets Airflow up in a process that is not Airflow's own, and keeps what it logs out of our results.

Importing this loads nothing of Airflow.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import cast

from sqlalchemy.engine import Engine

from edge_ws.errors import UsageError
from edge_ws.store.database import first_line


@contextmanager
def airflow_engine() -> Iterator[Engine]:
    """Yield the engine of Airflow's database; meanwhile stdout is stderr, for Airflow logs to stdout."""
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        for handler in logging.getLogger().handlers:
            # Started by `airflow`, which has set up its logging already.
            if isinstance(handler, logging.StreamHandler) and handler.stream is out:
                handler.setStream(sys.stderr)
        yield load_engine()


def load_engine() -> Engine:
    """Return the engine of Airflow's database, setting Airflow up if nobody has yet; takes seconds.

    Raises:
        UsageError: Airflow cannot be set up with its configuration.
    """
    try:
        from airflow import settings  # noqa: PLC0415 - only when a verb runs

        if settings.engine is None:
            settings.initialize()
    except Exception as error:  # whatever Airflow makes of its configuration
        raise UsageError(
            f"Airflow cannot be set up here: {first_line(error)}; check [database] sql_alchemy_conn"
        ) from error
    return cast("Engine", settings.engine)
