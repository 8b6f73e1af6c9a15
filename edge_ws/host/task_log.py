"""A task's log file, as Airflow writes it: lines of our own in it, and a writer that no disk can stop.

Imports Airflow only when called, as `runner` does.
"""

# ruff: noqa: PLC0415 - Airflow is imported only when called

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from edge_ws.streams import LossyFile


def write(log_path: str, level: str, sentence: str) -> None:
    """Append a line to a task's log file, in the form in which Airflow's own lines are shown.

    Raises:
        OSError: the file cannot be written.
    """
    from airflow.sdk.log import init_log_file

    # One write to a file opened for appending: it does not tear the supervisor's lines.
    with Path(init_log_file(log_path)).open("ab", buffering=0) as file:
        file.write(line(level, sentence))


def line(level: str, sentence: str) -> bytes:
    """Return a line of a task's log."""
    told = {
        "timestamp": datetime.now(tz=UTC).isoformat().replace("+00:00", "Z"),
        "level": level,
        "event": sentence,
        "logger": "edge_ws.host",
    }
    return orjson.dumps(told) + b"\n"


def lose_rather_than_fail(on_open: Callable[[LossyFile], None]) -> None:
    """Let supervisors of this process lose what the disk does not take of a task's log.

    Airflow's own file raises in the middle of the supervisor's loop, which ends it, and its task.

    Args:
        on_open: called with each log file.
    """
    from airflow.sdk.execution_time import callback_supervisor, supervisor

    for module in (supervisor, callback_supervisor):
        configure = getattr(module, "_configure_logging", None)
        if configure is not None:
            module._configure_logging = _lossy(configure, on_open)  # noqa: SLF001


def _lossy(configure: Callable[..., Any], on_open: Callable[[LossyFile], None]) -> Callable[..., Any]:
    def configured(*args: object, **options: object) -> tuple[Any, Any]:
        import structlog

        logger, file = configure(*args, **options)
        if not isinstance(getattr(logger, "_logger", None), structlog.BytesLogger):
            return logger, file  # of another Airflow, which writes in another way
        log = LossyFile(file.name, lambda sentence: line("warning", sentence))
        file.close()
        logger._logger = structlog.BytesLogger(log)  # noqa: SLF001
        on_open(log)
        return logger, log

    return configured
