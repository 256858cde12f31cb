from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.clock import MAX_AHEAD_MS, HybridClock, stamp_of, wall_ms_of

NOW = 1_700_000_000_000


def test_stamp_keeps_its_millisecond() -> None:
    assert wall_ms_of(stamp_of(NOW)) == NOW
    assert wall_ms_of(stamp_of(NOW) + 65_535) == NOW


def test_tick_follows_the_wall_clock() -> None:
    clock = HybridClock()
    assert clock.tick(NOW) == stamp_of(NOW)
    assert clock.tick(NOW + 5) == stamp_of(NOW + 5)


@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=30))
def test_ticks_grow_whatever_the_wall_clock_does(walls: list[int]) -> None:
    clock = HybridClock()
    stamps = [clock.tick(wall) for wall in walls]
    assert stamps == sorted(set(stamps))


def test_counter_carries_into_the_milliseconds() -> None:
    clock = HybridClock(stamp_of(NOW) + 65_535)
    assert wall_ms_of(clock.tick(NOW)) == NOW + 1


def test_event_after_a_seen_one_is_stamped_above_it() -> None:
    clock = HybridClock()
    clock.observe(stamp_of(NOW + 300), NOW)
    assert clock.tick(NOW) > stamp_of(NOW + 300)


@given(st.integers(0, 2**63), st.integers(0, 2**40))
def test_remote_stamp_pushes_the_clock_no_further_than_the_bound(remote: int, wall: int) -> None:
    clock = HybridClock()
    clock.observe(remote, wall)
    assert clock.last <= stamp_of(wall + MAX_AHEAD_MS)


def test_stamp_beyond_honest_skew_is_from_the_future() -> None:
    clock = HybridClock()
    assert not clock.is_from_future(stamp_of(NOW + MAX_AHEAD_MS), NOW)
    assert clock.is_from_future(stamp_of(NOW + MAX_AHEAD_MS) + 1, NOW)


def test_stamp_below_our_own_last_is_not_from_the_future() -> None:
    clock = HybridClock(stamp_of(NOW + 60_000))
    assert not clock.is_from_future(stamp_of(NOW + 59_000), NOW)
