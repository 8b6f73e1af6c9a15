"""Every verb, as data; see `verb` for what one is."""

from __future__ import annotations

from edge_ws.cli.centre_verbs import CENTRE_VERBS
from edge_ws.cli.host_verbs import HOST_VERBS
from edge_ws.cli.verb import Argument, Group, Side, Verb

_DEMO = Verb(
    name="demo",
    help="show the whole path on this machine: Airflow, a worker, a DAG run",
    side=Side.ANYWHERE,
    implementation="edge_ws.demo:main",
    extra="server",
    arguments=(
        Argument(
            flags=("-o", "--output"),
            metavar="FORMAT",
            choices=("text", "json"),
            default="text",
            help="text, or json: one line of JSON at the end (default: text)",
        ),
        Argument(flags=("--keep",), is_switch=True, help="leave all running at the end, until Ctrl-C"),
    ),
)

_VERSION = Verb(
    name="version",
    help="print the version",
    side=Side.ANYWHERE,
    implementation="edge_ws.cli.version:run",
)

_COMPLETION = Verb(
    name="completion",
    help="print a script with which the shell completes verbs and flags",
    description='For bash, in ~/.bashrc: eval "$(edge-ws completion bash)"; for zsh the same in ~/.zshrc.',
    side=Side.ANYWHERE,
    implementation="edge_ws.cli.completion:run",
    arguments=(Argument(flags=("shell",), metavar="bash|zsh", choices=("bash", "zsh"), help="bash or zsh"),),
)

VERBS: tuple[Verb | Group, ...] = (
    *HOST_VERBS,
    *CENTRE_VERBS,
    _DEMO,
    _COMPLETION,
    _VERSION,
)
