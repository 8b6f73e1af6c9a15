"""The gateway: a Starlette app that holds the workers' connections. Knows no Airflow and no SQL."""
