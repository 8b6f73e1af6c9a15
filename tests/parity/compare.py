"""What two executors made of the same run, as plain facts, and how the facts differ. No I/O.

A run is seen as sequences of lines by place: its state, each task's tries, each attempt's log by channel, each
XCom, the audit log, what callbacks noted. Whatever must differ between two runs of one DAG (moments, ids, names
of hosts and folders) is normalised before; what is left is compared line by line.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Facts = Mapping[str, Sequence[str]]
"""Place -> what was seen there, in order. A place that is not there has seen nothing."""

_MANY = 3000
"""Differing parts longer than this are compared without regard to order: difflib needs the square of it."""
_SHOWN = 1000
"""Characters of a line that are shown."""


class Difference(NamedTuple):
    """One line that only one side has: '-' only the reference (LocalExecutor), '+' only edge-ws."""

    place: str
    side: str
    line: str

    def __str__(self) -> str:
        return f"{self.place}: {self.side} {self.line[:_SHOWN]}"


def differences(reference: Facts, seen: Facts) -> list[Difference]:
    """Return what differs, by place."""
    return [
        Difference(place, side, line)
        for place in sorted({*reference, *seen})
        for side, line in _lines(reference.get(place, ()), seen.get(place, ()))
    ]


def _lines(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[str, str]]:
    left, right = _without_common_ends(left, right)
    if len(left) > _MANY or len(right) > _MANY:
        yield from (("-", line) for line in (Counter(left) - Counter(right)).elements())
        yield from (("+", line) for line in (Counter(right) - Counter(left)).elements())
        return
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for what, left_from, left_to, right_from, right_to in matcher.get_opcodes():
        if what != "equal":
            yield from (("-", line) for line in left[left_from:left_to])
            yield from (("+", line) for line in right[right_from:right_to])


def _without_common_ends(left: Sequence[str], right: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    shorter = min(len(left), len(right))
    begin = next((index for index in range(shorter) if left[index] != right[index]), shorter)
    left, right = left[begin:], right[begin:]
    shorter -= begin
    end = next((index for index in range(shorter) if left[-1 - index] != right[-1 - index]), shorter)
    return left[: len(left) - end], right[: len(right) - end]


@dataclass(frozen=True)
class Known:
    """A difference that is meant to be, with the reason."""

    place: str
    line: str
    reason: str
    side: str = "[-+]"
    """Each a regular expression: of the whole place, of a part of the line, of the side."""

    def covers(self, one: Difference) -> bool:
        return bool(
            re.fullmatch(self.place, one.place)
            and re.fullmatch(self.side, one.side)
            and re.search(self.line, one.line)
        )


class Verdict(NamedTuple):
    """Which differences are known, by reason, and which are not."""

    known: Counter[str]
    unknown: list[Difference]


def judge(found: Sequence[Difference], known: Sequence[Known]) -> Verdict:
    """Sort differences into known and unknown ones."""
    reasons: Counter[str] = Counter()
    unknown = []
    for one in found:
        reason = next((rule.reason for rule in known if rule.covers(one)), None)
        if reason is None:
            unknown.append(one)
        else:
            reasons[reason] += 1
    return Verdict(reasons, unknown)


# What differs between any two runs of one DAG, and what it becomes. The order counts.
_VARIABLES = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"eyJ[\w-]+\.[\w-]+\.[\w-]+", "<token>"),
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),
        (r"datetime\.datetime\(\d{4}(, \d+)+(?=[,)])", "datetime.datetime(<moment>"),
        (r"DateTime\(\d{4}(, \d+)+(?=[,)])", "DateTime(<moment>"),
        (r"(?<![^\W_])\d{4}-\d\d-\d\d[T _]\d\d:?\d\d(:?\d\d([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?", "<moment>"),
        (r"\b(manual|scheduled|asset_triggered)__<moment>\w*", r"\1__<moment>"),
        (r"\b\d{8}T\d{6}(\.\d+)?\b", "<moment>"),
        (r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun) \w{3} +\d+ \d\d:\d\d:\d\d\b( \w+ \d{4})?( \d{4})?", "<moment>"),
        (r"\b\d\d:\d\d:\d\d(\.\d+)?\b", "<time>"),
        (r"\b0x[0-9a-f]{6,}\b", "<address>"),
        (r"\b(pids?|process|task_pid|PID)(\"?[:=] ?| )\(?\d+\b", r"\1\2<pid>"),
        (
            r"\b(\w*duration|elapsed|took|runtime|uptime)(_s|_sec|_seconds)?(\"?[:=] ?| )\d+(\.\d+)?(e-?\d+)?",
            r"\1\2\3<duration>",
        ),
        (r'\b(\w+_ms)("?[:=] ?)\d+(\.\d+)?', r"\1\2<duration>"),
        (r"\b\d+\.\d+ ?(s|sec|seconds)\b", "<duration>"),
        (r"\b\d+ seconds remaining\b", "<duration> remaining"),
        (r"(?<=when you look for ID )\w+", "<error>"),
        (r"\(ID \d+\)", "(ID <trigger>)"),
        (r"\b00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\b", "<traceparent>"),
        (r"\b(/private)?/(var/)?tmp/(?!\w*[a-z]{3,}\w*(?:\.|\b))[\w.-]+", "<temporary>"),
        (r"\bairflowtmp\w+", "<temporary>"),
        (r"(?<=/tmp/)(venv|tmp)\w+", "<temporary>"),
        (r"\b(localhost|127\.0\.0\.1):\d+", "<address>"),
    )
]


class Normaliser:
    """Takes out of a text what differs between any two runs; `names` are literal, say this run's id."""

    def __init__(self, names: Mapping[str, str]) -> None:
        # Longer ones first: one may be a part of another.
        self._names = sorted(names.items(), key=lambda pair: -len(pair[0]))

    def __call__(self, text: str) -> str:
        for name, stands_for in self._names:
            text = text.replace(name, stands_for)
        for pattern, replacement in _VARIABLES:
            text = pattern.sub(replacement, text)
        return text


def channel(event: Mapping[str, Any]) -> str:
    """Return the stream that a log line came by: only within one is the order of lines certain.

    The task's own loggers, its stdout and stderr, and its supervisor reach the log file by different ways; the
    triggerer writes a file of its own, which Airflow merges with it.
    """
    if event.get("filename") == "triggerer_job_runner.py":
        return "triggerer"
    logger = str(event.get("logger") or "")
    if logger in {"task.stdout", "task.stderr"}:
        return logger.removeprefix("task.")
    if logger in {"supervisor", "task"} or logger.startswith("airflow.sdk.execution_time.supervisor"):
        return "supervisor"
    return "log"


def log_facts(content: Sequence[Mapping[str, Any]], normalise: Normaliser) -> dict[str, list[str]]:
    """Return the lines of one attempt's log by channel, as the API gave them."""
    found: dict[str, list[str]] = {}
    for event in content:
        if event.get("event") in _TICKS:
            continue
        rest = {name: value for name, value in event.items() if name not in _NAMED}
        if "sources" in rest:
            # Where the API found them differs; from how many places is a fact.
            rest["sources"] = len(rest["sources"])
        text = f"{event.get('level') or '-'} {event.get('logger') or '-'} {_text(event.get('event'))}"
        if rest:
            text += f" {_text(rest)}"
        found.setdefault(channel(event), []).append(normalise(text))
    return found


_NAMED = {"timestamp", "level", "logger", "event"}
_TICKS = {"sleeping 1 second..."}
"""What a trigger says once a second: how often is only how long it took."""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def name_of(task: Mapping[str, Any]) -> str:
    """Return a task's name in places."""
    return f"{task['task_id']}[{task['map_index']}]" if task["map_index"] >= 0 else str(task["task_id"])


def task_facts(tries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each try's end, and what the last one was."""
    return [
        f"try {one['try_number']}: {one['state']} of {one['operator']}"
        for one in sorted(tries, key=lambda one: one["try_number"])
    ]


def audit_facts(events: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the states that each task went through, and the operators' acts, from Airflow's audit log."""
    found: dict[str, list[str]] = {}
    for event in events:
        task = event.get("task_id")
        if task is not None:
            index = event.get("map_index")
            name = name_of({"task_id": task, "map_index": -1 if index is None else index})
            found.setdefault(f"{name} history", []).append(
                f"{event['event']} of try {event.get('try_number')}"
            )
    return found
