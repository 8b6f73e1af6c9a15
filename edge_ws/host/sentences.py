"""Ends of sentences about what went wrong: an exception, or a process's exit code."""

from __future__ import annotations

import signal

_LONGEST_SENTENCE = 300


def how_it_ended(code: int) -> str:
    """Return the end of a sentence about a process that ended with that code."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-code}"


def one_line(error: BaseException) -> str:
    """Return an exception as the end of a sentence."""
    text = shortened(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shortened(text: str) -> str:
    """Return a text as one line that is not too long for a sentence."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_SENTENCE else text[: _LONGEST_SENTENCE - 3] + "..."
