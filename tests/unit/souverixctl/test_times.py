"""Times and durations as people read and write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from souverixctl.errors import BadInput
from souverixctl.times import (
    clock_time,
    parse_duration,
    seconds_of,
    show_age,
    show_duration,
    show_exact,
)

NOW = datetime(2026, 2, 27, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("17h", 61200), ("3.75h", 13500), ("1h30m", 5400), ("250ms", 0.25), ("2d", 172800), ("0s", 0)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert seconds_of(parse_duration(text)) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "-5m", "5 m", "1e3s", "5w", "99999999d", "\u0665m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (0.25, "250ms"), (45, "45s"), (13500, "3.75h"), (61200, "17h"), (-1.5, "-1.5s")],
)
def test_durations_are_shown(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds_ago", "text"),
    [
        (0, "0s"),
        (59, "59s"),
        (61, "1m"),
        (61200, "17h"),
        (200000, "2d"),
        (-300, "in 5m"),
        (-0.4, "0s"),
    ],
)
def test_ages_are_shown_in_whole_units(seconds_ago: float, text: str) -> None:
    time = Timestamp()
    time.FromMilliseconds(int((NOW.timestamp() - seconds_ago) * 1000))
    assert show_age(time, NOW) == text


def test_a_time_that_is_absent_shows_as_nothing() -> None:
    assert show_age(None, NOW) == "-"
    assert show_age(Timestamp(), NOW) == "-"


def test_exact_times_are_utc() -> None:
    assert show_exact(Timestamp(seconds=1772163900)) == "2026-02-27T03:45:00Z"
    assert show_exact(Timestamp(seconds=1772163900, nanos=5_000_000)) == "2026-02-27T03:45:00.005Z"


def test_a_hybrid_clock_shows_its_wall_part() -> None:
    assert show_exact(clock_time((1772163900005 << 16) | 7)) == "2026-02-27T03:45:00.005Z"
