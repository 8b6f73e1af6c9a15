"""The differences between LocalExecutor and edge-ws that are meant to be, each with its reason."""

from __future__ import annotations

from tests.parity.compare import Known

KNOWN: list[Known] = []
