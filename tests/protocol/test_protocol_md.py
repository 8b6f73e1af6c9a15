"""PROTOCOL.md says what the code does: its tables are compared with frames.py, states.py and session.py."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from enum import Enum
from pathlib import Path

import orjson
import pytest

from edge_ws.protocol import codec, frames
from edge_ws.protocol.frames import Asked, Frame, Held, Inventory, Refusal, ServerFrame, Timers, WorkerFrame
from edge_ws.protocol.ids import OLDEST_PROTOCOL, PROTOCOL, WorkerName
from edge_ws.protocol.session import FIRST_FRAME_S, SILENT_BEATS, CloseCode
from edge_ws.protocol.states import CLAIM_MOVES, CONNECTION_MOVES, Connection, Phase

SPEC = (Path(frames.__file__).parent / "PROTOCOL.md").read_text()
_WORDS: dict[object, str] = {
    frames.Count: "count",
    frames.Code: "code",
    frames.Size: "size",
    frames.Seconds: "seconds",
    frames.Interval: "interval",
    frames.Moment: "moment",
    frames.LogBytes: "bytes",
    frames.Words: "words",
    frames.Comment: "comment",
    frames.Versions: "{text: words}",
    frames.Facts: "facts",
    str: "text",
    bool: "bool",
    dict[str, str]: "{text: text}",
}


def tables(heading: str) -> list[dict[str, str]]:
    """Return the rows of the first table under a heading, code marks removed."""
    _, found, rest = SPEC.partition(f"\n{heading}\n")
    assert found, f"PROTOCOL.md has no {heading!r}"
    lines = [line for line in rest.partition("\n#")[0].splitlines() if line.startswith("|")]
    rows = [[cell.strip().replace("`", "") for cell in _cells(line)] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def _cells(line: str) -> list[str]:
    return [cell.replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def kind(hint: object) -> str:
    """Return the spec's word for a type hint."""
    if hint in _WORDS:
        return _WORDS[hint]
    if isinstance(hint, typing.NewType):
        return "name" if hint is WorkerName else "id"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (arg for arg in args if arg is not type(None))
        return f"{kind(inner)}?"
    if origin is tuple:
        return f"[{kind(args[0])}]"
    assert isinstance(hint, type), hint
    assert dataclasses.is_dataclass(hint) or issubclass(hint, Enum), hint
    return hint.__name__.lower()


def fields(cls: type) -> str:
    """Return the fields as the spec writes them."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return ", ".join(f"{field.name}: {kind(hints[field.name])}{_default(field)}" for field in _fields(cls))


def _fields(cls: type) -> tuple[dataclasses.Field[object], ...]:
    assert dataclasses.is_dataclass(cls)
    return dataclasses.fields(cls)


def _default(field: dataclasses.Field[object]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f" = {orjson.dumps(field.default_factory()).decode()}"
    return "" if field.default is dataclasses.MISSING else f" = {orjson.dumps(field.default).decode()}"


@pytest.mark.parametrize(
    ("heading", "side"),
    [("### From the worker", WorkerFrame), ("### From the server", ServerFrame)],
    ids=["worker", "server"],
)
def test_frames(heading: str, side: object) -> None:
    written = {row["type"]: row["fields"] for row in tables(heading)}
    assert written == {
        name: fields(cls) for name, cls in codec.FRAME_TYPES.items() if cls in typing.get_args(side)
    }


def test_every_frame_is_in_a_table() -> None:
    rows = tables("### From the worker") + tables("### From the server")
    assert sorted(row["type"] for row in rows) == sorted(codec.FRAME_TYPES)
    assert all(row["meaning"] and row["the sender's duty"] for row in rows)
    assert len(rows) == len(typing.get_args(Frame))


def test_objects() -> None:
    written = {row["object"]: row["fields"] for row in tables("### Objects inside frames")}
    assert written == {cls.__name__.lower(): fields(cls) for cls in (Inventory, Asked, Held, Timers)}


def test_refusals() -> None:
    assert [row["code"] for row in tables("### Refusals")] == [refusal.value for refusal in Refusal]


def test_phases() -> None:
    rows = {row["phase"]: row["next"] for row in tables("### A claim")}
    assert rows == {
        phase.value: ", ".join(then.value for then in Phase if then in moves) or "none"
        for phase, moves in CLAIM_MOVES.items()
    }


def test_connection() -> None:
    rows = {(row["state"], row["frame"]): row["next"] for row in tables("### A connection")}
    words = {"*": "any other"}
    assert rows == {
        (state.value, words.get(frame, frame)): then.value
        for state, moves in CONNECTION_MOVES.items()
        for frame, then in moves.items()
    }


@pytest.mark.parametrize("machine", ["claim", "connection"])
def test_diagrams_show_every_state_and_move(machine: str) -> None:
    found = re.search(rf"```mermaid\nstateDiagram-v2\n    %% {machine}\n(.*?)```", SPEC, re.DOTALL)
    assert found
    drawn = set(re.findall(r"(\w+) --> (\w+)", found[1]))
    if machine == "claim":
        assert drawn == {(now.value, then.value) for now, moves in CLAIM_MOVES.items() for then in moves}
    else:
        moves = {(now.value, then.value) for now in Connection for then in CONNECTION_MOVES[now].values()}
        assert drawn == {move for move in moves if move[0] != move[1]}


def test_close_codes() -> None:
    ours = {row["code"] for row in tables("### Close codes") if row["name"] != "-"}
    assert ours == {str(code.value) for code in CloseCode}
    names = {row["code"]: row["name"] for row in tables("### Close codes") if row["name"] != "-"}
    assert names == {str(code.value): code.name.lower() for code in CloseCode}


def test_limits() -> None:
    values = {row["limit"]: row["value"] for row in tables("## Limits")}
    assert values["frame"] == f"{frames.MAX_FRAME} bytes"
    assert values["depth"] == f"{frames.MAX_DEPTH} levels"
    assert values["elements"] == f"{frames.MAX_ELEMENTS}"
    assert values["log chunk"] == f"{frames.LOG_CHUNK} bytes"
    assert values["id"] == f"{frames.ID_LENGTH} characters"
    assert values["name"] == f"{frames.NAME_LENGTH} characters"
    for word, hint in (("count", frames.Count), ("code", frames.Code), ("size", frames.Size)):
        within = typing.get_args(hint)[1]
        assert values[word] == f"{within.least} to {within.most}"
    for word, hint in (
        ("seconds", frames.Seconds),
        ("interval", frames.Interval),
        ("moment", frames.Moment),
    ):
        within = typing.get_args(hint)[1]
        assert values[word] == f"{within.least:g} to {within.most:.0f} s"


def test_timers() -> None:
    values = {row["timer"]: row["default"] for row in tables("## Timers")}
    defaults = Timers()
    for field in dataclasses.fields(Timers):
        assert values[field.name] == f"{getattr(defaults, field.name):g} s"
    assert values["first frame"] == f"{FIRST_FRAME_S:g} s"
    assert values["silence"] == f"{SILENT_BEATS} x heartbeat_s"


def test_versions() -> None:
    assert f"protocol {PROTOCOL}, and understands {OLDEST_PROTOCOL} to {PROTOCOL}" in SPEC
