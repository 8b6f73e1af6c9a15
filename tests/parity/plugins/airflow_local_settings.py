"""Routes each run to the executor that its id names, so that one Airflow runs the same DAG on both."""


def task_instance_mutation_hook(task_instance, dag_run=None):
    if task_instance.run_id and task_instance.run_id.startswith("edge__"):
        task_instance.executor = "edge_ws"
