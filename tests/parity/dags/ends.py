"""Each way in which an attempt ends, the processes' own deaths among them."""

import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta

import airflow
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseOperator, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowException
from parity_notes import NOTES, note, noting

try:
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
except ImportError:
    from airflow.exceptions import AirflowFailException, AirflowSkipException

AT_ONCE = timedelta(seconds=0)
FAR_S = 15
"""Until a task is queued again. If LocalExecutor sees only then that the round before has ended (its supervisor may
linger for a heartbeat), Airflow takes that for the end of the new round, and fails the task: "state mismatch"."""
CALLBACKS = {
    "on_execute_callback": noting("on_execute"),
    "on_success_callback": noting("on_success"),
    "on_failure_callback": noting("on_failure"),
    "on_retry_callback": noting("on_retry"),
    "on_skipped_callback": noting("on_skipped"),
}
RETRIES_OF_A_DEAD_TASK = 0 if airflow.__version__ == "3.4.0b2" else 1
"""There such a retry ends the scheduler, whatever the executor, if a callback of any task that has died is sent
before it in the same round: to send it closes the scheduler's session, and an attempt that is in none cannot be put
aside (DatabaseCallbackSink.send, TaskInstance.archive). edge-ws's executor sends it otherwise, LocalExecutor does not."""


@dag(schedule=None, default_args=CALLBACKS)
def ends():
    @task
    def succeeds():
        print("all is well")

    @task
    def fails():
        raise RuntimeError("the press is jammed")

    @task
    def fails_with_a_cause():
        try:
            int("the cause")
        except ValueError as error:
            raise AirflowException("the effect") from error

    @task(retries=2, retry_delay=AT_ONCE)
    def succeeds_at_the_second_try():
        if get_current_context()["ti"].try_number == 1:
            raise RuntimeError("not yet")

    @task(retries=2, retry_delay=AT_ONCE)
    def fails_for_good():
        raise AirflowFailException("no retry helps")

    @task
    def skips():
        raise AirflowSkipException("nothing to do")

    @task(execution_timeout=timedelta(seconds=2))
    def lasts_too_long():
        for _ in range(600):
            time.sleep(0.1)

    @task
    def leaves_by_sys_exit():
        sys.exit(3)

    @task
    def leaves_by_os_exit():
        print("leaving", flush=True)
        os._exit(7)

    @task
    def leaves_by_os_exit_0():
        os._exit(0)

    @task(retries=RETRIES_OF_A_DEAD_TASK, retry_delay=AT_ONCE)
    def is_killed():
        if get_current_context()["ti"].try_number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    @task
    def segfaults():
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)

    @task
    def gets_a_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        print("and goes on")

    class Killable(BaseOperator):
        def execute(self, context):
            self.context = context
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

        def on_kill(self):
            note(self.context["ti"], "on_kill")

    class Defers(BaseOperator):
        def execute(self, context):
            note(context["ti"], "before the deferral")
            moment = datetime.now(UTC) + timedelta(seconds=FAR_S)
            self.defer(trigger=DateTimeTrigger(moment=moment), method_name="resume")

        def resume(self, context, event=None):
            note(context["ti"], "after the deferral")

    class DefersTooLong(BaseOperator):
        def execute(self, context):
            moment = datetime.now(UTC) + timedelta(hours=1)
            self.defer(
                trigger=DateTimeTrigger(moment=moment), method_name="resume", timeout=timedelta(seconds=FAR_S)
            )

        def resume(self, context, event=None):
            note(context["ti"], "never")

    def poke():
        ti = get_current_context()["ti"]
        marker = NOTES / f"poked {ti.run_id}"
        count = int(marker.read_text()) if marker.exists() else 0
        marker.write_text(str(count + 1))
        note(ti, f"poke {count}")
        return count >= 2

    def never():
        return False

    succeeds()
    fails()
    fails_with_a_cause()
    succeeds_at_the_second_try()
    fails_for_good()
    skips()
    lasts_too_long()
    leaves_by_sys_exit()
    leaves_by_os_exit()
    leaves_by_os_exit_0()
    is_killed()
    segfaults()
    gets_a_sigterm()
    Killable(task_id="is_killable")
    Defers(task_id="defers")
    DefersTooLong(task_id="defers_too_long")
    PythonSensor(task_id="reschedules", python_callable=poke, mode="reschedule", poke_interval=FAR_S)
    PythonSensor(
        task_id="gives_up",
        python_callable=never,
        mode="reschedule",
        # Longer than a busy machine needs for the first look, and well before the second one: at either edge one
        # executor alone would look once more.
        poke_interval=3 * FAR_S,
        timeout=2 * FAR_S,
    )
    PythonSensor(task_id="gives_up_softly", python_callable=never, poke_interval=1, timeout=2, soft_fail=True)
    BashOperator(task_id="bash_fails", bash_command="echo out; echo err >&2; exit 4")
    BashOperator(task_id="bash_skips", bash_command="exit 99")
    BashOperator(
        task_id="bash_lasts_too_long",
        bash_command="for i in $(seq 600); do sleep 0.1; done",
        execution_timeout=timedelta(seconds=2),
    )
    BashOperator(task_id="template_is_wrong", bash_command="{{ no_such_name.part }}")


ends()
