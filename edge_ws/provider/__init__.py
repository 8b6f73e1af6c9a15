"""Airflow's side of the house: the only part (with the job host's runner) that knows Airflow."""
