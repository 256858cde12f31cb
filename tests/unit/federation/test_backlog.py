from __future__ import annotations

from federation.backlog import RateMeter, StreamIndex, sync_debt


def index() -> StreamIndex:
    found = StreamIndex()
    found.add(3, 10, 1000, {"policy": 2, "message": 1})
    found.add(4, 12, 2000, {"config": 1})
    found.add(9, 15, 3000, {"message": 5})
    return found


def test_event_is_found_in_the_commit_that_holds_it() -> None:
    assert [index().offset_of(n) for n in (1, 3, 4, 5, 9, 10)] == [10, 10, 12, 15, 15, None]
    assert [index().time_ms_of(n) for n in (1, 4, 9, 10)] == [1000, 2000, 3000, None]


def test_commit_names_the_last_event_it_holds() -> None:
    assert [index().last_at(offset) for offset in (9, 10, 11, 12, 15, 16)] == [
        None,
        3,
        None,
        4,
        9,
        None,
    ]


def test_counts_are_of_events_beyond_a_position_by_kind() -> None:
    assert index().counts_after(0) == {"message": 6, "config": 1, "policy": 2, "version": 0}
    assert index().counts_after(3) == {"message": 5, "config": 1, "policy": 0, "version": 0}
    assert sum(index().counts_after(9).values()) == 0
    assert sum(StreamIndex().counts_after(0).values()) == 0


def test_level_peer_has_no_debt() -> None:
    debt = sync_debt(None, {"message": 0}, 100.0, 5000)
    assert (debt.behind_ms, debt.events, debt.estimated_duration_ms) == (0, 0, None)


def test_debt_is_as_old_as_its_oldest_event_and_lasts_as_the_rate_says() -> None:
    debt = sync_debt(1000, {"message": 5, "config": 1}, 2.0, 5000)
    assert (debt.behind_ms, debt.events, debt.estimated_duration_ms) == (4000, 6, 3000)


def test_no_duration_is_made_up_without_a_rate() -> None:
    assert sync_debt(1000, {"message": 5}, 0.0, 5000).estimated_duration_ms is None


def test_debt_is_not_negative_when_the_clock_went_back() -> None:
    assert sync_debt(9000, {"message": 5}, 0.0, 5000).behind_ms == 0


def test_rate_needs_two_samples_and_follows_changes_slowly() -> None:
    meter = RateMeter()
    meter.add(100, 1000)
    assert meter.rate_events_per_s == 0.0
    meter.add(100, 2000)
    assert meter.rate_events_per_s == 100.0
    meter.add(200, 3000)
    assert meter.rate_events_per_s == 120.0


def test_rate_ignores_samples_without_events_or_time() -> None:
    meter = RateMeter()
    meter.add(100, 1000)
    meter.add(100, 2000)
    meter.add(100, 2000)
    meter.add(0, 2500)
    assert meter.rate_events_per_s == 100.0
