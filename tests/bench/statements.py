"""Counts a database's statements by having the server log them for a while."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.bench.stand import Stand

_BEGINS = re.compile(r"^(\S*) LOG:  (?:statement|execute [^:]*): (.*)")
_CONTROL = re.compile(r"^(BEGIN|COMMIT|ROLLBACK|START TRANSACTION)\b", re.IGNORECASE)
_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE|JOIN)\s+(\w+)", re.IGNORECASE)


@dataclass
class Counts:
    """What was said in `seconds`."""

    seconds: float
    control: int = 0
    """BEGIN, COMMIT and ROLLBACK."""
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def statements(self) -> int:
        """All others."""
        return sum(self.kinds.values())

    def commonest(self, most: int) -> list[tuple[str, int]]:
        """Return the commonest kinds of statement with how often each was said."""
        return self.kinds.most_common(most)


def counted(stand: Stand, database: str, seconds: float) -> Counts:
    """Count for that long."""
    stand.admin("ALTER SYSTEM SET log_statement = 'all'")
    stand.admin("SELECT pg_reload_conf()")
    time.sleep(0.2)
    start = stand.postgres.log.stat().st_size
    begun = time.monotonic()
    time.sleep(seconds)
    counts = Counts(time.monotonic() - begun)
    with stand.postgres.log.open("rb") as file:
        file.seek(start)
        said = file.read().decode(errors="replace")
    stand.admin("ALTER SYSTEM RESET log_statement")
    stand.admin("SELECT pg_reload_conf()")
    for text in _texts(said, database):
        if _CONTROL.match(text):
            counts.control += 1
        else:
            counts.kinds[_kind(text)] += 1
    return counts


def _texts(said: str, database: str) -> list[str]:
    found: list[str] = []
    for line in said.splitlines():
        match = _BEGINS.match(line)
        if match is not None:
            found.append(match[2] if match[1] == database else "")
        elif line.startswith("\t") and found:
            found[-1] += f" {line.strip()}" if found[-1] else ""
    return [text for text in found if text]


def _kind(text: str) -> str:
    tables = ", ".join(dict.fromkeys(_TABLE.findall(text)))
    return f"{text.split(maxsplit=1)[0].upper()} {tables or text[:60]}"
