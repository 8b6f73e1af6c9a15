"""The README says what is there: its commands parse, and its tables and paths agree with the code."""

from __future__ import annotations

import re
import shlex

import pytest

from edge_ws import errors
from edge_ws.cli.parsers import build
from edge_ws.cli.run import INTERRUPTED
from edge_ws.cli.verb import Side, Verb, leaves
from edge_ws.cli.verbs import VERBS
from edge_ws.provider.info import OPTIONS
from edge_ws.server.admin import OPERATIONS
from edge_ws.worker.settings import SETTINGS, Kind
from tests.support.programs import PACKAGE

ROOT = PACKAGE.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
_COMMAND = re.compile(r"(?:\S*/)?(airflow edge-ws|edge-ws) (?!demo:)(.*)")


def _section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _table(section: str, head: str) -> list[list[str]]:
    lines = section[section.index(f"| {head}") :].split("\n\n", maxsplit=1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _commands() -> list[tuple[str, str]]:
    blocks = [line.strip() for line in README.splitlines() if line.startswith("    ")]
    quoted = re.findall(r"`([^`]+)`", _section("Verbs"))
    found = [match.groups() for line in [*blocks, *quoted] if (match := _COMMAND.fullmatch(line))]
    return [(program, words) for program, words in found if words != "..."]


def test_there_are_commands() -> None:
    programs = [program for program, _ in _commands()]
    assert programs.count("edge-ws") >= 9
    assert programs.count("airflow edge-ws") >= 1


@pytest.mark.parametrize(("program", "words"), _commands())
def test_a_command_parses(program: str, words: str) -> None:
    words = words.partition(" > ")[0].replace(" N ", " 12 ")
    parsed = build().parse_args(shlex.split(words, comments=True))
    verb: Verb = parsed.verb
    assert program == "edge-ws" or verb.side is Side.CENTRE or verb.is_passed_on


def test_every_verb_is_there() -> None:
    quoted = re.findall(
        r"`edge-ws ([^`]+)`", "\n".join(row[0] for row in _table(_section("Verbs"), "command"))
    )
    told = {next(words for words, _ in leaves(VERBS) if line.startswith(words)) for line in quoted}
    assert told == {words for words, _ in leaves(VERBS)}


def test_the_requests_of_operators() -> None:
    told = {
        name: (row[0].split()[0], set(re.findall(r"`([a-z_]+)`", row[1])))
        for row in _table(_section("Live control"), "request")
        for name in re.findall(r"`([^`]+)`", row[0])
    }
    wanted = {
        name: (
            "POST" if one.changes else "GET",
            set(one.parameters) - ({"yes"} if "worker" in one.parameters else set()),
        )
        for name, one in OPERATIONS.items()
    }
    assert told == wanted


def test_exit_codes() -> None:
    told = {int(row[0]) for row in _table(_section("Verbs"), "exit code")}
    tree = {errors.EdgeWsError.exit_code} | {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and hasattr(kind, "exit_code")
    }
    assert told == {0, INTERRUPTED, *tree}


def test_the_workers_settings() -> None:
    rows = {row[0]: row[1] for row in _table(_section("Settings"), "flag")}
    wanted = {
        " ".join(f"`{word}`" for word in (one.short, one.flag, one.key) if word): one for one in SETTINGS
    }
    assert set(rows) == set(wanted)
    for names, setting in wanted.items():
        told = re.search(r"\(default: ([^);]*)\)", setting.help)
        if told and setting.kind is not Kind.PATH and setting.field not in {"name", "queues"}:
            assert rows[names] == told[1]


def test_the_centres_options() -> None:
    rows = {row[0].strip("`"): row[1] for row in _table(_section("Settings"), "option")}
    assert rows == {name: option.default for name, option in OPTIONS.items()}


def test_the_map() -> None:
    lines = [line.split()[0] for line in _section("The map").splitlines() if line.startswith("    ")]
    assert len(lines) == 12
    packages = {f"edge_ws/{init.parent.name}/" for init in PACKAGE.glob("*/__init__.py")}
    assert packages == {line for line in lines if line.startswith("edge_ws/")}
    assert all((ROOT / line).is_dir() for line in lines)


def test_the_life_of_a_job_names_modules_that_exist() -> None:
    section = _section("The life of one job")
    assert [line[0] for line in section.splitlines() if line[:1].isdigit()] == list("12345678")
    modules = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", section)
    assert len(modules) > 12
    assert [module for module in modules if not (PACKAGE / module).is_file()] == []


def test_links_and_targets_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?:^    |`)make ([a-z]+)", README, re.MULTILINE)) <= targets


def test_lines_are_readable() -> None:
    assert [line for line in README.splitlines() if len(line) > 130] == []
