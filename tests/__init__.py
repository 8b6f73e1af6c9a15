"""The tests; they mirror `edge_ws/`."""
