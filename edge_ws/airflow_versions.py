"""Which releases of Airflow edge-ws works with: said here, and once more in pyproject.toml.

Reads the installed package's metadata and imports nothing of Airflow: another release may lack what we
import. The job host uses it, too.
"""

from __future__ import annotations

import re
from importlib import metadata

from edge_ws import __version__
from edge_ws.errors import UnsupportedAirflowError

SUPPORTED = ((3, 3), (3, 4))
"""The minor releases that the tests run with; pre-releases of one count as that one."""
_DISTRIBUTIONS = ("apache-airflow-core", "apache-airflow")


def installed() -> str | None:
    """Return the version of the installed Airflow, None if there is none."""
    return _version_of(*_DISTRIBUTIONS)


def installed_sdk() -> str | None:
    """Return the version of the installed task SDK, None if there is none."""
    return _version_of("apache-airflow-task-sdk")


def _version_of(*distributions: str) -> str | None:
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def is_supported(version: str) -> bool:
    """Tell whether edge-ws works with that version of Airflow."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) in SUPPORTED


def require() -> None:
    """Make sure that the installed Airflow, if there is one, is one that edge-ws works with.

    Raises:
        UnsupportedAirflowError: it is another one.
    """
    version = installed()
    if version is not None and not is_supported(version):
        raise UnsupportedAirflowError(
            version, [f"{major}.{minor}" for major, minor in SUPPORTED], __version__
        )
