"""What passes for a secret."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from edge_ws.store.secret_form import is_well_formed, new_secret
from edge_ws.store.store import Store


def test_a_new_secret_is_well_formed_and_any_slip_in_it_is_noticed() -> None:
    secret = new_secret()
    assert secret != new_secret()
    assert secret.isascii()
    assert is_well_formed(secret)
    for place in range(len(secret)):
        other = "a" if secret[place] != "a" else "b"
        assert not is_well_formed(secret[:place] + other + secret[place + 1 :])
    assert not is_well_formed(secret[:-1])
    assert not is_well_formed(secret + "a")


def test_the_check_is_fixed_for_scanners() -> None:
    assert is_well_formed("edgews_" + "0" * 43 + "2CZclj")
    assert is_well_formed("edgews_" + "A_-9" * 10 + "abc"), "a secret of before there was a checksum"


@pytest.mark.parametrize("text", ["", "edgews_", "edgews_wrong", "\x00" * 50, "edgews_" + "0" * 49])
def test_what_is_no_secret_asks_no_database(text: str) -> None:
    engine = sa.create_engine("sqlite:////absent/folder/db")
    assert Store(engine).tokens.find_token(text) is None
    engine.dispose()
