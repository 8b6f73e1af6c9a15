"""The worker's state directory: whose it is, which site it is, and whether its credential has ever worked."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import SiteId, new_id


class StateDirectory:
    """One state directory, held by one daemon at a time."""

    def __init__(self, path: Path) -> None:
        """Make the directory if it is absent, and lock it for this process.

        Raises:
            UsageError: another daemon holds it, or it cannot be made or written to.
        """
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            sentence = f"the state directory {path} cannot be used: {error.strerror}; see --state-dir"
            raise UsageError(sentence) from error
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"another worker runs with the state directory {path}; stop it, or give this one another "
                "--state-dir (and name)"
            ) from error
        self.site = SiteId(self._read_or_make("site", new_id()))

    def _read_or_make(self, name: str, value: str) -> str:
        path = self.path / name
        try:
            found = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            found = ""
        if found:
            return found
        temporary = path.with_suffix(".tmp")
        temporary.write_text(value + "\n", encoding="ascii")
        temporary.replace(path)
        return value

    def is_proven(self, url: str) -> bool:
        """Tell whether a credential has worked from here at that URL."""
        return self._proof(url) in self._proofs()

    def prove(self, url: str) -> None:
        """Note that the credential has worked at that URL."""
        proofs = self._proofs() | {self._proof(url)}
        (self.path / "proven").write_text("\n".join(sorted(proofs)) + "\n", encoding="ascii")

    def _proofs(self) -> set[str]:
        try:
            return set((self.path / "proven").read_text(encoding="ascii").split())
        except FileNotFoundError:
            return set()

    @staticmethod
    def _proof(url: str) -> str:
        return hashlib.sha256(url.encode()).hexdigest()
