"""The only SQL: tables, records and the verbs on them. Synchronous; knows no Airflow and no network."""
