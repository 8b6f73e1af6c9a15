"""The way to the data centre: to Airflow's database here or, with `--url`, to a gateway.

Imports Airflow and the store only when the database is used: with `--url` there may be none.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from edge_ws.errors import UsageError


class Centre(Protocol):
    """The data centre, near or far."""

    def __call__(self, operation: str, given: dict[str, object], *, changes: bool) -> Any:  # noqa: ANN401 - JSON
        """Return the operation's result as plain data; parameters that are None are left out."""
        ...

    def has_gateway(self) -> bool:
        """Tell whether a gateway is alive that could tell workers."""
        ...


@contextmanager
def reach(arguments: Namespace) -> Iterator[Centre]:
    """Yield the centre that the arguments mean; print results behind the block: in it, stdout is stderr.

    Raises:
        UsageError: a flag or a variable is wrong, or a flag is given that is of use with `--url` only.
    """
    if arguments.url is not None:
        from edge_ws.cli.remote import gateway

        with gateway(arguments, os.environ) as centre:
            yield centre
        return
    for name in ("token_file", "ca_file", "allow_insecure"):
        if getattr(arguments, name):
            raise UsageError(f"--{name.replace('_', '-')}: it is of no use without --url")
    from edge_ws.cli.centre import database

    with database() as near:
        yield near


def split(text: str | None) -> list[str] | None:
    """Return what the commas part."""
    return None if text is None else [part.strip() for part in text.split(",")]
