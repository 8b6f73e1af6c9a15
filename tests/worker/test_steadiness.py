"""How steady the connection has been."""

from __future__ import annotations

from datetime import UTC, datetime

from edge_ws.worker.steadiness import GATEWAY_LEAVES, MOVED, Steadiness

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_losses_and_changes_are_counted() -> None:
    steady = Steadiness()
    assert steady.told() == {"connection_losses": 0, "transport_changes": 0}
    for transport in ("websocket", "websocket", "longpoll", "websocket"):
        steady.ready(transport)
    steady.lost("it broke off" + "." * 500, NOW)
    told = steady.told()
    assert (told["connection_losses"], told["transport_changes"]) == (1, 2)
    assert told["connection_lost_at"] == "2026-01-02T03:04:05+00:00"
    assert str(told["connection_lost_why"]).startswith("it broke off.")
    assert len(str(told["connection_lost_why"])) == 200


def test_reconnects_are_counted_by_what_ended_the_one_before() -> None:
    steady = Steadiness()
    steady.ready("longpoll")
    assert not steady.reconnects
    steady.ready("websocket")
    steady.lost("it broke off", NOW, "broke_off")
    # Tries that do not succeed are none.
    steady.ready("websocket")
    steady.leaving(GATEWAY_LEAVES)
    steady.ready("websocket")
    steady.ready("websocket")
    assert dict(steady.reconnects) == {MOVED: 2, "broke_off": 1, GATEWAY_LEAVES: 1}
