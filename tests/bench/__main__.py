"""`python -m tests.bench`: measures, prints a table, writes `build/bench.json`.

The machine should do nothing else: what it does all the same is printed beside each number.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.bench.control import REPOSITORY, raise_file_limit
from tests.bench.plans import FULL, QUICK
from tests.bench.report import Result, table, write_json
from tests.bench.rows import ROWS
from tests.bench.site import Bench
from tests.bench.stand import Edge3, Stand
from tests.support.services import bundled_postgres

RESULTS = REPOSITORY / "build" / "bench.json"
WATCHED_S = 2.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds")
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--no-edge3", action="store_true", help="measure edge-ws alone")
    parser.add_argument("--no-edge-ws", action="store_true", help="measure edge3 alone")
    parser.add_argument("--keep", action="store_true", help="leave the logs in their folder")
    default = REPOSITORY / ".venv-edge3" / "bin" / "python"
    parser.add_argument(
        "--edge3-python", type=Path, default=default, help="interpreter where edge3 is installed"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _describe_machine() -> None:
    busy = psutil.cpu_percent(WATCHED_S)
    memory = psutil.virtual_memory()
    load = " ".join(f"{one:.2f}" for one in os.getloadavg())
    _say(
        f"machine: {psutil.cpu_count()} cores, {memory.total / 2**30:.0f} GiB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}; before: {busy:.0f} % busy, load {load}"
    )
    _say(
        "edge-ws: one gateway process, uvicorn + uvloop + websockets-sansio, real store; task states and logs "
        "are in memory; tokens plain, in `drain` Airflow's own. edge3: airflow api-server, one process, poll "
        "5 s, heartbeat 30 s, its own client"
    )


def main() -> int:
    arguments = _arguments()
    raise_file_limit()
    systems = tuple(
        name
        for name, left_out in (("edge_ws", arguments.no_edge_ws), ("edge3", arguments.no_edge3))
        if not left_out
    )
    if "edge3" in systems and not arguments.edge3_python.exists():
        print(
            f"edge3 is not installed: {arguments.edge3_python} is missing (make bench installs it)",
            file=sys.stderr,
        )
        return 2
    # As Ctrl-C: what was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _describe_machine()
    folder = Path(tempfile.mkdtemp(prefix="edge-ws-bench-"))
    stand = Stand(folder, bundled_postgres(), Edge3(python=arguments.edge3_python.absolute()))
    bench = Bench(stand=stand, plan=QUICK if arguments.quick else FULL, say=_say, systems=systems)
    results: list[Result] = []
    failed = []
    try:
        for name in arguments.only or ROWS:
            try:
                results += ROWS[name](bench)
            except (RuntimeError, AssertionError) as error:
                # The other rows are worth their minutes all the same.
                failed.append(name)
                _say(f"{name} FAILED: {error}")
            write_json(results, arguments.output)
    finally:
        stand.close()
        if arguments.keep:
            _say(f"logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{table(results)}\n\nwritten to {arguments.output}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
