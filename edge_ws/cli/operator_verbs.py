"""The verbs that see and change workers and jobs, as data; names and flags are edge3's (`airflow edge`).

Each runs on Airflow's database, or at a gateway's `v1/admin/` with `--url`, which takes no extra.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from edge_ws.cli.verb import Argument, Side, Verb

TOKEN_VARIABLE = "EDGE_WS_ADMIN_TOKEN"  # noqa: S105 - a variable's name


def _name(text: str) -> str:
    # As of a shell's variable that is not set.
    if not text.strip():
        raise argparse.ArgumentTypeError("name a worker")
    return text


OUTPUT = Argument(
    flags=("-o", "--output"),
    metavar="FORMAT",
    choices=("table", "json", "yaml", "plain"),
    default="table",
    help="table, json, yaml or plain (default: table)",
)
ONE_RESULT = Argument(
    flags=("-o", "--output"),
    metavar="FORMAT",
    choices=("plain", "json"),
    default="plain",
    help="plain or json (default: plain)",
)
ONE_THING = Argument(
    flags=("-o", "--output"),
    metavar="FORMAT",
    choices=("text", "json", "yaml"),
    default="text",
    help="text, json or yaml (default: text)",
)
WAY = (
    Argument(
        flags=("--url",),
        metavar="URL",
        help="ask the gateway at this Airflow URL, not the database; takes an Airflow user's token",
    ),
    Argument(
        flags=("--token-file",),
        metavar="FILE",
        help=f"with --url: the file with the token that POST /auth/token gave (default: {TOKEN_VARIABLE})",
    ),
    Argument(
        flags=("--ca-file",),
        metavar="FILE",
        help="with --url: trust the authorities in this PEM file, and no others",
    ),
    Argument(
        flags=("--allow-insecure",),
        is_switch=True,
        help="with --url: let a plain http URL lead to another machine",
    ),
)
_WORKER = Argument(
    flags=("-H", "--edge-hostname"),
    metavar="WORKER",
    required=True,
    type=_name,
    is_list=True,
    is_once=True,
    help="the worker's name, or several; with * and ? many, which asks first",
)
_SOME_WORKERS = replace(_WORKER, is_list=False, help="the worker's name; with * and ? many")
_YES = Argument(flags=("-y", "--yes"), is_switch=True, help="do not ask first")
_WAIT = (
    Argument(flags=("-w", "--wait"), is_switch=True, help="wait until it is applied, and tell the time"),
    Argument(
        flags=("--wait-timeout",),
        metavar="SECONDS",
        type=float,
        help="give up waiting after this time, with exit code 1; it stays wished (default: 30)",
    ),
)
_COMMENT = Argument(flags=("-c", "--comments"), metavar="COMMENT", required=True, help="the reason")
_UNTIL = Argument(
    flags=("--until",),
    metavar="TIME",
    is_once=True,
    help="it ends by itself then: 18:00, the next one, or 2026-12-01T18:00; this machine's local time",
)
_FOR = Argument(
    flags=("--for",),
    metavar="TIME",
    is_once=True,
    help="it ends by itself after so long, e.g. 2h, 30m or 1d",
)
_DEADLINE = Argument(
    flags=("--deadline",),
    metavar="TIME",
    is_once=True,
    help="after so long, e.g. 30m, the tasks that still run are stopped (default: never)",
)
_SOME_QUEUES = Argument(flags=("queue",), metavar="QUEUE", is_list=True, help="the queues' names")
_NOTE = Argument(flags=("-n", "--note"), metavar="NOTE", required=True, is_once=True, help="the reason")
_QUEUES = Argument(flags=("-q", "--queues"), metavar="A,B", required=True, is_once=True, help="the queues")
_OF_QUEUES = Argument(
    flags=("-q", "--queues"), metavar="A,B", is_once=True, help="only those of one of these queues"
)
_PATTERN = Argument(
    flags=("--worker-name-pattern",), metavar="PATTERN", help="only workers of these names, e.g. 'prod-*'"
)


_LISTING = (
    Argument(
        flags=("--columns",),
        metavar="A,B",
        is_once=True,
        help="show these columns, by their names in json (default: as many as the terminal is wide)",
    ),
    Argument(flags=("--sort",), metavar="COLUMN", is_once=True, help="order the rows by this column"),
    Argument(flags=("-r", "--reverse"), is_switch=True, help="turn the order round"),
)
_LIMIT = Argument(flags=("--limit",), metavar="N", type=int, help="show no more than so many (default: all)")


def _verb(name: str, what: str, description: str, module: str, arguments: tuple[Argument, ...]) -> Verb:
    return Verb(
        name=name,
        help=what,
        description=description,
        side=Side.CENTRE,
        implementation=f"edge_ws.cli.{module}:{name.replace('-', '_')}",
        extra="server",
        works_bare="url",
        arguments=(*arguments, *WAY),
    )


def _reads(
    name: str,
    what: str,
    description: str,
    *arguments: Argument,
    output: Argument = OUTPUT,
    module: str = "operate",
) -> Verb:
    return _verb(name, what, description, module, (*arguments, output))


def _changes(
    name: str, what: str, description: str, *arguments: Argument, waits: tuple[Argument, ...] = _WAIT
) -> Verb:
    return _verb(name, what, description, "operate", (*arguments, *waits, _YES, ONE_RESULT))


def _of_queues(name: str, what: str, description: str, *arguments: Argument) -> Verb:
    return _verb(name, what, description, "queues", (*arguments, ONE_RESULT))


_LIST_WORKERS = _reads(
    "list-workers",
    "list the workers, edge-ws's and edge3's",
    "A table is as wide as the terminal, and has a summary below; json and yaml show all, an operator's "
    "wish beside what is in force.",
    Argument(
        flags=("-s", "--state"),
        metavar="STATE",
        is_list=True,
        is_once=True,
        help="only in these states, e.g. idle running",
    ),
    _PATTERN,
    _OF_QUEUES,
    *_LISTING,
    _LIMIT,
)
_SHOW_WORKER = _reads(
    "show-worker",
    "tell all that is known of a worker",
    "",
    _SOME_WORKERS,
    output=ONE_THING,
)
_LIST_QUEUES = _reads(
    "list-queues", "list the queues: what waits, what runs, who takes it", "", *_LISTING, _LIMIT
)
_LIST_JOBS = _reads(
    "list-jobs",
    "list the jobs, those that run first",
    "A job is one attempt of one task.",
    Argument(
        flags=("-s", "--state"), metavar="STATE", help="only in this state, e.g. queued, offered, running"
    ),
    Argument(flags=("-q", "--queue"), metavar="QUEUE", help="only of this queue"),
    Argument(
        flags=("-H", "--edge-hostname"),
        metavar="WORKER",
        type=_name,
        is_once=True,
        help="only of this worker",
    ),
    Argument(flags=("--dag-id",), metavar="DAG", help="only of this DAG"),
    *_LISTING,
    Argument(
        flags=("--limit",), metavar="N", type=int, default=1000, help="no more than so many (default: 1000)"
    ),
)
_SHOW_JOB = _reads(
    "show-job",
    "tell where a task's job is, and why it does not run",
    "",
    Argument(flags=("dag_id",), metavar="DAG", help="the DAG's id"),
    Argument(flags=("run_id",), metavar="RUN", help="the run's id"),
    Argument(flags=("task_id",), metavar="TASK", help="the task's id"),
    Argument(flags=("--map-index",), metavar="N", type=int, default=-1, help="of a mapped task, which one"),
    Argument(flags=("--try-number",), metavar="N", type=int, help="which try (default: the last)"),
    output=ONE_THING,
)
_EVENTS = _reads(
    "events",
    "tell what has happened to the fleet lately",
    "The newest few hundred: who connected, was refused, lost or cancelled a job, who wished what.",
    Argument(flags=("-f", "--follow"), is_switch=True, help="go on, and tell what happens from now on"),
    Argument(
        flags=("--since",),
        metavar="TIME",
        is_once=True,
        help="those of this time, e.g. 10m, 2h or 1d; or those after an event, by its id",
    ),
    Argument(
        flags=("-H", "--worker"), metavar="WORKER", is_once=True, help="of this worker; with * and ? of many"
    ),
    Argument(flags=("--kind",), metavar="KIND", is_once=True, help="of this kind, e.g. refused"),
    Argument(
        flags=("--limit",), metavar="N", type=int, default=100, help="no more than so many (default: 100)"
    ),
    module="happenings",
)
_FIGURES = _reads(
    "figures",
    "tell how the last hour was: latencies, jobs, connections",
    "Of all gateways together: the hour, then its last ten minutes; json and yaml show each minute.",
    module="happenings",
)
_SET_CONCURRENCY = _changes(
    "set-worker-concurrency",
    "change how many tasks a worker may run at once",
    "A connected worker applies it at once; what runs already is left alone. 0 pauses it. For one that is "
    "away the wish is kept.",
    _WORKER,
    Argument(flags=("-c", "--concurrency"), metavar="N", type=int, required=True, help="0 to 1024 slots"),
)
_ADD_QUEUES = _changes(
    "add-worker-queues",
    "have a worker serve these queues, too",
    "A worker that serves every queue serves only these from then on.",
    _WORKER,
    _QUEUES,
)
_REMOVE_QUEUES = _changes(
    "remove-worker-queues",
    "have a worker serve these queues no more",
    "Jobs of them that have not started go to other workers; those that run go on.",
    _WORKER,
    _QUEUES,
)
_REQUEST_MAINTENANCE = _changes(
    "remote-edge-worker-request-maintenance",
    "put a worker into maintenance: it finishes its jobs and takes no new ones",
    "It finishes what it runs. With --until or --for a gateway ends it at that time, by the database's clock,"
    " unless somebody has ended it or asked for it anew before.",
    _WORKER,
    _COMMENT,
    _UNTIL,
    _FOR,
)
_EXIT_MAINTENANCE = _changes(
    "remote-edge-worker-exit-maintenance", "end a worker's maintenance", "It takes jobs again.", _WORKER
)
_UPDATE_COMMENT = _changes(
    "remote-edge-worker-update-maintenance-comment",
    "change the comment of a worker's maintenance",
    "",
    _WORKER,
    _COMMENT,
)
_SHUTDOWN = _changes(
    "shutdown-remote-edge-worker",
    "have a worker finish what it runs, and leave",
    "With --wait until it has begun to. A second one may give another deadline.",
    _WORKER,
    _DEADLINE,
)
_SHUTDOWN_ALL = _changes(
    "shutdown-all-workers",
    "have every worker finish what it runs, and leave",
    "Asks first. With --wait until each has begun to.",
    _DEADLINE,
)
_REMOVE = _changes(
    "remove-remote-edge-worker",
    "forget a worker that is away",
    "It is there again when it connects again.",
    _WORKER,
    waits=(),
)

_PAUSE_QUEUE = _of_queues(
    "pause-queue",
    "hand out no jobs of a queue to edge-ws's workers, until it is resumed",
    "What runs goes on, and so does what was offered a moment before. Jobs wait meanwhile, and show-job says "
    "why. edge3's own workers do not know of it.",
    _SOME_QUEUES,
    _NOTE,
)
_RESUME_QUEUE = _of_queues(
    "resume-queue", "hand out the jobs of a paused queue again", "At once.", _SOME_QUEUES
)

OPERATOR_VERBS: tuple[Verb, ...] = (
    _LIST_WORKERS,
    _SHOW_WORKER,
    _LIST_QUEUES,
    _LIST_JOBS,
    _SHOW_JOB,
    _EVENTS,
    _FIGURES,
    _SET_CONCURRENCY,
    _ADD_QUEUES,
    _REMOVE_QUEUES,
    _REQUEST_MAINTENANCE,
    _EXIT_MAINTENANCE,
    _UPDATE_COMMENT,
    _SHUTDOWN,
    _SHUTDOWN_ALL,
    _REMOVE,
    _PAUSE_QUEUE,
    _RESUME_QUEUE,
)
