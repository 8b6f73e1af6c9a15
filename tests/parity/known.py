"""The differences between LocalExecutor and edge-ws that are meant to be, each with its reason."""

from __future__ import annotations

from tests.parity.compare import Known

KNOWN = [
    Known(
        "traps try 2 supervisor",
        r"^info task Pushing xcom .* max_tries=[01], ",
        "Airflow 3.3 loses the further tries of a task that was cleared as it ran, when LocalExecutor sends its"
        " callback: that closes the scheduler's session. edge-ws's executor leaves it open",
    ),
]
