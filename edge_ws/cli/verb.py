"""What a verb is, as data: its name, its arguments, what implements it, where it runs and what it needs.

Builds nothing and runs nothing: `main` makes argparse's parser of it, `airflow` Airflow's commands.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Side(Enum):
    """Where a verb runs; the value heads its verbs in `--help`."""

    REMOTE = "on a remote host"
    CENTRE = "in the data centre, on Airflow's database (also: airflow edge-ws ...)"
    ANYWHERE = "anywhere"


class Once(argparse.Action):
    """Takes a value, but no second one: the first would be lost without a word."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's signature
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Set the value."""
        if getattr(namespace, self.dest, None) is not self.default:
            raise argparse.ArgumentError(self, "give it once: only the last one would count")
        setattr(namespace, self.dest, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument, in the terms that argparse and Airflow's `Arg` share."""

    flags: tuple[str, ...]
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    default: object = None
    required: bool = False
    is_switch: bool = False
    is_list: bool = False
    """One value or more after the flag."""
    type: Callable[[str], object] | None = None
    is_once: bool = False
    """To give it twice is a mistake."""

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of `add_argument`."""
        if self.is_switch:
            return {"help": self.help, "action": "store_true"}
        told: dict[str, Any] = {"help": self.help}
        if self.flags[0].startswith("-"):
            told |= {"default": self.default, "required": self.required}
        for name in ("metavar", "choices", "type"):
            if getattr(self, name) is not None:
                told[name] = getattr(self, name)
        if self.is_once:
            told["action"] = Once
        if self.is_list:
            told["nargs"] = "+"
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb. `implementation` is `module:function`, takes the parsed arguments, returns the exit code."""

    name: str
    help: str
    description: str = ""
    side: Side
    implementation: str
    arguments: tuple[Argument, ...] = ()
    extra: str | None = None
    """The extra of the package that it needs."""
    is_passed_on: bool = False
    """`airflow edge-ws NAME` turns into `edge-ws NAME`, a process without Airflow."""
    works_bare: str | None = None
    """A switch with which it needs no extra."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Verbs under a common first word."""

    name: str
    help: str
    members: tuple[Verb, ...]


def leaves(members: Sequence[Verb | Group]) -> Iterator[tuple[str, Verb]]:
    """Yield each verb with all its words."""
    for member in members:
        if isinstance(member, Verb):
            yield member.name, member
        else:
            for verb in member.members:
                yield f"{member.name} {verb.name}", verb
