"""What the values in a filter stand for; what whole filters mean over a fleet: `test_filter`."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.query.filter_values import duration_of, text_test, time_of, version_test


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("1970-01-01T00:00:01Z", (1000, False)),
        ("1970-01-01t01:00:01.5+01:00", (1500, False)),
        ("1970-01-01T00:00:00.0015Z", (1, True)),
        ("1970-01-01", None),
        ("1970-13-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+23:59", None),
    ],
)
def test_times(text: str, read: tuple[int, bool] | None) -> None:
    assert time_of(text) == read


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("90s", 90_000), ("1h30m", 5_400_000), ("0.5ms", 0.5), ("90", None), ("1h" * 33, None)],
)
def test_durations(text: str, milliseconds: float | None) -> None:
    assert duration_of(text) == milliseconds


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_wildcards_stand_for_anything(value: str, held: str) -> None:
    meant = re.fullmatch(".*".join(map(re.escape, value.split("*"))), held) is not None
    assert text_test(value, "=")(held) == meant


def test_many_wildcards_cost_no_more_than_one() -> None:
    assert not text_test("*a" * 1000 + "*b", "=")("a" * 100_000)


def test_versions_are_ordered_within_their_component() -> None:
    below = version_test("rempart-1.10.0", "<")
    assert below is not None
    assert below("rempart-1.9.0")
    assert not below("rempart-1.10.0")
    assert not below("proxy-1.9.0")


def test_what_is_no_version_has_no_order_but_may_be_equal() -> None:
    assert version_test("latest", "<") is None
    same = version_test("latest", "=")
    assert same is not None
    assert same("latest")
