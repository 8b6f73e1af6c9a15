"""The gateway's settings, frozen; whoever composes a gateway fills them from its own source."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_ws.protocol.frames import Timers


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What a gateway needs to know besides its store and its ports."""

    hostname: str
    """Shown to operators."""
    timers: Timers = field(default_factory=Timers)
    """Sent to every worker in `welcome`."""
    execution_api_url: str | None = None
    """Sent to every worker; None: `<url>/execution/`, which the worker knows."""
    versions: dict[str, str] = field(default_factory=dict)
    """Sent to every worker and shown by `/health`."""
    task_settings: dict[str, str] = field(default_factory=dict)
    """Sent to every worker for its tasks: `section.option` -> text."""
    token_life_s: float = 60.0
    """Life of a task token minted at `go`."""
    token_leeway_s: float = 10.0
    """Airflow's `[api_auth] jwt_leeway`: for so long it takes an expired token."""
    send_deadline_s: float = 5.0
    """A worker that takes no bytes for so long is cut off."""
    backup_scan_s: float = 15.0
    """Dispatch looks at the database at least this often, woken or not."""
    move_lease_s: float = 60.0
    """For so long one gateway alone moves a log; then it counts as dead and another begins again."""
    upload_lease_s: float = 600.0
    """The same for sending it to the remote store, which gives no sign of life."""
    keep_ended_s: float = 300.0
    """Ended and reported rows are deleted after this (edge3: 5 minutes)."""
    keep_offline_workers_s: float = 30 * 86_400.0
    """A worker that was not seen for so long is forgotten; 0: none is."""
    job_log_limit: int = 256 * 1024 * 1024
    """Bytes of one job's log that are kept, its begin and its end; 0: all."""
    worker_log_limit: int = 1024 * 1024 * 1024
    """The same of the logs of a worker's jobs that are in the database; over it, each that grows is cut."""
    log_table_limit: int = 8 * 1024 * 1024 * 1024
    """The same of all logs there; over it, those of the workers with the most."""
