"""`edge-ws completion`: a script with which a shell completes verbs, flags and their choices.

It is made of the verbs' data, and needs nothing but the shell when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from edge_ws.cli.main import PROGRAM
from edge_ws.cli.output import tell
from edge_ws.cli.verb import Argument, Group, Verb, leaves
from edge_ws.cli.verbs import VERBS

_HEAD = """\
_edge_ws() {
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" verb="${COMP_WORDS[1]}"
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "%(verbs)s" -- "$cur"))
        return
    fi
    case "$verb" in
%(groups)s
    esac
    case "$verb" in
%(cases)s
    esac
}
complete -o default -F _edge_ws %(program)s
"""
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def run(arguments: argparse.Namespace) -> int:
    """Print the script for the shell."""
    tell((_ZSH if arguments.shell == "zsh" else "") + script(), end="")
    return 0


def script() -> str:
    """Return the script, for bash and for what takes bash's completion."""
    return _HEAD % {
        "verbs": " ".join(one.name for one in VERBS),
        "groups": "\n".join(_group(one) for one in VERBS if isinstance(one, Group)) or "        *) ;;",
        "cases": "\n".join(_case(words, verb) for words, verb in leaves(VERBS)),
        "program": PROGRAM,
    }


def _group(group: Group) -> str:
    names = " ".join(one.name for one in group.members)
    return (
        f"        {group.name})\n"
        '            if [ "$COMP_CWORD" -eq 2 ]; then\n'
        f'                COMPREPLY=($(compgen -W "{names}" -- "$cur"))\n'
        "                return\n"
        "            fi\n"
        '            verb="$verb ${COMP_WORDS[2]}" ;;'
    )


def _case(words: str, verb: Verb) -> str:
    inner = "\n".join(f"                {line}" for line in _values(verb))
    after = f'            case "$prev" in\n{inner}\n            esac\n' if inner else ""
    return f'        "{words}")\n{after}            COMPREPLY=($(compgen -W "{_next(verb)}" -- "$cur")) ;;'


def _values(verb: Verb) -> Iterator[str]:
    """Yield what may follow a flag: one of its choices, or what only the user knows."""
    free: list[str] = []
    for argument in verb.arguments:
        if not argument.flags[0].startswith("-") or argument.is_switch:
            continue
        if argument.choices is None:
            free += argument.flags
            continue
        flags = "|".join(argument.flags)
        yield f'{flags}) COMPREPLY=($(compgen -W "{" ".join(argument.choices)}" -- "$cur")); return ;;'
    if free:
        # Files, by -o default: some of these are.
        yield f"{'|'.join(free)}) return ;;"


def _next(verb: Verb) -> str:
    words: list[str] = []
    for argument in verb.arguments:
        words += argument.flags if _is_flag(argument) else (argument.choices or ())
    return " ".join([*words, "--help"])


def _is_flag(argument: Argument) -> bool:
    return argument.flags[0].startswith("-")
