"""Builds argparse's parser from the verbs' data and runs one verb; turns our errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from typing import cast

from edge_ws import airflow_versions
from edge_ws.cli.output import discard, tell
from edge_ws.cli.verb import Group, Side, Verb, leaves
from edge_ws.cli.verbs import VERBS
from edge_ws.errors import EdgeWsError, MissingExtraError
from edge_ws.texts import printable

PROGRAM = "edge-ws"


class _Version(argparse.Action):
    """Does what the verb `version` does, in place of a verb."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,  # noqa: ARG002 - argparse's signature
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Print it, and end."""
        (verb,) = (one for words, one in leaves(VERBS) if words == "version")
        parser.exit(run(verb, namespace, PROGRAM))


def build(members: Sequence[Verb | Group] = VERBS) -> argparse.ArgumentParser:
    """Return the parser; what it parses carries the chosen `Verb` as `verb`."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] [--version] VERB ...",
        description=_overview(members),
        epilog=f"Each verb explains itself: {PROGRAM} VERB --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="as the verb: print the version")
    verbs = parser.add_subparsers(prog=PROGRAM, metavar="VERB", required=True, help=argparse.SUPPRESS)
    for member in members:
        # Without a `help` argparse does not list it: the description shows the verbs by side.
        _fill(verbs.add_parser(member.name, description=_description(member), allow_abbrev=False), member)
    return parser


def _overview(members: Sequence[Verb | Group]) -> str:
    found = list(leaves(members))
    wide = max(len(words) for words, _ in found)
    lines = ["Run Airflow's tasks on machines far from the data centre, pushed over one WebSocket."]
    for side in Side:
        lines += ["", f"{side.value}:"]
        lines += [f"  {words:<{wide}}  {verb.help}" for words, verb in found if verb.side is side]
    return "\n".join(lines)


def _description(member: Verb | Group) -> str:
    return (member.description or member.help) if isinstance(member, Verb) else member.help


def _fill(parser: argparse.ArgumentParser, member: Verb | Group) -> None:
    # No parser takes abbreviations: `--token SECRET` would pass for `--token-file`, and a flag added later
    # would break those that were unique before.
    if isinstance(member, Group):
        verbs = parser.add_subparsers(metavar="VERB", required=True)
        for verb in member.members:
            one = verbs.add_parser(
                verb.name, help=verb.help, description=_description(verb), allow_abbrev=False
            )
            _fill(one, verb)
        return
    for argument in member.arguments:
        parser.add_argument(*argument.flags, **argument.options())
    parser.set_defaults(verb=member)


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""

# A module that each extra brings, and the distribution to name when it is not there.
_BROUGHT: Mapping[str, tuple[tuple[str, str], ...]] = {
    "worker": (("airflow.sdk", "apache-airflow-task-sdk"),),
    "server": (("airflow.settings", "apache-airflow"), ("alembic", "alembic"), ("sqlalchemy", "sqlalchemy")),
}


def run(verb: Verb, arguments: argparse.Namespace, program: str) -> int:
    """Run the verb and return the exit code; an expected fault is one sentence on stderr."""
    try:
        # An empty --url is wrong, not absent.
        if verb.extra and getattr(arguments, verb.works_bare or "", None) in {None, False}:
            require(verb.extra)
        module, _, function = verb.implementation.partition(":")
        code = cast("int", getattr(importlib.import_module(module), function)(arguments))
        # There is no stdout where somebody has closed it (`>&-`): who has something to tell, says so.
        if sys.stdout is not None:
            tell("", end="")
    except EdgeWsError as error:
        print(printable(f"{program}: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left (`| head`).
        discard()
        return 1
    return code


def require(extra: str) -> None:
    """Make sure that an extra is installed, without importing what it brings.

    Raises:
        MissingExtraError: it is not.
        UnsupportedAirflowError: it has come with an Airflow that we do not work with.
    """
    for module, distribution in _BROUGHT[extra]:
        if not _is_installed(module):
            raise MissingExtraError(extra, distribution)
    # A worker starts all the same: its job host says why it takes no jobs, and what runs there ends.
    if extra == "server":
        airflow_versions.require()


def _is_installed(module: str) -> bool:
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    for index in range(len(rest)):
        if spec is None:
            return False
        # importlib.util.find_spec would import the parent: seconds, for Airflow.
        spec = PathFinder.find_spec(f"{top}.{'.'.join(rest[: index + 1])}", spec.submodule_search_locations)
    return spec is not None
