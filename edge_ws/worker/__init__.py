"""The remote side: the light daemon. Imports no Airflow, SQLAlchemy, Starlette or pydantic."""
