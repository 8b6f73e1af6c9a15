"""What runs on after a task has reported its end: callbacks and listeners that outlast a heartbeat."""

from datetime import timedelta

from airflow.sdk import dag, get_current_context, task
from parity_notes import noting

LONGER_THAN_A_HEARTBEAT_S = 12
AT_ONCE = timedelta(seconds=0)


@dag(schedule=None)
def slow_callbacks():
    @task(on_success_callback=noting("on_success", LONGER_THAN_A_HEARTBEAT_S))
    def succeeds():
        print("done")

    @task(on_failure_callback=noting("on_failure", LONGER_THAN_A_HEARTBEAT_S))
    def fails():
        raise RuntimeError("the press is jammed")

    @task(retries=1, retry_delay=AT_ONCE, on_retry_callback=noting("on_retry", LONGER_THAN_A_HEARTBEAT_S))
    def is_retried():
        if get_current_context()["ti"].try_number == 1:
            raise RuntimeError("not yet")

    succeeds()
    fails()
    is_retried()


@dag(schedule=None, max_active_tasks=64)
def retried():
    """Fifty attempts that are retried, with callbacks that end before, about and after a heartbeat."""

    def called(context):
        noting("on_retry", 1.5 * (context["ti"].map_index % 6))(context)

    @task(retries=1, retry_delay=AT_ONCE, on_retry_callback=called, max_active_tis_per_dag=64)
    def works(number):
        if get_current_context()["ti"].try_number == 1:
            raise RuntimeError(f"not yet: {number}")

    works.expand(number=list(range(50)))


@dag(schedule=None)
def listened():
    @task
    def succeeds():
        print("done")

    @task
    def fails():
        raise RuntimeError("the press is jammed")

    @task(retries=1, retry_delay=AT_ONCE)
    def is_retried():
        if get_current_context()["ti"].try_number == 1:
            raise RuntimeError("not yet")

    succeeds()
    fails()
    is_retried()


slow_callbacks()
retried()
listened()
