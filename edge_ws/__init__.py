"""edge-ws: a WebSocket push executor for Apache Airflow. Importing it has no effect."""

__version__ = "0.1.0"
