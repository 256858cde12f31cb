"""Acknowledgements that wait for large values: up to which event, for which chunks, and no more than a bound."""

from __future__ import annotations

import pytest

from federation import withheld
from federation.identifiers import Lane, Origin, StreamId
from federation.withheld import Withheld

STREAM = StreamId("edge-a1", Origin("edge-a1-control", 1), Lane.TELEMETRY)
OTHER = StreamId("edge-a2", Origin("edge-a2-control", 1), Lane.TELEMETRY)


def test_events_before_the_first_that_waits_are_acknowledged() -> None:
    waiting = Withheld(known=True)
    waiting.hold(STREAM, 5, ["a", "b"])
    waiting.hold(STREAM, 7, ["b"])
    assert waiting.durable(STREAM, 9) == 4
    assert waiting.settle("a") == set()
    assert waiting.durable(STREAM, 9) == 4
    assert waiting.settle("b") == {STREAM}
    assert waiting.durable(STREAM, 9) == 9


def test_a_later_event_goes_on_waiting_when_an_earlier_one_is_released() -> None:
    waiting = Withheld(known=True)
    waiting.hold(STREAM, 7, ["b"])
    waiting.hold(STREAM, 5, ["a"])
    assert waiting.settle("a") == {STREAM}
    assert waiting.durable(STREAM, 9) == 6


def test_one_chunk_releases_every_stream_that_waits_for_it() -> None:
    waiting = Withheld(known=True)
    waiting.hold(STREAM, 1, ["a"])
    waiting.hold(OTHER, 3, ["a"])
    assert waiting.settle("a") == {STREAM, OTHER}
    assert waiting.settle("a") == set()


def test_an_event_held_twice_is_released_once() -> None:
    waiting = Withheld(known=True)
    waiting.hold(STREAM, 1, ["a", "a"])
    waiting.hold(STREAM, 1, ["a"])
    assert waiting.settle("a") == {STREAM}
    assert waiting.durable(STREAM, 1) == 1


def test_only_telemetry_waits() -> None:
    waiting = Withheld(known=False)
    assert waiting.durable(STREAM._replace(lane=Lane.CONTROL), 9) == 9
    assert waiting.durable(STREAM, 9) == 0
    waiting.known = True
    assert waiting.durable(STREAM, 9) == 9


def test_an_event_received_later_does_not_count_before_it_is_received() -> None:
    waiting = Withheld(known=True)
    waiting.hold(STREAM, 12, ["a"])
    assert waiting.durable(STREAM, 9) == 9


def test_beyond_the_bound_nothing_more_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withheld, "MAX_CHUNKS", 2)
    waiting = Withheld(known=True)
    waiting.hold(STREAM, 3, ["a", "b"])
    waiting.hold(STREAM, 6, ["c"])
    waiting.hold(STREAM, 5, ["d"])
    waiting.settle("a")
    waiting.settle("b")
    assert waiting.durable(STREAM, 9) == 4
