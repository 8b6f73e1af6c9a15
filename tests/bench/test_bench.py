"""Each row of the benchmark, tiny: numbers come out. They are not judged."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.control import REPOSITORY, Program
from tests.bench.plans import TINY
from tests.bench.report import Result, table, write_json
from tests.bench.rows import ROWS
from tests.bench.site import Bench
from tests.bench.stand import Edge3, Stand
from tests.support.services import bundled_postgres

_OURS_ALONE = {"memory", "reconnect", "longpoll"}


@pytest.fixture
def stand(tmp_path: Path, edge3_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path, bundled_postgres(), Edge3(python=Path(sys.executable), paths=(edge3_path,)))
    try:
        yield made
    finally:
        made.close()


@pytest.mark.system
@pytest.mark.parametrize("system", ["edge_ws", "edge3"])
def test_every_row_gives_numbers(stand: Stand, system: str, tmp_path: Path) -> None:
    said: list[str] = []
    bench = Bench(stand=stand, plan=TINY, say=said.append, systems=(system,))
    results = [one for name in ROWS for one in rows_of(name, bench, said)]
    write_json(results, tmp_path / "bench.json")
    written = json.loads((tmp_path / "bench.json").read_text())
    assert set(written) == {one.name for one in results}
    assert all(set(row) == {"edge_ws", "edge3", "ratio", "unit"} for row in written.values())
    assert all(one.name in table(results) for one in results)
    assert not [line for line in said if "NEVER CAME" in line or "ONLY" in line]


def rows_of(name: str, bench: Bench, said: list[str]) -> list[Result]:
    results = ROWS[name](bench)
    (system,) = bench.systems
    expected = system == "edge_ws" or name not in _OURS_ALONE
    assert bool(results) is expected, name
    missing = [one.name for one in results if getattr(one, system) is None]
    assert not missing, said
    return results


def test_a_ratio_says_how_many_times_better_we_are() -> None:
    assert Result(name="took", unit="ms", edge_ws=2.0, edge3=10.0).ratio == 5.0
    assert Result(name="rate", unit="1/s", edge_ws=10.0, edge3=2.0, more_is_better=True).ratio == 5.0
    assert Result(name="alone", unit="ms", edge_ws=2.0).ratio is None


_CHATTY = """
import asyncio, os
from tests.bench.control import obey

async def add(a, b):
    print("a log line of a library")
    os.system("echo and one of a child")
    return a + b

print("a line of an import")
asyncio.run(obey({"add": add}))
"""


def test_what_a_program_says_besides_is_no_answer(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with Program([sys.executable, "-c", _CHATTY], environment, log) as program:
        assert [program.ask("add", a=1, b=one) for one in (1, 2)] == [2, 3]
        with pytest.raises(RuntimeError, match="KeyError"):
            program.ask("no such verb")
    assert "a line of an import" in log.read_text()
    assert "and one of a child" in log.read_text()
    with pytest.raises(RuntimeError, match="the program ended"), Program(["false"], environment, log) as dead:
        dead.ask("add", a=1, b=1)
