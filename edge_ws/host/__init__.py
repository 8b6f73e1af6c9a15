"""The job host: pre-loads Airflow once, forks a process per job and outlives the daemon that started it."""
