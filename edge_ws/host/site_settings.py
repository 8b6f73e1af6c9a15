"""The site's own Airflow settings, and those of the centre that hold where the site has none.

The centre's are given to Airflow as environment variables, at which it looks whenever it reads a setting.
Imports no Airflow: its configuration is handed in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from configparser import RawConfigParser
from typing import Any

_NAME = re.compile(r"([a-z][a-z0-9_.]*)\.([a-z][a-z0-9_]*)")
"""`section.option`."""


def take_from_centre(conf: Any, settings: Mapping[str, str]) -> None:  # noqa: ANN401 - Airflow's own
    """Set what the site has not set, for this process and what it starts: `section.option` -> text."""
    for name, value in settings.items():
        found = _NAME.fullmatch(name)
        if found is not None and not is_set_here(conf, found[1], found[2]):
            os.environ[variable(found[1], found[2])] = value


def is_set_here(conf: Any, section: str, option: str) -> bool:  # noqa: ANN401
    """Tell whether the site has set it, in the environment or its airflow.cfg, by this or an older name.

    An airflow.cfg that Airflow has written itself holds every option with its default: nobody has set that.
    """
    names = [(section, option)]
    while names[-1] in conf.deprecated_options:
        names.append(conf.deprecated_options[names[-1]][:2])
    return any(_is_written(conf, *name) for name in names)


def variable(section: str, option: str) -> str:
    """Return the name of Airflow's environment variable for it."""
    return f"AIRFLOW__{section.replace('.', '_').upper()}__{option.upper()}"


def _is_written(conf: Any, section: str, option: str) -> bool:  # noqa: ANN401
    defaults = [conf.get_default_value(section, option, raw=raw) for raw in (True, False)]
    for form in ("", "_cmd", "_secret"):
        # The parser's own `has_option` also knows Airflow's defaults; the base class's only the user's file.
        in_file = RawConfigParser.has_option(conf, section, option + form)
        if in_file and RawConfigParser.get(conf, section, option + form, raw=True) not in defaults:
            return True
        if variable(section, option) + form.upper() in os.environ:
            return True
    return False
