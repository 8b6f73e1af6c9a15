"""argparse's parser for `edge-ws`, made of the verbs' data. Runs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edge_ws.cli.verb import Group, Side, Verb, leaves
from edge_ws.cli.verbs import VERBS

PROGRAM = "edge-ws"


def build(members: Sequence[Verb | Group] = VERBS) -> argparse.ArgumentParser:
    """Return the parser; what it parses carries the chosen `Verb` as `verb`."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] VERB ...",
        description=_overview(members),
        epilog=f"Each verb explains itself: {PROGRAM} VERB --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
