"""Which Airflow the tests run with."""

from __future__ import annotations

import pytest

from edge_ws import airflow_versions

RELEASE = tuple(int(part) for part in str(airflow_versions.installed()).split(".")[:2])

from_3_4_on = pytest.mark.skipif(RELEASE < (3, 4), reason="Airflow has it from 3.4 on")
before_3_4 = pytest.mark.skipif(RELEASE >= (3, 4), reason="Airflow had it before 3.4")
