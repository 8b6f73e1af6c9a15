"""Implementations for verbs that tests make up."""

from __future__ import annotations

from argparse import Namespace


def do(arguments: Namespace) -> int:
    """Call `arguments.what` and return what it returns."""
    code: int = arguments.what()
    return code
