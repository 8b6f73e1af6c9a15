"""Where the package's data lies: inside the wheel, or beside the package in a checkout.

Knows nothing of what the files mean.
"""

from __future__ import annotations

from pathlib import Path

from edge_ws.errors import EdgeWsError

_PACKAGE = Path(__file__).resolve().parent


def migrations_dir() -> Path:
    """Return the folder with Alembic's `env.py` and `versions/`."""
    return _folder("migrations")


def examples_dir() -> Path:
    """Return the folder with the examples."""
    return _folder("examples")


def _folder(name: str) -> Path:
    for folder in (_PACKAGE / f"_{name}", _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise EdgeWsError(f"the installed edge-ws lacks its folder of {name}; install it again")
