"""What a relay keeps: once, in order, within its bounds, across restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.errors import StateDirUnusable
from nodeagent.relay_store import (
    MAX_KEPT_AGE_S,
    MAX_KEPT_BYTES,
    Kept,
    RelayStore,
    Remembered,
    open_database,
)
from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import nodelink_pb2


def kept(sequence: int, node: str = "n1", source: str = "s1", time_us: int = 5) -> Kept:
    state = node_pb2.ActualState(reported_version=f"v{sequence}")
    return Kept(node, source, time_us, nodelink_pb2.Report(sequence=sequence, actual_state=state))


def open_store(path: Path, relay: str = "relay-1", max_bytes: int = MAX_KEPT_BYTES) -> RelayStore:
    return RelayStore(open_database(path / "relay.db"), relay, max_bytes)


@pytest.fixture
def store(tmp_path: Path) -> RelayStore:
    return open_store(tmp_path)


def sequences(store: RelayStore, node: str = "n1", source: str = "s1", most: int = 64) -> list[int]:
    return [report.sequence for report in store.first(node, source, most)]


def test_a_report_that_is_kept_twice_is_kept_once_and_as_it_was(store: RelayStore) -> None:
    assert store.keep([kept(2), kept(1)]) == 2
    assert store.keep([kept(1), kept(2), kept(3)]) == 1
    assert sequences(store) == [1, 2, 3]
    assert store.kept_reports == 3
    assert store.first("n1", "s1", 1)[0].actual_state.reported_version == "v1"


def test_what_is_kept_outlives_the_relay(tmp_path: Path, store: RelayStore) -> None:
    store.keep([kept(1), kept(1, node="n2", time_us=1)])
    again = open_store(tmp_path)
    assert again.source == store.source
    assert (again.kept_reports, again.kept_bytes) == (2, store.kept_bytes)
    assert again.kept_for() == [("n2", "s1"), ("n1", "s1")]
    assert again.oldest_us() == 1


def test_only_reports_without_gaps_are_offered(store: RelayStore) -> None:
    store.keep([kept(4), kept(5), kept(8)])
    assert sequences(store) == [4, 5]
    assert sequences(store, most=1) == [4]


def test_what_arrived_is_forgotten_and_nothing_else(store: RelayStore) -> None:
    store.keep([kept(1), kept(2), kept(3), kept(1, node="n2"), kept(1, source="s2")])
    store.arrived("n1", "s1", 2)
    assert sequences(store) == [3]
    assert store.kept_reports == 3
    assert sequences(store, node="n2") == sequences(store, source="s2") == [1]


def test_a_full_store_keeps_no_more(tmp_path: Path) -> None:
    store = open_store(tmp_path, max_bytes=20)
    assert store.keep([kept(number) for number in range(1, 9)]) < 8
    assert store.is_full
    assert store.keep([kept(9)]) == 0
    store.arrived("n1", "s1", 8)
    assert not store.is_full


def test_what_nobody_takes_is_given_up_in_the_end(store: RelayStore) -> None:
    store.keep([kept(1, time_us=0), kept(2, time_us=10_000_000)])
    assert store.expire(MAX_KEPT_AGE_S * 1_000_000 + 1_000_000) == 1
    assert sequences(store) == [2]


def test_the_last_welcome_of_a_node_is_remembered(store: RelayStore) -> None:
    assert store.welcome_of("n1") is None
    for epoch in (1, 2):
        fence = nodelink_pb2.Fence(placement_epoch=epoch)
        frame = nodelink_pb2.ConnectResponse(fence=fence, welcome=nodelink_pb2.Welcome(domain="z"))
        store.remember([("n1", Remembered(f"s{epoch}", frame))])
    held = store.welcome_of("n1")
    assert held is not None
    assert (held.source, held.frame.fence.placement_epoch) == ("s2", 2)


def test_a_store_belongs_to_one_relay(tmp_path: Path, store: RelayStore) -> None:
    with pytest.raises(StateDirUnusable, match="belongs to relay relay-1"):
        open_store(tmp_path, "relay-2")
