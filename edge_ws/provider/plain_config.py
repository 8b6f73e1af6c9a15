"""Reads single options of Airflow's configuration without importing Airflow, which takes seconds.

Only where that is plain: the option stands in Airflow's environment variable or in airflow.cfg, and nothing
that Airflow would run or ask (a command, a secrets backend, interpolation, local settings) has a say in it.
Everywhere else there is no answer, and Airflow itself has to be asked.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path

_HARMLESS = frozenset(
    {
        "sql_alchemy_conn",
        "sql_alchemy_conn_async",
        "sql_alchemy_pool_enabled",
        "sql_alchemy_pool_size",
        "sql_alchemy_max_overflow",
        "sql_alchemy_pool_recycle",
        "sql_alchemy_pool_pre_ping",
        "alembic_ini_file_path",
        "load_default_connections",
        "max_db_retries",
        "check_migrations",
        "migration_batch_size",
        "external_db_managers",
    }
)
"""Options of `[database]` that a single short connection need not know; any other one may matter to it."""
_LOCAL_SETTINGS = "airflow_local_settings"
_SCHEMES = ("sqlite:////", "postgresql://", "postgresql+", "mysql://", "mysql+")
"""Others are an older Airflow's, or a relative path, and Airflow changes or refuses them."""

_STRANGE_VARIABLES = (
    "AIRFLOW__CORE__SQL_ALCHEMY_CONN",
    "AIRFLOW__CORE__UNIT_TEST_MODE",
    "_AIRFLOW_SKIP_DB_TESTS",
)


class NotPlainError(Exception):
    """Only Airflow can tell; never leaves this package."""


class PlainConfig:
    """Airflow's configuration, as far as it is plain."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read airflow.cfg, if there is one.

        Raises:
            NotPlainError: it cannot be read as it is.
        """
        self._environ = environ
        self.home = Path(_expanded(environ.get("AIRFLOW_HOME", "~/airflow")))
        path = Path(_expanded(environ.get("AIRFLOW_CONFIG", str(self.home / "airflow.cfg"))))
        self._file = configparser.RawConfigParser()
        try:
            with path.open(encoding="utf-8") as file:
                self._file.read_file(file)
        except FileNotFoundError:
            # Airflow would write one; until then its defaults count.
            pass
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            raise NotPlainError(str(error)) from error

    def get(self, section: str, option: str) -> str | None:
        """Return the option's value, None if it has but Airflow's default.

        Raises:
            NotPlainError: only Airflow can tell.
        """
        variable = f"AIRFLOW__{section.upper()}__{option.upper()}"
        if variable in self._environ:
            return _expanded(self._environ[variable])
        if self._is_asked_for(section, option, variable):
            raise NotPlainError(f"[{section}] {option} comes from a command or a secrets backend")
        if not self._file.has_option(section, option):
            return None
        value = self._file.get(section, option)
        if "%" in value:
            raise NotPlainError(f"[{section}] {option} is interpolated")
        return _expanded(value)

    def _is_asked_for(self, section: str, option: str, variable: str) -> bool:
        if any(f"{variable}{suffix}" in self._environ for suffix in ("_CMD", "_SECRET")):
            return True
        if self._file.has_option(section, option):
            return False
        return any(self._file.has_option(section, f"{option}{suffix}") for suffix in ("_cmd", "_secret"))

    def database_url(self) -> str:
        """Return the URL of Airflow's database.

        Raises:
            NotPlainError: only Airflow can tell, or the engine that it makes may be another than a plain one.
        """
        url = self.get("database", "sql_alchemy_conn")
        if url is None or not url.startswith(_SCHEMES):
            raise NotPlainError("the database has no plain URL")
        if strange := next(self._strange(), None):
            raise NotPlainError(f"{strange} may change how the database is connected to")
        return url

    def _strange(self) -> Iterator[str]:
        """Yield what may make Airflow's engine another one."""
        prefix = "AIRFLOW__DATABASE__"
        names = [name.removeprefix(prefix).lower() for name in self._environ if name.startswith(prefix)]
        if self._file.has_section("database"):
            names += self._file.options("database")
        yield from (f"[database] {name}" for name in names if name not in _HARMLESS)
        if self._file.has_option("core", "sql_alchemy_conn"):
            yield "[core] sql_alchemy_conn"
        yield from (name for name in _STRANGE_VARIABLES if name in self._environ)
        # Where Airflow puts folders of its own on the path of imports.
        plugins = self.get("core", "plugins_folder") or str(self.home / "plugins")
        dags = self.get("core", "dags_folder") or str(self.home / "dags")
        if PathFinder.find_spec(_LOCAL_SETTINGS, [str(self.home / "config"), plugins, dags]) is not None:
            yield _LOCAL_SETTINGS
        if PathFinder.find_spec(_LOCAL_SETTINGS) is not None:
            yield _LOCAL_SETTINGS

    def log_folder(self) -> Path:
        """Return the folder of task logs.

        Raises:
            NotPlainError: only Airflow can tell.
        """
        return Path(self.get("logging", "base_log_folder") or self.home / "logs")


def _expanded(text: str) -> str:
    """Return the text with variables and `~` expanded until nothing changes, as Airflow does."""
    while (expanded := os.path.expanduser(os.path.expandvars(text))) != text:  # noqa: PTH111 - as Airflow does
        text = expanded
    return text
