"""Draws the same random numbers in both runs of a task, and listens slowly to the DAG `listened`."""

import random
import time

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


class Listener:
    @hookimpl
    def on_task_instance_running(self, previous_state, task_instance):
        random.seed(f"{task_instance.dag_id} {task_instance.task_id} {task_instance.try_number}")

    @hookimpl
    def on_task_instance_success(self, previous_state, task_instance):
        self._listen(task_instance, "success")

    @hookimpl
    def on_task_instance_failed(self, previous_state, task_instance, error):
        self._listen(task_instance, "failed")

    @staticmethod
    def _listen(task_instance, what):
        if task_instance.dag_id == "listened":
            from parity_notes import note

            note(task_instance, f"listener {what} begins")
            time.sleep(7)
            note(task_instance, f"listener {what} ends")


class ParityPlugin(AirflowPlugin):
    name = "parity"
    listeners = [Listener()]
