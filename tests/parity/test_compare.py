"""The comparison finds what differs, and nothing else."""

from __future__ import annotations

import random

import pytest

from tests.parity.compare import (
    Difference,
    Known,
    Normaliser,
    audit_facts,
    channel,
    differences,
    judge,
    log_facts,
    task_facts,
)
from tests.parity.known import KNOWN

SAME = Normaliser({})
LOG = [
    {"event": "begun", "level": "info", "logger": "task"},
    {"event": "on_kill begins", "level": "info", "logger": "task.stdout"},
    {"event": "on_kill ends", "level": "info", "logger": "task.stdout"},
]


def seen(*events: dict) -> dict[str, list[str]]:
    return log_facts(events, SAME)


def test_equal_runs_do_not_differ() -> None:
    assert differences(seen(*LOG), seen(*LOG)) == []


def test_a_missing_log_line_is_found() -> None:
    assert differences(seen(*LOG), seen(*LOG[:2])) == [
        Difference("stdout", "-", "info task.stdout on_kill ends")
    ]


def test_an_attempt_whose_whole_log_is_missing_is_found() -> None:
    assert len(differences(seen(*LOG), {})) == len(LOG)


def test_a_doubled_on_kill_is_found() -> None:
    found = differences(seen(*LOG), seen(*LOG, *LOG[1:]))
    assert [one.side for one in found] == ["+", "+"]
    assert {one.line.split()[-1] for one in found} == {"begins", "ends"}


def test_lines_in_another_order_are_found() -> None:
    assert {one.side for one in differences(seen(*LOG), seen(LOG[0], LOG[2], LOG[1]))} == {"-", "+"}


def test_another_level_of_the_same_line_is_found() -> None:
    other = {**LOG[1], "level": "critical"}
    assert len(differences(seen(LOG[1]), seen(other))) == 2


def test_another_field_of_the_same_line_is_found() -> None:
    assert differences(seen({**LOG[0], "exit_code": -9}), seen({**LOG[0], "exit_code": 0}))


def test_a_log_found_in_two_places_is_found() -> None:
    once, twice = ({"event": "::group::", "sources": ["a"] * count} for count in (1, 2))
    assert differences(seen(once), seen(twice))


def test_lines_of_different_channels_may_come_in_any_order() -> None:
    task, out = LOG[0], LOG[1]
    trigger = {"event": "trigger completed", "filename": "triggerer_job_runner.py"}
    assert len({channel(task), channel(out), channel(trigger)}) == 3
    assert differences(seen(task, out, trigger), seen(trigger, out, task)) == []


def test_one_lost_line_of_many_is_found_and_quickly() -> None:
    lines = [str(number) for number in range(50_000)]
    found = differences({"a": lines}, {"a": lines[:20_000] + lines[20_001:]})
    assert found == [Difference("a", "-", "20000")]


def test_many_lost_and_changed_lines_are_found_without_comparing_each_with_each() -> None:
    lines = [str(number) for number in range(20_000)]
    changed = [line + "!" if int(line) % 2 else line for line in lines]
    found = differences({"a": lines}, {"a": changed})
    assert len(found) == 20_000


@pytest.mark.parametrize("seed", range(20))
def test_whatever_line_is_taken_out_or_doubled_is_what_is_found(seed: int) -> None:
    draw = random.Random(seed)
    lines = [str(draw.randrange(10)) for _ in range(draw.randrange(1, 60))]
    at = draw.randrange(len(lines))
    less, more = lines[:at] + lines[at + 1 :], [*lines[:at], lines[at], *lines[at:]]
    assert differences({"a": lines}, {"a": less}) == [Difference("a", "-", lines[at])]
    assert differences({"a": lines}, {"a": more}) == [Difference("a", "+", lines[at])]


def attempt(number: int, state: str) -> dict:
    return {"try_number": number, "state": state, "operator": "BashOperator"}


def test_another_order_of_states_is_found() -> None:
    def history(*states: str) -> dict[str, list[str]]:
        return audit_facts(
            [{"task_id": "a", "map_index": -1, "event": one, "try_number": 1} for one in states]
        )

    assert differences(history("running", "success"), history("running", "success")) == []
    assert differences(history("running", "success"), history("success", "running"))
    # A task that starts twice within one try.
    assert differences(history("running", "success"), history("running", "running", "success"))


def test_another_end_of_the_same_try_and_a_further_try_are_found() -> None:
    one = task_facts([attempt(1, "failed")])
    assert differences({"t": one}, {"t": task_facts([attempt(1, "success")])})
    assert differences({"t": one}, {"t": task_facts([attempt(1, "failed"), attempt(2, "success")])})
    assert task_facts([attempt(2, "success"), attempt(1, "failed")])[0].startswith("try 1: failed")


def test_mapped_tasks_are_kept_apart() -> None:
    events = [{"task_id": "a", "map_index": index, "event": "running", "try_number": 1} for index in (0, 1)]
    assert set(audit_facts(events)) == {"a[0] history", "a[1] history"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("began 2026-11-30T07:31:12.123456Z", "began 2026-11-30T07:31:13Z"),
        ("of manual__2026-11-30T07:31:12.9+00:00", "of manual__2026-11-30T07:31:13.1+00:00_aB3x"),
        ("at 2026-11-30 07:31:12+00:00", "at 2027-01-01 00:00:00.5+00:00"),
        (
            "DateTime(2026, 11, 30, 7, 1, 2, 333, tzinfo=Timezone('UTC'))",
            "DateTime(2027, 1, 3, 7, 1, 2, tzinfo=Timezone('UTC'))",
        ),
        ('{"pid": 17, "exit_code": 0}', '{"pid": 3300, "exit_code": 0}'),
        ("Sending SIGTERM to process 17", "Sending SIGTERM to process 1817"),
        ("id 01a1ffa7-1579-75c6-bdc2-8433b5a57793", "id 01a1ffa7-1579-75c6-bdc2-8433b5a57794"),
        ("<function f at 0x7f1122334455>", "<function f at 0x7fff22334455>"),
        ('{"dag_file_parse_ms": 12, "lineno": 3}', '{"dag_file_parse_ms": 0.7, "lineno": 3}'),
        ("trigger a/b/-1/1 (ID 4) starting", "trigger a/b/-1/1 (ID 17) starting"),
        (f"'traceparent': '00-{'a1' * 16}-{'b2' * 8}-01'", f"'traceparent': '00-{'c3' * 16}-{'d4' * 8}-00'"),
        ('{"duration": 0.12, "final_state": "success"}', '{"duration": 10.7, "final_state": "success"}'),
        ("running in /tmp/airflowtmpab12_x", "running in /tmp/airflowtmpzz9"),
        ("http://localhost:8080/dags", "http://localhost:31234/dags"),
        ("Mon Nov 30 07:31:12 UTC 2026", "Tue Dec  1 17:31:12 UTC 2026"),
    ],
)
def test_what_differs_between_any_two_runs_is_taken_out(one: str, other: str) -> None:
    assert SAME(one) == SAME(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("exit_code=0", "exit_code=7"),
        ("got 20", "got 21"),
        ("try_number=1", "try_number=2"),
        ("signal 15", "signal 9"),
        ('{"final_state": "success"}', '{"final_state": "failed"}'),
        ("/opt/data/one", "/opt/data/two"),
        ("page 12", "page 13"),
    ],
)
def test_what_a_task_says_stays(one: str, other: str) -> None:
    assert SAME(one) != SAME(other)


def test_names_are_replaced_the_longest_first() -> None:
    normalise = Normaliser({"edge": "HOST", "edge__a": "RUN"})
    assert normalise("run edge__a on edge") == "run RUN on HOST"


def test_a_known_difference_is_counted_by_its_reason_and_others_stay() -> None:
    rule = Known(r".* log", "banner", "a banner", side=r"\+")
    found = [
        Difference("t log", "+", "the banner"),
        Difference("t log", "-", "the banner"),
        Difference("t stdout", "+", "the banner"),
        Difference("t log", "+", "another"),
    ]
    verdict = judge(found, [rule])
    assert verdict.known == {"a banner": 1}
    assert verdict.unknown == found[1:]


def test_no_known_difference_covers_a_loss() -> None:
    """States, tries, XComs, callbacks and whole lines of a task are never excused."""
    for place in ("run", "t tries", "t history", "t xcom return_value", "t try 1 noted", "t try 1 stdout"):
        for side in "-+":
            found = [Difference(place, side, line) for line in ("failed", "try 1: success", "on_kill", "")]
            assert judge(found, KNOWN).unknown == found


def test_each_known_difference_has_a_reason_and_is_narrow() -> None:
    for rule in KNOWN:
        assert len(rule.reason.split()) >= 4
        for line in ("", "info task.stdout hello", "error task Task failed with exception"):
            assert not any(rule.covers(Difference("t try 1 supervisor", side, line)) for side in "-+")
