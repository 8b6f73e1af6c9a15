"""Finds Airflow's database for a verb: without Airflow where that is plain, else by setting Airflow up.

Keeps what Airflow logs out of our results. Importing this loads nothing of Airflow.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from edge_ws.errors import UsageError
from edge_ws.provider.config import EDGE3_BEAT, edge3_beat, edge3_beat_s
from edge_ws.provider.plain_config import NotPlainError, PlainConfig
from edge_ws.store.database import first_line


def _has_airflow() -> bool:
    """Tell whether this process has set Airflow up already."""
    return getattr(sys.modules.get("airflow.settings"), "engine", None) is not None


@contextmanager
def tables_engine() -> Iterator[Engine]:
    """Yield an engine for the tables of Airflow's database, for a verb that needs no more of Airflow."""
    url = None
    if not _has_airflow():
        try:
            url = PlainConfig(os.environ).database_url()
        except NotPlainError as error:
            logging.getLogger(__name__).debug("Airflow is asked for its database: %s", error)
    if url is None:
        with airflow_engine() as engine:
            yield engine
        return
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        raise UsageError(f"[database] sql_alchemy_conn is of no use here: {first_line(error)}") from error
    with redirect_stdout(sys.stderr):
        yield engine


def log_folder() -> Path:
    """Return Airflow's folder of task logs."""
    if not _has_airflow():
        try:
            return PlainConfig(os.environ).log_folder()
        except NotPlainError:
            load_engine()
    from airflow.configuration import conf  # noqa: PLC0415 - only when a verb runs

    return Path(conf.get("logging", "base_log_folder"))


def edge3_heartbeat_s() -> float:
    """Return the heartbeat of edge3's workers, as the centre sets it.

    Raises:
        UsageError: the option has no sense.
    """
    if not _has_airflow():
        try:
            return edge3_beat(PlainConfig(os.environ).get(*EDGE3_BEAT))
        except NotPlainError:
            load_engine()
    from airflow.configuration import conf  # noqa: PLC0415 - only when a verb runs

    return edge3_beat_s(conf)


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
