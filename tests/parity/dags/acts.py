"""Tasks that an operator stops; what they do when they are told to."""

import time

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import BaseOperator, dag, get_current_context, task
from parity_notes import note, noting

CALLBACKS = {
    "on_success_callback": noting("on_success"),
    "on_failure_callback": noting("on_failure"),
    "on_retry_callback": noting("on_retry"),
    "on_skipped_callback": noting("on_skipped"),
}


def _last():
    # In small steps: who is told to stop runs on until killed, as Python tasks do.
    for _ in range(3000):
        time.sleep(0.1)


class Holds(BaseOperator):
    """Takes some seconds to stop what it has started elsewhere."""

    def __init__(self, hold_s=0, **words):
        super().__init__(**words)
        self.hold_s = hold_s

    def execute(self, context):
        self.ti = context["ti"]
        note(self.ti, "begun")
        if self.ti.try_number == 1:
            _last()

    def on_kill(self):
        note(self.ti, "on_kill begins")
        time.sleep(self.hold_s)
        note(self.ti, "on_kill ends")


class Traps(BashOperator):
    """A command that takes a second to clean up."""

    def execute(self, context):
        note(context["ti"], "begun")
        return super().execute(context)

    def on_kill(self):
        print("on_kill of bash", flush=True)
        super().on_kill()


@dag(schedule=None, default_args=CALLBACKS)
def acts():
    @task
    def plain():
        ti = get_current_context()["ti"]
        note(ti, "begun")
        if ti.try_number == 1:
            _last()

    Holds(task_id="holds_0")
    Holds(task_id="holds_2", hold_s=2)
    Traps(
        task_id="traps",
        # It waits without a process of its own: of one that SIGTERM ends, bash would tell, in most cases.
        bash_command="""
{% if ti.try_number == 1 %}
trap 'sleep 1; echo cleaned; exit 143' TERM
exec 3<> <(:)
for i in $(seq 3000); do read -t 0.1 -u 3; done
{% endif %}
""",
    )
    plain()


acts()
