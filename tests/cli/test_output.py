"""Rows in each form."""

from __future__ import annotations

import json

import pytest
import yaml

from edge_ws.cli.output import Row, render

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


@pytest.mark.parametrize(("form", "text"), [("table", ""), ("plain", ""), ("json", "[]"), ("yaml", "[]")])
def test_no_rows(form: str, text: str) -> None:
    assert render([], form, ABSENT) == text
