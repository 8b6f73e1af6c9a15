"""Identifiers that travel on the wire, each a `str` with a type of its own, and which names are well formed.

Rules compare identifiers for equality only (never for order).
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from typing import NewType
from urllib.parse import urlsplit

ClaimId = NewType("ClaimId", str)
"""One attempt of one job on one worker: a random UUID made by the gateway, and the fence."""
SiteId = NewType("SiteId", str)
"""One state directory of a worker: a random UUID made when the directory is first used."""
HostId = NewType("HostId", str)
"""One life of a job host: a random UUID made at its start."""
LifeId = NewType("LifeId", str)
"""One life of a worker's daemon: a random UUID made at its start."""
GatewayId = NewType("GatewayId", str)
"""One life of a gateway process."""
WorkerName = NewType("WorkerName", str)
"""The daemon on the far host, as operators call it; at most 64 characters (edge3's column)."""

PROTOCOL = 1
"""The protocol this release speaks."""
OLDEST_PROTOCOL = 1
"""The oldest one it still understands (N-1 from the second on)."""
CONTROL = "control"
"""The capability of a side that knows maintenance and shutdown (in `Wish` and `Inventory`)."""
OUTCOMES = "outcomes"
"""The capability of a gateway that mints tokens for the outcomes that claims owe."""
RENEWAL = "renewal"
"""The capability of a gateway that takes another token over the open connection (`Renew`)."""
DEADLINE = "deadline"
"""The capability of a worker that keeps the deadline of a shutdown (in `Wish`)."""
HINDRANCE = "no_job_host"
"""In `sysinfo`: what on its host keeps the worker from taking jobs, as a sentence; absent: nothing does."""
HINDRANCE_CODE = "no_jobs_code"
"""In `sysinfo`: the same as a stable code, such as `no_job_host` or `starting`."""
HOST = "host"
"""In `not_started.fault`: nothing of the job has reached Airflow, and another worker may do better."""
UNSURE = "unsure"
"""In `not_started.fault`: Airflow did not answer the task's start, and may have taken it for started."""
CALLBACK_DAG_ID = "ExecuteCallback"
"""The `dag_id` under which edge3 lists callbacks (edge3 models/types.py)."""
EXPIRY_TOLD_S = 14 * 86_400.0
"""Of a token that expires within so long everybody tells: the worker, lists, `check`."""
MAX_CONCURRENCY = 1024
"""Slots of one worker, at most."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}")


def new_id() -> str:
    """Return a random UUID in its canonical form."""
    return str(uuid.uuid4())


def is_worker_name(text: str) -> bool:
    """Tell whether `text` can name a worker: 1-64 of letters, digits and `._@:-`, first a letter or digit."""
    return _NAME.fullmatch(text) is not None


def is_queue_name(text: str) -> bool:
    """Tell whether `text` can name a queue: 1-256 printable characters (Airflow's column), no comma."""
    return 0 < len(text) <= 256 and text.isprintable() and "," not in text and text == text.strip()


def is_team_name(text: str) -> bool:
    """Tell whether `text` can name a team: 1-64 printable characters (edge3's column)."""
    return 0 < len(text) <= 64 and text.isprintable() and text == text.strip()


def can_be_looked_up(host: str) -> bool:
    """Tell whether that may be a host's name or address; to look others up is a UnicodeError, no OSError."""
    try:
        host.encode("idna")
        if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", host):
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def is_base_url(text: str) -> bool:
    """Tell whether it is an http or https URL that paths can be put behind; it names no user."""
    try:
        parts = urlsplit(text)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        fits = fits and can_be_looked_up(parts.hostname or "")
    except ValueError:
        return False
    return fits and parts.username is None and not parts.query and not parts.fragment
