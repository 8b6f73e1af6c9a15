"""`edge-ws status`, `stop` and `maintenance`: ask the daemon on this host, wait, and show.

What they do is the daemon's; it is asked over the socket in its state directory.
"""

from __future__ import annotations

import json
import math
import os
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_ws.cli.output import tell
from edge_ws.errors import EdgeWsError, TimedOutError, UnreachableError, UsageError
from edge_ws.faults import REPORT
from edge_ws.texts import printable
from edge_ws.worker.config import Place, find_state_dir, this_machine
from edge_ws.worker.control import Condition, ask
from edge_ws.worker.job_names import read, title
from edge_ws.worker.state import daemon_of, held_beside
from edge_ws.worker.wishes import COMMENT_LENGTH

_LOOK_S = 0.1
_NAMED = 3
"""Of many things a sentence names so many."""


def status(arguments: Namespace) -> int:
    """Tell how the worker is."""
    _show(arguments, ask(_directory(arguments), "status"))
    return 0


def maintenance(arguments: Namespace) -> int:
    """Begin or end maintenance."""
    wanted = arguments.maintenance == "on"
    comment = _comment(arguments.comments, wanted=wanted)
    wait_s, directory = _wait_s(arguments), _directory(arguments)
    condition = ask(directory, "maintenance", on=wanted, comment=comment)
    if wait_s is None:
        _show(arguments, condition)
        return 0

    def is_done() -> bool:
        nonlocal condition
        condition = ask(directory, "status")
        if condition["maintenance"]["in_force"] is not wanted:
            ended = "ended" if wanted else "begun again"
            raise EdgeWsError(f"maintenance of {condition['worker']} was {ended} meanwhile by somebody else")
        return not wanted or not _runs_tasks(condition)

    def late() -> str:
        return f"{condition['worker']} still runs tasks: {_tasks(condition)}; it stays in maintenance"

    waited_s = _wait(is_done, wait_s, late)
    _show(arguments, condition, waited_s)
    return 0


def stop(arguments: Namespace) -> int:
    """Have the worker leave."""
    wait_s, directory = _wait_s(arguments), _directory(arguments)
    before = _holder(directory)
    condition = ask(directory, "stop", now=arguments.now)
    if wait_s is None:
        _show(arguments, condition)
        return 0

    def late() -> str:
        with suppress(UnreachableError):  # just leaving
            condition.update(ask(directory, "status"))
        worker, reports = condition["worker"], len(condition["jobs"])
        if _runs_tasks(condition):
            tasks = _tasks(condition)
            how = "it leaves when they have ended, or: edge-ws stop --now"
            return f"{worker} still runs tasks: {tasks}; {how}"
        if reports:
            return (
                f"{worker} runs no task any more, and {reports} of its reports wait for the centre; it "
                "leaves when they are there, or keeps them on disk for its next start: edge-ws stop --now"
            )
        return f"{worker} has done all, and is just leaving"

    # A service manager may have started the next one already.
    waited_s = _wait(lambda: _holder(directory) != before, wait_s, late)
    if arguments.output == "json":
        tell(json.dumps({"worker": condition["worker"], "left": True, "waited_s": round(waited_s, 3)}))
    else:
        tell(f"{condition['worker']} has left after {waited_s:.1f} s")
    return 0


def _runs_tasks(condition: Condition) -> bool:
    return bool(_running(condition))


def _running(condition: Condition) -> list[dict[str, Any]]:
    """Return the jobs that have a process; the others' reports wait for the centre."""
    return [job for job in condition["jobs"] if job["phase"] not in {"ended", "not started"}]


def _tasks(condition: Condition) -> str:
    return _some([_title(job) for job in _running(condition)])


def _title(job: dict[str, Any]) -> str:
    return printable(title(read(job), job["claim"]))


def _some(names: Sequence[object]) -> str:
    more = len(names) - _NAMED
    return ", ".join(map(str, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")


def _holder(directory: Path) -> int | None:
    try:
        return daemon_of(directory)
    except OSError:
        # Gone, or `ask` will tell.
        return None


def _directory(arguments: Namespace) -> Path:
    place = find_state_dir(vars(arguments), os.environ, this_machine())
    return directory_of(place, arguments.edge_hostname)


def directory_of(place: Place, name: str | None) -> Path:
    """Return the state directory of the worker that is meant: of that name, if -H gives one.

    Raises:
        UnreachableError: no worker runs there; the sentence names those that run beside it.
        UsageError: the worker there has another name.
    """
    directory, is_default = place
    if is_default and _is_free(directory) and (others := held_beside(directory)):
        raise UnreachableError(
            f"no worker runs with the state directory {directory}; workers run here with {_some(others)}: "
            "give -H or --state-dir"
        )
    if name is not None and (found := ask(directory, "status")["worker"]) != name:
        raise UsageError(f"-H: the worker with the state directory {directory} is {found}, not {name}")
    return directory


def _is_free(directory: Path) -> bool:
    try:
        return daemon_of(directory) is None
    except FileNotFoundError:
        return True
    except OSError:
        # `ask` will tell.
        return False


def _comment(text: str | None, *, wanted: bool) -> str:
    if not wanted:
        return ""
    comment = (text or "").strip()
    if not comment:
        raise UsageError("maintenance on needs a reason: give --comments")
    if len(comment) > COMMENT_LENGTH or not comment.isprintable():
        raise UsageError(
            f"--comments: a reason is one line of printable characters, {COMMENT_LENGTH} at the most"
        )
    return comment


# Waiting


def _wait_s(arguments: Namespace) -> float | None:
    """Return how long to wait, None for not at all."""
    given: float | None = arguments.wait_timeout
    if given is None:
        return math.inf if arguments.wait else None
    if not arguments.wait:
        raise UsageError("--wait-timeout: it is of no use without --wait")
    if not 0 <= given < math.inf:
        raise UsageError(f"--wait-timeout: {given:g} is no number of seconds to wait")
    return given


def _wait(is_done: Callable[[], bool], wait_s: float, late: Callable[[], str]) -> float:
    begun = time.monotonic()
    while not is_done():
        if time.monotonic() - begun >= wait_s:
            raise TimedOutError(f"not within {wait_s:g} s: {late()}")
        time.sleep(_LOOK_S)
    return time.monotonic() - begun


# Showing


def _show(arguments: Namespace, condition: Condition, waited_s: float | None = None) -> None:
    if arguments.output == "json":
        more = {} if waited_s is None else {"waited_s": round(waited_s, 3)}
        tell(json.dumps({**condition, **more}))
        return
    rows = _rows(condition)
    if waited_s is not None:
        rows.append(("waited", f"{waited_s:.1f} s"))
    wide = max(len(name) for name, _ in rows)
    tell("\n".join(f"{name:<{wide}}  {printable(text)}" for name, text in rows))


def _rows(told: Condition) -> list[tuple[str, str]]:
    slots = told["slots"]
    in_force = f"{slots['used']} of {slots['in_force']} in use"
    process = f"{told['pid']} on {told['host']}, since {_time(told['started_at'])}"
    return [
        ("worker", f"{told['worker']}: {told['state']}"),
        ("connection", _connection(told["connection"])),
        ("line", _line(told["connection"], told["started_at"])),
        ("jobs", _jobs(told["jobs"])),
        ("slots", f"{in_force} ({_sources(slots, str)})"),
        ("queues", f"{_names(told['queues']['in_force'])} ({_sources(told['queues'], _names)})"),
        ("maintenance", _maintenance(told)),
        ("takes jobs", _takes_jobs(told)),
        *_faults(told.get("faults")),
        ("process", process),
        ("state dir", told["state_dir"]),
        ("versions", _versions(told["versions"])),
        ("centre", _centre(told["centre_versions"])),
    ]


def _faults(told: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return the row about what has gone wrong on the worker, if anything has; None: an older daemon."""
    last = told["last"] if told is not None else None
    if told is None or last is None:
        return []
    counted = f"{told['count']}; the last {_time(last['at'])}"
    advice = last.get("advice", REPORT)
    return [("faults", f"{counted}, of {last['what']}: {last['error']}, at {last['place']}; {advice}")]


def _versions(told: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in told.items()) or "unknown"


def _centre(told: dict[str, str] | None) -> str:
    return "not reached yet" if told is None else _versions(told)


def _connection(told: dict[str, Any]) -> str:
    if not told["connected"]:
        return f"none to {told['url']}: {told['reason'] or 'it is being opened'}"
    why = f", as {told['reason']}" if told["reason"] else ""
    if limit := told.get("message_limit"):
        why += f"; messages of at most {limit // 1024} KiB pass on this way"
    if told["twin"]:
        why += f"; another worker with this state directory, or a copy of it, runs on {told['twin']}"
    return f"{told['transport']} to {told['url']} since {_time(told['since'])}{why}"


def _line(told: dict[str, Any], started_at: str) -> str:
    """Return how steady the connection has been."""
    if "losses" not in told:
        return "unknown: the worker is of an older release than this command"
    losses, changes = told["losses"], told["transport_changes"]
    counted = f"{losses} connection{'' if losses == 1 else 's'} lost"
    counted += f", {changes} change{'' if changes == 1 else 's'} of transport since {_time(started_at)}"
    if told["lost_at"] is None:
        return counted
    return f"{counted}; the last loss {_time(told['lost_at'])}: {told['lost_why']}"


def _jobs(jobs: list[dict[str, Any]]) -> str:
    if not jobs:
        return "none"
    each = (f"{_title(job)} {job['phase']}{', stale' if job['stale'] else ''}" for job in jobs)
    return f"{len(jobs)}: {'; '.join(each)}"


def _sources(told: dict[str, Any], shown: Callable[[Any], str]) -> str:
    wish = "none" if told["wish"] is None else shown(told["wish"])
    return f"wish {wish}, default here {shown(told['default'])}"


def _names(names: list[str] | None) -> str:
    return "all" if names is None else ", ".join(names)


def _maintenance(condition: Condition) -> str:
    told = condition["maintenance"]
    if not told["in_force"]:
        is_heard = condition["centre_versions"] is not None
        return "off" if is_heard else "off, but the centre's wish is not known yet"
    who = "on this host" if told["asked_by"] == "host" else "at the centre"
    return f"on, asked for {who}: {told['comment'] or 'no reason given'}"


def _takes_jobs(told: Condition) -> str:
    return "yes" if told["takes_jobs"] else f"no: {told.get('why_no_jobs') or 'it has not said why'}"


def _time(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
