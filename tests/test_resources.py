"""Where the package's data lies."""

from __future__ import annotations

from edge_ws import resources


def test_the_migrations_are_there() -> None:
    assert (resources.migrations_dir() / "env.py").is_file()
    assert list((resources.migrations_dir() / "versions").glob("0001_*.py"))


def test_the_examples_are_there() -> None:
    assert resources.examples_dir().is_dir()
