"""Batches of heartbeats: the same as single ones, and nothing else gets in."""

from __future__ import annotations

import math
import random

import pytest

from controller.connectivity.table import ConnectivityTable
from controller.nodelink.link import Link
from controller.nodelink.relay_heartbeats import RelayHeartbeats
from controller.nodelink.reports import ProtocolBroken
from controller.nodelink.session import Session
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2

NODES = 100


def link_of(number: int) -> Link:
    session = Session(b"t")
    return Link(f"n{number}", "zone", "s", "r", session, nodelink_pb2.Fence(), 0.0, lambda: True)


def linked_table() -> ConnectivityTable:
    table = ConnectivityTable()
    for number in range(NODES):
        table.linked(f"n{number}", "zone", 0, 0.0)
    return table


@pytest.fixture
def table() -> ConnectivityTable:
    return linked_table()


@pytest.fixture
def heartbeats(table: ConnectivityTable) -> RelayHeartbeats:
    heartbeats = RelayHeartbeats(table)
    for number in range(NODES):
        heartbeats.greeted(number)
        heartbeats.opened(number, link_of(number))
    return heartbeats


def test_batches_equal_single_heartbeats(
    table: ConnectivityTable, heartbeats: RelayHeartbeats
) -> None:
    single = linked_table()
    chance = random.Random(7)
    for round_number in range(1, 30):
        heard = chance.sample(range(NODES), 60)
        rtts_us = [chance.choice((0, chance.randrange(1, 3_000_000))) for _ in heard]
        backlogs = [chance.choice((0, chance.randrange(1000))) for _ in heard]
        batch = relay_pb2.HeartbeatBatch(nodes=heard, rtts_us=rtts_us, backlogs=backlogs)
        heartbeats.take(batch, float(round_number))
        for number, rtt_us, backlog in zip(heard, rtts_us, backlogs, strict=True):
            rtt_s = rtt_us / 1e6 if rtt_us else None
            single.heard(f"n{number}", rtt_s, backlog, float(round_number))
    for number in range(NODES):
        batched, alone = (t.measured(f"n{number}", 99.0) for t in (table, single))
        assert batched is not None
        assert alone is not None
        assert batched.rtt_s == pytest.approx(alone.rtt_s)
        assert (batched.last_seen_s, batched.level_s, batched.backlog) == (
            alone.last_seen_s,
            alone.level_s,
            alone.backlog,
        )
    assert [c.node for c in table.sweep(99.0)] == [c.node for c in single.sweep(99.0)]


def test_a_batch_without_columns_says_that_nothing_waits_and_nothing_was_measured(
    table: ConnectivityTable, heartbeats: RelayHeartbeats
) -> None:
    heartbeats.take(relay_pb2.HeartbeatBatch(nodes=[3], backlogs=[5]), 1.0)
    heartbeats.take(relay_pb2.HeartbeatBatch(nodes=[3]), 2.0)
    measured = table.measured("n3", 2.0)
    assert measured is not None
    assert (measured.backlog, measured.rtt_s, measured.last_seen_s) == (0, None, 2.0)


def test_a_heartbeat_keeps_the_link_of_its_node_alive() -> None:
    table = linked_table()
    heartbeats = RelayHeartbeats(table)
    links = [link_of(number) for number in range(2)]
    for number, link in enumerate(links):
        heartbeats.greeted(number)
        heartbeats.opened(number, link)
    heartbeats.take(relay_pb2.HeartbeatBatch(nodes=[1]), 5.0)
    assert [link.heard_s for link in links] == [0.0, 5.0]


def test_rows_are_looked_up_anew_when_nodes_were_forgotten(
    table: ConnectivityTable, heartbeats: RelayHeartbeats
) -> None:
    table.forget("n1")
    table.linked("stranger", "zone", 0, 0.5)
    heartbeats.take(relay_pb2.HeartbeatBatch(nodes=[1, 2], backlogs=[9, 9]), 3.0)
    stranger, other = table.measured("stranger", 3.0), table.measured("n2", 3.0)
    assert stranger is not None
    assert other is not None
    assert (stranger.last_seen_s, stranger.backlog) == (0.5, 0)
    assert (other.last_seen_s, other.backlog) == (3.0, 9)


def test_heartbeats_of_an_ended_link_mean_nothing(
    table: ConnectivityTable, heartbeats: RelayHeartbeats
) -> None:
    heartbeats.ended(4)
    heartbeats.take(relay_pb2.HeartbeatBatch(nodes=[4]), 3.0)
    measured = table.measured("n4", 3.0)
    assert measured is not None
    assert measured.last_seen_s == 0.0


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        ({"nodes": [1, NODES]}, f"under index {NODES}, which no node has"),
        ({"nodes": [2**32 - 1]}, "which no node has"),
        ({"nodes": [1, 2], "rtts_us": [5]}, "1 rtts_us came with 2 nodes"),
        ({"nodes": [], "backlogs": [5]}, "1 backlogs came with 0 nodes"),
    ],
)
def test_what_no_relay_may_send_is_named(
    heartbeats: RelayHeartbeats, batch: dict[str, list[int]], complaint: str
) -> None:
    with pytest.raises(ProtocolBroken, match=complaint):
        heartbeats.take(relay_pb2.HeartbeatBatch(**batch), 1.0)  # type: ignore[arg-type]


def test_a_freed_index_is_unknown(heartbeats: RelayHeartbeats) -> None:
    heartbeats.ended(1)
    heartbeats.freed(1)
    with pytest.raises(ProtocolBroken, match="under index 1"):
        heartbeats.take(relay_pb2.HeartbeatBatch(nodes=[1]), 1.0)


def test_absurd_numbers_are_taken_as_large(
    table: ConnectivityTable, heartbeats: RelayHeartbeats
) -> None:
    heartbeats.take(
        relay_pb2.HeartbeatBatch(nodes=[1], rtts_us=[2**32 - 1], backlogs=[2**64 - 1]), 1.0
    )
    measured = table.measured("n1", 1.0)
    assert measured is not None
    assert measured.backlog > 2**60
    assert measured.rtt_s is not None
    assert math.isfinite(measured.rtt_s)
