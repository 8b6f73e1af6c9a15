"""`python -m edge_ws.cli`: the same as `edge-ws`, for where the script is not on the path."""

from __future__ import annotations

import sys

from edge_ws.cli import main

if __name__ == "__main__":
    sys.exit(main())
