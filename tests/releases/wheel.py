"""The old release: a wheel of the commit before the tables last changed, built from the repository's history."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.services import missing

OLD = "dd76c418f576b0f3a99acbe8631b3e1658c780af"
"""The last commit before live control: what one part of a site may still run while another has this release."""
_TREE = Path(__file__).parents[2]


def unpacked_old_release(folder: Path) -> Path:
    """Build the old release's wheel in that folder and return where it is unpacked, for PYTHONPATH."""
    source, wheels, unpacked = folder / "source", folder / "wheels", folder / "old"
    with zipfile.ZipFile(io.BytesIO(_sources())) as archive:
        archive.extractall(source)
    words = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(source)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(unpacked)
    return unpacked


def _sources() -> bytes:
    """Return the old release's sources as a zip; without the history they cannot be had (.ci/run fetches it)."""
    try:
        # CI may run as another user than the clone's owner.
        words = ["git", "-c", f"safe.directory={_TREE}", "archive", "--format=zip", OLD]
        done = subprocess.run(words, cwd=_TREE, capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        missing("git, which has the old release")
    if done.returncode:
        missing(f"the old release in this clone's history (`git fetch --unshallow`; commit {OLD})")
    return done.stdout
