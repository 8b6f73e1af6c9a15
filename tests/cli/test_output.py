"""Rows in each form."""

from __future__ import annotations

import json

import pytest
import yaml

from edge_ws.cli.output import Row, render, render_one, show
from edge_ws.errors import EdgeWsError

ROWS: list[Row] = [
    {"name": "press-2", "queues": ["a", "b"], "team": None, "slots": 8, "applied": True},
    {"name": "größe: #1", "queues": None, "team": "red", "slots": None, "applied": False},
]
ABSENT = {"queues": "all"}


def test_table() -> None:
    assert render(ROWS, "table", ABSENT).splitlines() == [
        "name      | queues | team | slots | applied",
        "==========+========+======+=======+========",
        "press-2   | a,b    | -    | 8     | yes",
        "größe: #1 | all    | red  | -     | no",
    ]


def test_plain_has_no_frame() -> None:
    assert render(ROWS, "plain", ABSENT).splitlines() == [
        "name       queues  team  slots  applied",
        "press-2    a,b     -     8      yes",
        "größe: #1  all     red   -      no",
    ]


def test_json_keeps_types() -> None:
    assert json.loads(render(ROWS, "json", ABSENT)) == ROWS


def test_yaml_is_yaml() -> None:
    assert yaml.safe_load(render(ROWS, "yaml", ABSENT)) == ROWS
    assert "größe: #1" in render(ROWS, "yaml", ABSENT)


@pytest.mark.parametrize(
    "text",
    ["🤖", "a\nb\tc\x00", "\x7f\x85\xa0", "\u2028\u2029\ufeff\ufffe", "\U000e0001", '"\\ ', "ä", "\ud83e"],
)
def test_yaml_is_read_back_as_it_was(text: str) -> None:
    row = {"text": text, "texts": [text], "by": {text: text}}
    assert yaml.safe_load(render([row], "yaml", {})) == [row]
    told = render_one(row, "yaml")
    assert yaml.safe_load(told) == row
    assert all(one.isprintable() for one in told.replace("\n", ""))


def test_what_is_not_printable_is_a_blank() -> None:
    nasty = "x\rw2 | running \x1b[2J\u202e"
    for row in ({"a": nasty}, {"a": [nasty]}, {"a": {nasty: nasty}}, {"a": [{"b": nasty}]}):
        for told in (render([row], "table", {}), render_one(row, "text")):
            assert "x w2 | running  [2J" in told or "\\r" in told
            assert all(one.isprintable() for one in told.replace("\n", ""))


@pytest.mark.parametrize(("form", "text"), [("table", ""), ("plain", ""), ("json", "[]"), ("yaml", "[]")])
def test_no_rows(form: str, text: str) -> None:
    assert render([], form, ABSENT) == text


def test_where_there_are_no_rows_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"a": 1}], "plain", {}, "nothing")
    show([], "json", {}, "there is nothing")
    show([], "table", {}, "there is nothing")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("a\n1\n[]\n", "there is nothing\n" * 2)


def test_where_stdout_is_closed_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(EdgeWsError, match="standard output is closed"):
        show(ROWS, "table", {}, "nothing")


def test_one_row_as_text_json_and_yaml() -> None:
    row = {
        "name": "w",
        "absent": None,
        "none": [],
        "queues": ["a", "b"],
        "is_on": False,
        "of": {"x": 1, "long": "y"},
    }
    row |= {"jobs": [{"id": 1, "state": "running"}, {"id": 22, "state": "queued"}]}
    assert render_one(row, "text").splitlines() == [
        "name    w",
        "queues  a,b",
        "is_on   no",
        "of",
        "  x     1",
        "  long  y",
        "jobs",
        "  id  state",
        "  1   running",
        "  22  queued",
    ]
    assert json.loads(render_one(row, "json")) == row
    assert render_one(row, "yaml").splitlines()[:3] == ['name: "w"', "absent: null", "none: []"]
    assert render_one({}, "text") == ""
