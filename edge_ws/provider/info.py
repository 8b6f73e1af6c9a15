"""What Airflow is told about the provider, and the one place where `[edge_ws]`'s options are written down.

Every `airflow` process calls this: it imports nothing of Airflow, and nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_ws import __version__

SECTION = "edge_ws"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of the section, as Airflow's configuration reference shows it."""

    description: str
    type: str
    """`string`, `boolean`, `integer` or `float`."""
    example: str | None
    default: str
    is_secret: bool = False
    """Airflow masks it, and takes it from a command or a secrets backend as well."""

    def as_info(self) -> dict[str, object]:
        """Return the option in the form of Airflow's provider schema."""
        return {
            "description": self.description,
            "version_added": "0.1.0",
            "type": self.type,
            "example": self.example,
            "default": self.default,
            **({"sensitive": True} if self.is_secret else {}),
        }


OPTIONS: dict[str, Option] = {
    "api_enabled": Option(
        description=(
            "Serve the gateway, to which workers connect, in this api-server under ``/edge-ws/``. "
            "Installing the package alone opens no endpoint."
        ),
        type="boolean",
        example="True",
        default="False",
    ),
    "page_enabled": Option(
        description=(
            "Show the operators' page in Airflow's UI although this api-server serves no gateway, because "
            "the proxy in front sends ``/edge-ws/`` to ``edge-ws server``. "
            "With ``api_enabled`` it is shown anyway."
        ),
        type="boolean",
        example="True",
        default="False",
    ),
    "queued_timeout": Option(
        description=(
            "What happens to a task that waits for a worker longer than ``[scheduler] task_queued_timeout``. "
            "``airflow``: the scheduler takes it back, tries again, and fails it after "
            "``[scheduler] num_stuck_in_queued_retries`` rounds, as with other executors. "
            "``never``: it stays queued until a worker takes it, be it for hours or days."
        ),
        type="string",
        example="never",
        default="airflow",
    ),
    "execution_api_url": Option(
        description=(
            "Address of the Execution API as the workers reach it, if it is not ``<the URL they connect to>"
            "/execution/``. Empty: that one."
        ),
        type="string",
        example="https://airflow.example.com/execution/",
        default="",
    ),
    "heartbeat_interval": Option(
        description="Seconds after which each side of a connection says something; silent for two: dead.",
        type="float",
        example=None,
        default="15",
    ),
    "offer_lease": Option(
        description="Seconds that a worker has to accept an offered job before it goes to another one.",
        type="float",
        example=None,
        default="10",
    ),
    "cancel_grace_sec": Option(
        description=(
            "Seconds between SIGTERM and SIGKILL when a task's supervisor stops it; ``airflow``: as under "
            "Airflow's own executors, 5, and from Airflow 3.4 on ``[core] killed_task_cleanup_time``."
        ),
        type="string",
        example="30",
        default="airflow",
    ),
    "keep_ended_sec": Option(
        description=(
            "Seconds for which the rows of ended jobs stay in ``edge_job`` after they were reported. "
            "The tasks' logs and states are elsewhere and not touched."
        ),
        type="float",
        example="3600",
        default="300",
    ),
    "offline_worker_retention_days": Option(
        description=(
            "Days after which a worker that no gateway has seen is forgotten, with what was wished of it; "
            "one that may still run a job is not, and edge3's workers never are. 0: none is. A worker that "
            "comes back is made known again."
        ),
        type="float",
        example="7",
        default="30",
    ),
    "job_log_limit_mib": Option(
        description=(
            "Mebibytes of one job's log that are kept: of a longer one its beginning and its last 8 MiB, "
            "with a line that says how much is left out between them. 0: all of it."
        ),
        type="float",
        example="1024",
        default="256",
    ),
    "worker_log_limit_mib": Option(
        description=(
            "Mebibytes that the logs of one worker's jobs may have in the database, where they are until "
            "their jobs have ended. Over it each that grows is cut to its first 4 MiB and its last one. "
            "0: no limit."
        ),
        type="float",
        example="4096",
        default="1024",
    ),
    "log_table_limit_mib": Option(
        description=(
            "The same for the logs of all workers; over it those are cut whose worker has more there than an "
            "equal share. 0: no limit."
        ),
        type="float",
        example="32768",
        default="8192",
    ),
    "metrics_listen": Option(
        description=(
            "Address at which the api-server's gateway answers Prometheus, ``/metrics`` and ``/healthz``: of "
            "its own, without login and TLS, so no public one. Several processes (``[api] workers``) need a "
            "range of ports. Empty: nowhere. ``edge-ws server`` has ``--metrics-listen`` instead."
        ),
        type="string",
        example="127.0.0.1:9795-9798",
        default="",
    ),
    "listen_sql_alchemy_conn": Option(
        description=(
            "URL of the metadata database past a connection pooler, for one connection of each gateway that "
            "is told of new jobs by PostgreSQL's LISTEN; PgBouncer in transaction mode lets no notification "
            "through. Empty: that connection is made like all others. Where LISTEN does not work the "
            "gateway asks the database for new jobs up to twice a second instead."
        ),
        type="string",
        example="postgresql+psycopg2://airflow:secret@db.example.com/airflow",
        default="",
        is_secret=True,
    ),
    "trusted_jwks_url": Option(
        description=(
            "URL (https) of the JSON Web Key Set of an identity provider (OpenID Connect): a worker may then "
            "show a JWT of that provider in place of a token. Tokens stay good. Empty: no JWT is taken."
        ),
        type="string",
        example="https://idp.example.com/oauth2/v1/keys",
        default="",
    ),
    "jwt_issuer": Option(
        description=(
            "What a worker's JWT must have as ``iss``. It may be empty only where ``jwt_verifier`` decides "
            "about it."
        ),
        type="string",
        example="https://idp.example.com",
        default="",
    ),
    "jwt_audience": Option(
        description=(
            "What a worker's JWT must have as ``aud``, or in it. Empty: only a JWT without ``aud`` is taken."
        ),
        type="string",
        example="edge-ws",
        default="",
    ),
    "jwt_algorithm": Option(
        description=(
            "Comma-separated signature algorithms that a worker's JWT may have, of RS256, RS384, RS512, "
            "PS256, PS384, PS512, ES256, ES384, ES512 and EdDSA."
        ),
        type="string",
        example="RS256,ES256",
        default="RS256",
    ),
    "jwt_leeway": Option(
        description=(
            "Seconds by which the clocks of the provider and a gateway may differ, 0 to 300: for so long an "
            "expired JWT is still taken."
        ),
        type="float",
        example=None,
        default="30",
    ),
    "jwt_verifier": Option(
        description=(
            "Import path of a callable that has the last word on a worker's JWT, as with edge3: it is given "
            "the verified claims (``dict``) and a context (``method``, ``worker``), and returns a mapping "
            "whose ``authorized`` is True; anything else, or an exception, refuses the worker."
        ),
        type="string",
        example="my_company.edge_auth.verify_worker_token",
        default="",
    ),
    "jwt_worker_claim": Option(
        description="The claim of a worker's JWT that says which worker it is.",
        type="string",
        example="client_id",
        default="sub",
    ),
    "jwt_worker_pattern": Option(
        description=(
            "What that claim must be: ``<worker>`` is the worker's name, ``*`` and ``?`` stand for any "
            "characters. Without ``<worker>`` whoever has such a JWT may take any name."
        ),
        type="string",
        example="system:serviceaccount:edge:<worker>",
        default="<worker>",
    ),
    "jwt_queues_claim": Option(
        description=(
            "The claim that lists the queues of which a worker may be given jobs, as an array or separated "
            "by commas; a JWT without it is refused. Empty: every queue."
        ),
        type="string",
        example="edge_queues",
        default="",
    ),
    "jwt_team_claim": Option(
        description=(
            "The claim that names the team whose jobs a worker may be given; a JWT without it is refused. "
            "Empty: every team."
        ),
        type="string",
        example="edge_team",
        default="",
    ),
}
"""Name -> option, all of the section `[edge_ws]`."""


def get_provider_info() -> dict[str, object]:
    """Return the provider's description in the form of Airflow's provider schema."""
    return {
        "package-name": "edge-ws",
        "name": "Edge WebSocket",
        "description": "Runs tasks on machines far from the data centre, pushed to them over a WebSocket.",
        "versions": [__version__],
        "executors": ["edge_ws.provider.executor.EdgeWsExecutor"],
        "cli": ["edge_ws.cli.airflow.get_commands"],
        "db-managers": ["edge_ws.provider.db_manager.EdgeWsDBManager"],
        "config": {
            SECTION: {
                "description": "edge-ws: the executor, and the gateway to which its workers connect.",
                "options": {name: option.as_info() for name, option in OPTIONS.items()},
            }
        },
    }
