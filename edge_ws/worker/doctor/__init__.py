"""`edge-ws doctor`: looks at everything that a worker needs, one thing at a time, and disturbs nothing."""
