from __future__ import annotations

import time
from collections import Counter

import pytest

from benchmarks import zone_log
from benchmarks.workload import MIX, facts, values
from controller.log.port import EMPTY_HASH, Head
from federation.codec import ASPECTS
from souverix.event.v1 import event_pb2
from tests.federation_fixture import MemoryController, controller_below, root_controller


def test_the_same_seed_makes_the_same_facts() -> None:
    assert list(facts(50, seed=3)) == list(facts(50, seed=3))
    assert list(facts(50, seed=3)) != list(facts(50, seed=4))


def test_facts_are_mixed_as_declared() -> None:
    found = Counter(fact.aspect for fact in facts(100))
    assert found == {aspect: 10 * count for aspect, count in Counter(MIX).items()}
    assert found.keys() <= ASPECTS.keys()


def test_values_are_of_a_real_events_size() -> None:
    sizes = [len(value) for value in values(200)]
    assert 300 < sum(sizes) / len(sizes) < 420


def test_half_of_a_zones_events_are_committed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zone_log, "SECTION_EVENTS", 10)
    zone = controller_below(root_controller(), "edge-zone-a1-control", "edge-zone-a1")
    events = [sum(len(run.events) for run in commit.runs) for commit in commits_of(zone, 40)]
    assert events == [*([1] * 10), 10, *([1] * 10), 10]


def test_a_zones_log_verifies_elsewhere() -> None:
    root = root_controller()
    zone = controller_below(root, "edge-zone-a1-control", "edge-zone-a1")
    root.now_ms = time.time_ns() // 1_000_000
    for commit in commits_of(zone, 40):
        for run in commit.runs:
            root.receive(zone.name, run)
    for stream, held in zone.state.streams.items():
        if stream.origin == zone.identity.origin:
            assert root.state.streams[stream].applied == held.received


def commits_of(zone: MemoryController, count: int) -> list[event_pb2.Commit]:
    head = Head(zone.state.next_offset, EMPTY_HASH, bytes(16))
    writer = zone_log.ZoneLogWriter(zone.state, head, zone.identity, zone.signer)
    return [
        event_pb2.Commit.FromString(stored[len(EMPTY_HASH) :])
        for _, stored in writer.commits(facts(count))
    ]
