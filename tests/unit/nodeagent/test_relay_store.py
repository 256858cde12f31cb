"""What a relay keeps: once, in order, within its bounds, across restarts."""

from __future__ import annotations

import contextlib
import sqlite3
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
from souverix.nodelink.v1 import nodelink_pb2


def kept(
    first: int, last: int = 0, *, node: str = "n1", source: str = "s1", time_us: int = 5
) -> Kept:
    reports = [b"report %d" % number for number in range(first, (last or first) + 1)]
    batch = nodelink_pb2.ReplayChunk(number=1, first_sequence=first, reports=reports)
    return Kept(node, source, time_us, batch)


def open_store(path: Path, relay: str = "relay-1", max_bytes: int = MAX_KEPT_BYTES) -> RelayStore:
    return RelayStore(open_database(path / "relay.db"), relay, max_bytes)


@pytest.fixture
def store(tmp_path: Path) -> RelayStore:
    return open_store(tmp_path)


def held(store: RelayStore, node: str = "n1", source: str = "s1") -> list[bytes]:
    batch = store.batch_of(node, source)
    return list(batch.reports) if batch is not None else []


def test_a_batch_stands_for_an_earlier_one_unless_it_ends_before_it(store: RelayStore) -> None:
    store.keep([kept(1, 3)])
    store.keep([kept(1, 2)])
    assert held(store) == [b"report 1", b"report 2", b"report 3"]
    store.keep([kept(2, 4)])
    assert held(store) == [b"report 2", b"report 3", b"report 4"]
    assert store.kept_reports == 3


def test_what_is_kept_outlives_the_relay(tmp_path: Path, store: RelayStore) -> None:
    store.keep([kept(1), kept(1, 2, node="n2", time_us=1)])
    again = open_store(tmp_path)
    assert again.source == store.source
    assert (again.kept_reports, again.kept_bytes) == (3, store.kept_bytes)
    assert again.kept_for() == [("n2", "s1"), ("n1", "s1")]
    assert again.oldest_us() == 1
    assert again.batch_of("n1", "s1") == kept(1).batch


def test_a_batch_is_forgotten_when_all_of_it_has_arrived(store: RelayStore) -> None:
    store.keep([kept(1, 3), kept(1, node="n2"), kept(1, source="s2")])
    store.arrived("n1", "s1", 2)
    assert len(held(store)) == 3
    store.arrived("n1", "s1", 3)
    assert held(store) == []
    assert store.kept_reports == 2
    assert held(store, node="n2") == held(store, source="s2") == [b"report 1"]


def test_a_full_store_keeps_no_more(tmp_path: Path) -> None:
    store = open_store(tmp_path, max_bytes=20)
    store.keep([kept(1, node=f"n{number}") for number in range(9)])
    assert 0 < store.kept_reports < 9
    assert store.is_full
    store.keep([kept(1, node="late")])
    assert held(store, node="late") == []
    for number in range(9):
        store.arrived(f"n{number}", "s1", 1)
    assert not store.is_full


def test_what_nobody_takes_is_given_up_in_the_end(store: RelayStore) -> None:
    store.keep([kept(1, time_us=0), kept(1, node="n2", time_us=10_000_000)])
    assert store.expire(MAX_KEPT_AGE_S * 1_000_000 + 1_000_000) == 1
    assert (held(store), held(store, node="n2")) == ([], [b"report 1"])


def test_a_store_of_the_first_version_is_taken_over_without_its_unsigned_reports(
    tmp_path: Path,
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "relay.db")) as database:
        database.executescript(
            "CREATE TABLE relay (relay TEXT NOT NULL, source TEXT NOT NULL);"
            "CREATE TABLE welcome (node TEXT PRIMARY KEY, source TEXT NOT NULL, welcome BLOB NOT NULL);"
            "CREATE TABLE kept (node TEXT, source TEXT, sequence INTEGER, time_us INTEGER, body BLOB);"
            "INSERT INTO relay VALUES ('relay-1', 'its id');"
            "INSERT INTO kept VALUES ('n1', 's1', 1, 5, x'00');"
            "PRAGMA user_version = 1;"
        )
    store = open_store(tmp_path)
    assert (store.source, store.kept_reports) == ("its id", 0)
    store.keep([kept(1)])
    assert held(open_store(tmp_path)) == [b"report 1"]


def test_the_last_welcome_of_a_node_is_remembered(store: RelayStore) -> None:
    assert store.welcome_of("n1") is None
    for epoch in (1, 2):
        fence = nodelink_pb2.Fence(placement_epoch=epoch)
        frame = nodelink_pb2.ConnectResponse(fence=fence, welcome=nodelink_pb2.Welcome(domain="z"))
        store.remember([("n1", Remembered(f"s{epoch}", frame))])
    found = store.welcome_of("n1")
    assert found is not None
    assert (found.source, found.frame.fence.placement_epoch) == ("s2", 2)


def test_a_store_belongs_to_one_relay(tmp_path: Path, store: RelayStore) -> None:
    with pytest.raises(StateDirUnusable, match="belongs to relay relay-1"):
        open_store(tmp_path, "relay-2")
