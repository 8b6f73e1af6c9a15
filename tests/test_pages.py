"""The pages say what is there: their commands parse, and their tables, paths and links agree with the code."""

from __future__ import annotations

import re
import shlex

import pytest

from edge_ws import errors
from edge_ws.cli.main import INTERRUPTED, build
from edge_ws.cli.verb import Side, Verb, leaves
from edge_ws.cli.verbs import VERBS
from edge_ws.provider.info import OPTIONS
from edge_ws.server.admin import OPERATIONS
from edge_ws.worker.settings import SETTINGS
from tests.support import settings_page
from tests.support.programs import PACKAGE

ROOT = PACKAGE.parent
PAGES = {
    path.name: path
    for path in (
        ROOT / "README.md",
        *(
            PACKAGE / name
            for name in ("ARCHITECTURE.md", "METRICS.md", "OPERATING.md", "SETTINGS.md", "UPGRADING.md")
        ),
        PACKAGE / "server" / "ADMIN_API.md",
        ROOT / ".github" / "CONTRIBUTING.md",
        ROOT / ".github" / "SECURITY.md",
    )
}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
_COMMAND = re.compile(r"(?:\S*/)?(airflow edge-ws|edge-ws) (?!demo:)(.*)")


def _section(page: str, title: str) -> str:
    return TEXTS[page].split(f"\n## {title}\n")[1].split("\n## ")[0]


def _table(section: str, head: str) -> list[list[str]]:
    lines = section[section.index(f"| {head}") :].split("\n\n", maxsplit=1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _commands() -> list[tuple[str, str]]:
    blocks = [
        line.strip().removeprefix("$ ")
        for text in TEXTS.values()
        for line in text.splitlines()
        if line.startswith("    ")
    ]
    quoted = re.findall(r"`([^`]+)`", _section("OPERATING.md", "Verbs"))
    found = [match.groups() for line in [*blocks, *quoted] if (match := _COMMAND.fullmatch(line))]
    return [(program, words) for program, words in found if words != "..."]


def test_there_are_commands() -> None:
    programs = [program for program, _ in _commands()]
    assert programs.count("edge-ws") >= 20
    assert programs.count("airflow edge-ws") >= 8


@pytest.mark.parametrize(("program", "words"), _commands())
def test_a_command_parses(program: str, words: str) -> None:
    words = words.partition(" > ")[0].replace(" N ", " 12 ")
    parsed = build().parse_args(shlex.split(words, comments=True))
    verb: Verb = parsed.verb
    assert program == "edge-ws" or verb.side is Side.CENTRE or verb.is_passed_on


def test_every_verb_is_there() -> None:
    quoted = re.findall(
        r"`edge-ws ([^`]+)`",
        "\n".join(row[0] for row in _table(_section("OPERATING.md", "Verbs"), "command")),
    )
    told = {next(words for words, _ in leaves(VERBS) if line.startswith(words)) for line in quoted}
    assert told == {words for words, _ in leaves(VERBS)}


def test_the_requests_of_operators() -> None:
    told = {
        name: (row[0].split()[0], set(re.findall(r"`([a-z_]+)`", row[1])))
        for row in _table(_section("ADMIN_API.md", "Requests"), "request")
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
    told = {int(row[0]) for row in _table(_section("OPERATING.md", "Verbs"), "exit code")}
    tree = {errors.EdgeWsError.exit_code} | {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and hasattr(kind, "exit_code")
    }
    assert told == {0, INTERRUPTED, *tree}


def test_the_settings_are_those_of_the_code() -> None:
    """`make pages` writes them anew."""
    assert TEXTS["SETTINGS.md"] == settings_page.with_tables(TEXTS["SETTINGS.md"])
    for one in SETTINGS:
        assert f"`{one.flag}`" in TEXTS["SETTINGS.md"]
    for name in OPTIONS:
        assert f"| `{name}` |" in TEXTS["SETTINGS.md"]


def test_the_map() -> None:
    lines = [
        line.split()[0]
        for line in _section("ARCHITECTURE.md", "The map").splitlines()
        if line.startswith("    ")
    ]
    assert len(lines) == 12
    packages = {f"edge_ws/{init.parent.name}/" for init in PACKAGE.glob("*/__init__.py")}
    assert packages == {line for line in lines if line.startswith("edge_ws/")}
    assert all((ROOT / line).is_dir() for line in lines)


def test_the_modules_that_pages_name_exist() -> None:
    section = _section("ARCHITECTURE.md", "The life of one job")
    assert [line[0] for line in section.splitlines() if line[:1].isdigit()] == list("12345678")
    modules = re.findall(r"`([a-z_]+/[a-z_0-9/]+\.py)`", TEXTS["ARCHITECTURE.md"])
    assert len(modules) > 30
    missing = [one for one in modules if not (PACKAGE / one).is_file() and not (ROOT / one).is_file()]
    assert missing == []


def test_the_tests_that_security_names_exist_and_are_asked_for() -> None:
    text = TEXTS["SECURITY.md"]
    table, below = text.split("\n1. ", maxsplit=1)
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z_]+)`", below)
    assert len(named) >= 20
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name
    numbers = {int(one) for one in re.findall(r"\(([0-9]+)\)", table)}
    assert numbers == {int(one) for one in re.findall(r"^([0-9]+)\. `tests/", f"1. {below}", re.MULTILINE)}


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_targets_exist(page: str) -> None:
    folder = PAGES[page].parent
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXTS[page]) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = folder / path if path else PAGES[page]
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"(?m)^#+ (.*)$", target.read_text(encoding="utf-8"))
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?:^    |`)make ([a-z]+)", TEXTS[page], re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", TEXTS)
def test_lines_are_readable(page: str) -> None:
    lines = TEXTS[page].splitlines()
    assert [line for line in lines if len(line) > 135 and not line.startswith("|")] == []


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 200
