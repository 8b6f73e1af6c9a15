"""What tasks leave and how they hang together: XComs, logs, mapping, setup and teardown, trigger rules, pools."""

import decimal
import logging
import subprocess
import sys
import warnings
from datetime import UTC, date, datetime, timedelta

from airflow.sdk import dag, get_current_context, setup, task, teardown
from parity_notes import noting

VALUES = {
    "none": None,
    "true": True,
    "int": 2**60,
    "float": 0.1,
    "str": "plain",
    "unicode": "Größe 文字 🐙 \u202e",
    "empty": "",
    "list": [1, "two", [3.0, None]],
    "dict": {"a": {"b": [1, 2]}, "ß": 1},
    "tuple": (1, "two"),
    "set": {7},
    "datetime": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    "date": date(2026, 1, 2),
    "timedelta": timedelta(days=1, seconds=2),
    "decimal": decimal.Decimal("1.10"),
    "megabyte": "x" * 2**20,
}


@dag(schedule=None)
def values():
    @task
    def gives():
        ti = get_current_context()["ti"]
        for name, value in VALUES.items():
            ti.xcom_push(key=name, value=value)
        return VALUES["unicode"]

    @task
    def takes():
        ti = get_current_context()["ti"]
        for name in [*VALUES, "return_value"]:
            found = ti.xcom_pull(task_ids="gives", key=name)
            print(name, type(found).__name__, repr(found)[:100])

    @task
    def gives_what_the_database_refuses():
        return "\x00"

    @task
    def prints(found):
        print(found)

    @task(multiple_outputs=True)
    def several():
        return {"one": 1, "two": [2]}

    @task
    def pushes_and_pulls():
        ti = get_current_context()["ti"]
        ti.xcom_push(key="a key with spaces/and ünicode", value={"n": 1})
        print(ti.xcom_pull(task_ids="pushes_and_pulls", key="a key with spaces/and ünicode"))
        print(ti.xcom_pull(task_ids="nobody"))

    @task
    def gives_what_cannot_be_sent():
        return object()

    @task(do_xcom_push=False)
    def gives_nothing():
        return 1

    gives() >> takes()
    gives_what_the_database_refuses()
    prints(several()["two"])
    pushes_and_pulls()
    gives_what_cannot_be_sent()
    gives_nothing()


@dag(schedule=None)
def logs():
    @task
    def of_each_kind():
        log = logging.getLogger("my.logger")
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(log, level)("a line of level %s", level)
        log.info("Größe 文字 🐙 \x1b[31mred\x1b[0m tab\there \x00 nul")
        log.info("two\nlines")
        log.info("")
        print("to stdout")
        print("to stderr", file=sys.stderr)
        print("{'looks': 'like a dict'}")
        print('{"event": "looks like a log line", "level": "error"}')
        warnings.warn("a warning", stacklevel=1)
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            log.exception("an exception that was caught")
        subprocess.run(["/bin/sh", "-c", "echo from a child; echo and its stderr >&2"], check=True)
        sys.stdout.buffer.write(b"not utf-8: \xff\xfe\n")
        sys.stdout.write("no newline at the end")

    @task
    def long_lines():
        for length in (1_000, 65_536, 65_537, 300_000):
            print("x" * length)

    @task
    def many_lines():
        for number in range(20_000):
            print("line", number)

    @task
    def says_nothing():
        pass

    of_each_kind()
    long_lines()
    many_lines()
    says_nothing()


@dag(schedule=None)
def shapes():
    @setup
    def builds():
        print("built")

    @teardown
    def clears_away():
        print("cleared away")

    @task(on_failure_callback=noting("on_failure"))
    def fails():
        raise RuntimeError("the press is jammed")

    @task
    def numbers():
        return [1, 2, 3]

    @task(map_index_template="{{ number }} squared")
    def squares(number):
        get_current_context()["number"] = number
        if number == 2:
            raise ValueError("no two")
        return number * number

    @task(trigger_rule="all_done")
    def sums(found):
        print("sum", sum(found))
        return sum(found)

    @task.branch
    def chooses():
        return ["left"]

    @task
    def left():
        print("left")

    @task
    def right():
        print("right")

    @task(trigger_rule="none_failed_min_one_success")
    def after_the_branch():
        print("joined")

    @task.short_circuit
    def stops():
        return False

    @task
    def never():
        print("never")

    @task(trigger_rule="one_failed")
    def if_one_failed():
        print("one failed")

    @task(trigger_rule="all_failed")
    def if_all_failed():
        print("all failed")

    @task(trigger_rule="none_skipped")
    def if_none_skipped():
        print("none skipped")

    @task(pool="parity_pool", pool_slots=2)
    def in_a_pool(number):
        print("in the pool", number)

    with builds() >> clears_away():
        broken = fails()
    sums(squares.expand(number=numbers()))
    choice = chooses()
    choice >> [left(), right()] >> after_the_branch()
    stops() >> never()
    broken >> [if_one_failed(), if_all_failed(), if_none_skipped()]
    in_a_pool.expand(number=[1, 2, 3])


values()
logs()
shapes()
