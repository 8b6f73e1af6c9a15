"""Texts that come from elsewhere, made fit for people's eyes: for logs, terminals and tables."""

from __future__ import annotations

WORDS = 300
"""Characters of what a peer may say in one sentence; what is longer is cut."""


def printable(text: str) -> str:
    """Return the text with a blank for what would move the cursor, or break the line.

    It may come from a worker, and is to do nothing to a log or an operator's terminal.
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def words(text: str, most: int = WORDS) -> str:
    """Return the text as one printable line of that length at the most."""
    return printable(text[:most])
