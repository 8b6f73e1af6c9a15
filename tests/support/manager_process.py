"""Airflow's database managers in a process that starts Airflow once: `python -m tests.support.manager_process`.

Each line that it reads is a call, which a fork carries out: it has that call's environment and database, and
leaves nothing behind. Knows nothing of the tests.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from typing import Any

from airflow import settings

_MANAGERS = {
    "edge3": ("airflow.providers.edge3.models.db", "EdgeDBManager"),
    "ours": ("edge_ws.provider.db_manager", "EdgeWsDBManager"),
}


def main() -> None:
    """Take calls until stdin ends; answer each with a line: its exit code and what it has said."""
    for line in sys.stdin:
        with tempfile.TemporaryFile() as said:
            child = os.fork()
            if child == 0:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                os._exit(_carried_out(json.loads(line)))
            _, status = os.waitpid(child, 0)
            said.seek(0)
            answer = {"code": os.waitstatus_to_exitcode(status), "said": said.read().decode(errors="replace")}
        print(json.dumps(answer), flush=True)


def _carried_out(call: dict[str, Any]) -> int:
    """Carry a call out in this process; return its exit code."""
    code = 1
    try:
        os.environ.update(call["environment"])
        os.chdir(os.environ["AIRFLOW_HOME"])
        settings.dispose_orm(do_log=False)
        settings.configure_vars()
        settings.configure_orm()
        for step in call["steps"]:
            _do(step)
        code = 0
    except BaseException:  # noqa: BLE001 - this process ends here, whatever it was
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _do(step: str) -> None:
    who, verb, *rest = step.split(" ")
    if who == "core":
        from airflow.utils import db

        getattr(db, verb)(*[int(word) for word in rest])
        return
    module, name = _MANAGERS[who]
    manager = getattr(importlib.import_module(module), name)(settings.Session())
    if verb == "create_all":
        manager.metadata.create_all(settings.engine)
    elif verb == "files":
        manager.initdb(use_migration_files=True)
    elif verb in {"upgrade", "downgrade"}:
        from alembic import command

        getattr(command, verb)(manager.get_alembic_config(), *rest)
    elif verb == "must_be_done":
        assert manager.check_migration(), step
    elif verb == "must_not_be_done":
        assert not manager.check_migration(), step
    elif verb == "must_declare":
        assert sorted(manager.metadata.tables) == rest
    else:
        getattr(manager, verb)()
    manager.session.commit()
    settings.Session.remove()


if __name__ == "__main__":
    main()
