"""Writes the tables of edge_ws/SETTINGS.md from the code: `python -m tests.support.settings_page`."""

from __future__ import annotations

import re

from edge_ws.provider.info import OPTIONS
from edge_ws.worker.settings import SETTINGS
from tests.support.programs import PACKAGE

PAGE = PACKAGE / "SETTINGS.md"
_DEFAULT = re.compile(r" \(default: (.*)\)$")


def workers_table() -> str:
    """Return the table of the worker's settings."""
    rows = ["| flag, and name in the file | default | |", "|---|---|---|"]
    for one in SETTINGS:
        found = _DEFAULT.search(one.help)
        names = " ".join(f"`{name}`" for name in (one.short, one.flag, one.key) if name)
        rows.append(f"| {names} | {found[1] if found else ''} | {_DEFAULT.sub('', one.help)} |")
    return "\n".join(rows)


def centres_table() -> str:
    """Return the table of the options of `[edge_ws]`."""
    rows = ["| option | default | |", "|---|---|---|"]
    for name, option in OPTIONS.items():
        default = f"`{option.default}`" if option.default else ""
        rows.append(f"| `{name}` | {default} | {option.description.replace('``', '`')} |")
    return "\n".join(rows)


def with_tables(page: str) -> str:
    """Return the page with each table between its two comments as the code has it."""
    for name, table in (("worker", workers_table()), ("centre", centres_table())):
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        before, after = page[: page.index(begin)], page[page.index(end) :]
        page = f"{before}{begin}\n{table}\n{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
