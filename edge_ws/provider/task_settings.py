"""The few settings of the centre that make a task behave or speak as it does there.

Each is read while a task runs, so that a job host that has loaded Airflow already can be told. Left out are
secrets; what is the site's own business (where logs, metrics and traces go, users, certificates, bundles);
what needs code or files that a site may not have (XCom, state and mail backends, mail templates); and what
Airflow reads but once, as it is loaded (`[operators] default_deferrable`, the defaults of tasks in `[core]`).
"""

from __future__ import annotations

from typing import Any, Protocol

TASK_SETTINGS = (
    # Links to runs, tasks and logs, for people: in logs, mails, callbacks, notifiers and HITL.
    ("api", "base_url"),
    # Whether what a run was triggered with counts.
    ("core", "dag_run_conf_overrides_params"),
    # Which classes an XCom may be of, and what is shown of a templated field.
    ("core", "allowed_deserialization_classes"),
    ("core", "allowed_deserialization_classes_regexp"),
    ("core", "max_templated_field_length"),
    # Over which connection and from whom mails about tasks are sent.
    ("email", "email_conn_id"),
    ("email", "from_email"),
    # How long a sensor that does not say so itself waits.
    ("sensors", "default_timeout"),
    # For how long and how much a task may keep between its runs.
    ("state_store", "default_retention_days"),
    ("state_store", "max_value_storage_bytes"),
    ("state_store", "clear_on_success"),
    # Which triggerers take a deferred task: else none of them might.
    ("triggerer", "queues_enabled"),
)


class Conf(Protocol):
    """The part of Airflow's configuration object that is used here."""

    def get(self, section: str, key: str, *, fallback: str | None) -> str | None:
        """Return the option's text."""
        ...

    def get_default_value(self, section: str, key: str) -> Any:  # noqa: ANN401 - Airflow's own
        """Return what it is where nobody has set it."""
        ...


def task_settings(conf: Conf) -> dict[str, str]:
    """Return `section.option` -> text of those that are set at the centre, but not to the default."""
    found = {}
    for section, option in TASK_SETTINGS:
        value = conf.get(section, option, fallback=None)
        default = conf.get_default_value(section, option)
        if value is not None and value != default:
            found[f"{section}.{option}"] = value
    return found
