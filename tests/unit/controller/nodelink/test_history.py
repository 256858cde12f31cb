"""The bound on recorded transitions, and the table's sweep."""

from __future__ import annotations

import pytest

from controller.connectivity.spectrum import Mode
from controller.nodelink import history
from controller.nodelink.history import (
    TRANSITIONS_BURST,
    TRANSITIONS_PER_S,
    Transition,
    TransitionQueue,
)
from controller.nodelink.link import Link
from controller.nodelink.links import Links
from controller.nodelink.rate import TokenBucket
from controller.nodelink.session import Session
from souverix.nodelink.v1 import nodelink_pb2

DAY_S = 86_400


def change(number: int, node: str = "n1") -> Transition:
    mode = Mode.AUTONOMOUS if number % 2 else Mode.LIVE
    return Transition(node, mode, "test", f"change {number}", number)


def link(node: str, heard_s: float) -> Link:
    return Link(
        node, "zone", "s1", "run", Session(b"t"), nodelink_pb2.Fence(), heard_s, lambda: True
    )


def test_a_token_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(2.0, 3, 100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s(100.0) == 0.5
    assert bucket.take(100.5)
    assert not bucket.is_full(101.0)
    assert bucket.is_full(103.0)


def test_the_first_transitions_of_a_node_are_due_at_once() -> None:
    queue = TransitionQueue()
    for number in range(TRANSITIONS_BURST):
        queue.note(change(number), 100.0)
        assert [t.evidence for t in queue.take_due(100.0, 10)] == [f"change {number}"]
    assert queue.wait_s(100.0) is None


def test_a_flapping_link_is_recorded_at_a_bounded_rate_and_its_last_change_always() -> None:
    queue = TransitionQueue()
    recorded: list[Transition] = []
    for tenth in range(DAY_S * 10 // 100):
        now_s = tenth / 10
        queue.note(change(tenth), now_s)
        recorded += queue.take_due(now_s, 10)
    assert len(recorded) <= TRANSITIONS_BURST + DAY_S / 100 * TRANSITIONS_PER_S + 1
    wait_s = queue.wait_s(now_s)
    assert wait_s is not None
    recorded += queue.take_due(now_s + wait_s + 0.001, 10)
    assert recorded[-1].since_ms == tenth
    assert sum(t.coalesced for t in recorded) + len(recorded) == tenth + 1


def test_one_nodes_flapping_does_not_hold_up_another() -> None:
    queue = TransitionQueue()
    for number in range(TRANSITIONS_BURST * 2):
        queue.note(change(number), 100.0)
        queue.take_due(100.0, 10)
    queue.note(change(0, "n2"), 100.0)
    assert [t.node for t in queue.take_due(100.0, 10)] == ["n2"]


def test_a_transition_that_must_wait_gives_way_to_the_next_of_its_node() -> None:
    queue = TransitionQueue()
    queue.note(change(1), 100.0, not_before_s=110.0)
    assert queue.take_due(109.0, 10) == []
    assert queue.wait_s(109.0) == 1.0
    queue.note(change(2), 109.0)
    assert [t.evidence for t in queue.take_due(109.0, 10)] == ["change 2"]
    assert queue.take_due(111.0, 10) == []


def test_no_more_are_taken_than_asked_for() -> None:
    queue = TransitionQueue()
    for number in range(5):
        queue.note(change(0, f"n{number}"), 100.0)
    assert len(queue.take_due(100.0, 3)) == 3
    assert len(queue.take_due(100.0, 3)) == 2


def test_a_sweep_ends_links_of_silent_nodes_only() -> None:
    links = Links(10, heartbeat_interval_s=1.0)
    for node, heard_s in (("silent", 100.0), ("lively", 102.0)):
        links.add(link(node, heard_s))
    links.sweep(101.0)
    links.sweep(103.5)
    ended = {held.node: held.end_reason for held in links}
    assert ended["lively"] is None
    assert ended["silent"] is not None
    assert ended["silent"].reason == "heartbeats_missed"


def test_a_fleet_that_changes_at_once_costs_each_node_a_few_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0
    is_full = TokenBucket.is_full

    def counted(bucket: TokenBucket, now_s: float) -> bool:
        nonlocal looks
        looks += 1
        return is_full(bucket, now_s)

    monkeypatch.setattr(history, "REMEMBERED", 10)
    monkeypatch.setattr(TokenBucket, "is_full", counted)
    queue = TransitionQueue()
    for number in range(1000):
        queue.note(change(1, f"n{number}"), 100.0)
    assert len(queue.take_due(100.0, 1000)) == 1000
    assert looks <= 4 * 1000
    queue.note(change(1, "n1000"), 100.0 + DAY_S)
    queue.take_due(100.0 + DAY_S, 1)
    for number in range(2000):
        queue.note(change(1, f"m{number}"), 100.0 + DAY_S)
    queue.take_due(100.0 + DAY_S, 2000)
    assert "n0" not in queue._rates


def test_a_sweep_that_comes_late_does_not_take_its_own_sleep_for_silence() -> None:
    links = Links(10, heartbeat_interval_s=1.0)
    links.sweep(100.0)
    links.add(link("n1", 100.5))
    links.sweep(160.0)
    assert all(held.is_open for held in links)
    links.sweep(162.0)
    links.sweep(164.0)
    assert not any(held.is_open for held in links)


def test_a_link_is_removed_once_and_not_in_place_of_its_successor() -> None:
    links = Links(10, 1.0)
    old, new = link("n1", 1.0), link("n1", 2.0)
    links.add(old)
    assert links.remove(old)
    links.add(new)
    assert not links.remove(old)
    assert links.get("n1") is new
