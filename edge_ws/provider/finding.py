"""What `check` has to say about one thing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """Of one thing that was looked at."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as it could."""
    WRONG = "wrong"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What there is to say about one thing."""

    check: str
    verdict: Verdict
    says: str
    do: str = ""

    def told(self) -> str:
        """Return it as a line."""
        word = self.verdict.value
        shown = word.upper() if self.verdict is Verdict.WRONG else word
        return f"{shown:<11}  {self.check:<13}  {self.says}{'; ' + self.do if self.do else ''}"

    def as_row(self) -> dict[str, str]:
        """Return it for JSON."""
        return {"check": self.check, "verdict": self.verdict.value, "says": self.says, "do": self.do}


def ok(check: str, says: str) -> Finding:
    """Return that all is well."""
    return Finding(check=check, verdict=Verdict.OK, says=says)


def warning(check: str, says: str, do: str) -> Finding:
    """Return that it works, but not as it could."""
    return Finding(check=check, verdict=Verdict.WARNING, says=says, do=do)


def wrong(check: str, says: str, do: str = "") -> Finding:
    """Return what is wrong, and what to do unless the sentence says it."""
    return Finding(check=check, verdict=Verdict.WRONG, says=says, do=do)


def not_checked(check: str, why: str) -> Finding:
    """Return why it could not be looked at."""
    return Finding(check=check, verdict=Verdict.NOT_CHECKED, says=why)
