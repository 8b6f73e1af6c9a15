"""A real small file system, to be filled or made read-only; needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_FILLER = "filler"


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, *, leave: int = 0) -> None:
        """Take all room but `leave` bytes."""
        with (self.path / _FILLER).open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(65536))
        with (self.path / _FILLER).open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        if leave:
            os.truncate(self.path / _FILLER, (self.path / _FILLER).stat().st_size - leave)

    def free(self) -> None:
        """Give the room back."""
        (self.path / _FILLER).unlink()

    def set_readonly(self, wanted: bool) -> None:
        """Remount it, if need be although files are open for writing."""
        _run("mount", "-o", f"remount,{'ro' if wanted else 'rw'}", str(self.path))


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a file system of that size for the length of the block."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    path.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "edge-ws-test", str(path))
    try:
        yield SmallDisk(path)
    finally:
        # Lazily: a process that is being stopped may still have a file open there.
        _run("umount", "-l", str(path))


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
