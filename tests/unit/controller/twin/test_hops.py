"""The way to another controller, and what is known of it two hops away: with real states of three controllers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from controller.connectivity.table import ConnectivityTable
from controller.twin.freshness import Freshness
from controller.twin.hops import Hop, hops_between, link_key, recorded_down_since_ms
from controller.twin.sight import Sight
from souverix.federation.v1 import peer_link_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below, root_controller

UP, DOWN = peer_link_pb2.PEER_LINK_STATE_UP, peer_link_pb2.PEER_LINK_STATE_DOWN
MINUTE_MS = 60_000


@dataclass
class Seen:
    """What a controller sees of its own links."""

    up: set[str] = field(default_factory=set)
    heard_ms: dict[str, int] = field(default_factory=dict)

    def link_up(self, controller: str) -> bool:
        return controller in self.up

    def last_heard_ms(self, controller: str) -> int | None:
        return self.heard_ms.get(controller)


@dataclass
class Three:
    """global ── region-a ── edge-a1, and edge-a2 beside it; cluster-c below edge-a1 has no controller of its own."""

    top: MemoryController
    region: MemoryController
    zone: MemoryController


@pytest.fixture
def three() -> Three:
    top = root_controller()
    region = controller_below(top, "region-a-control", "region-a")
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    zone.declare("cluster-c", "edge-a1")
    controller_below(region, "edge-a2-control", "edge-a2")
    region.receive_from(zone)
    top.receive_from(region)
    top.receive_from(zone)
    return Three(top, region, zone)


def record(
    writer: MemoryController, hop: Hop, state: int, *, heard_ms: int, decided_ms: int
) -> None:
    link = peer_link_pb2.PeerLink(state=state)  # type: ignore[arg-type]
    link.last_heard_time.FromMilliseconds(heard_ms)
    link.time.FromMilliseconds(decided_ms)
    writer.submit(lambda p: p.write(*link_key(hop), link, principal=f"controller:{writer.name}"))


def freshness(controller: MemoryController, seen: Seen | None) -> Freshness:
    sight = Sight(ConnectivityTable(), seen, 0.0) if seen is not None else None
    return Freshness(controller.state, controller.identity.domain, controller.now_ms, sight)


TO_ZONE = Hop("region-a-control", "edge-a1-control", "edge-a1")


def test_the_way_leads_down_up_and_over_the_common_ancestor(three: Three) -> None:
    table = three.region.state.authority
    assert hops_between(table, ROOT, "cluster-c") == [
        Hop("global-control", "region-a-control", "region-a"),
        TO_ZONE,
    ]
    assert hops_between(table, "edge-a1", ROOT) == [
        Hop("edge-a1-control", "region-a-control", "edge-a1"),
        Hop("region-a-control", "global-control", "region-a"),
    ]
    assert hops_between(table, "edge-a2", "edge-a1") == [
        Hop("edge-a2-control", "region-a-control", "edge-a2"),
        TO_ZONE,
    ]
    assert hops_between(table, "edge-a1", "cluster-c") == []
    assert hops_between(table, ROOT, "nowhere") == []


def test_a_cut_two_hops_away_is_known_and_its_healing_too(three: Three) -> None:
    seen = Seen(up={"region-a-control"})
    cut_ms = three.region.now_ms - MINUTE_MS
    assert freshness(three.top, seen).unknown_since_ms("edge-a1") is None
    assert freshness(three.top, seen).reachable("edge-a1") is True
    record(three.region, TO_ZONE, DOWN, heard_ms=cut_ms, decided_ms=three.region.now_ms)
    three.top.receive_from(three.region)
    told = freshness(three.top, seen)
    assert told.unknown_since_ms("edge-a1") == cut_ms
    assert told.unknown_since_ms("cluster-c") == cut_ms
    assert told.unknown_since_ms("edge-a2") is None
    assert told.unknown_since_ms("region-a") is None
    assert told.reachable("edge-a1") is False
    now_ms = three.region.now_ms
    record(three.region, TO_ZONE, UP, heard_ms=now_ms, decided_ms=now_ms)
    three.top.receive_from(three.region)
    assert freshness(three.top, seen).unknown_since_ms("edge-a1") is None


def test_of_two_cuts_the_earlier_one_counts(three: Three) -> None:
    now_ms = three.region.now_ms
    record(three.region, TO_ZONE, DOWN, heard_ms=now_ms - MINUTE_MS, decided_ms=now_ms)
    three.top.receive_from(three.region)
    seen = Seen(heard_ms={"region-a-control": now_ms + MINUTE_MS, "edge-a1-control": 0})
    told = freshness(three.top, seen)
    assert told.unknown_since_ms("region-a") == now_ms + MINUTE_MS
    assert told.unknown_since_ms("edge-a1") == now_ms - MINUTE_MS


def test_a_link_that_stood_before_the_nearer_one_broke_is_unknown_since_then(three: Three) -> None:
    now_ms = three.region.now_ms
    seen = Seen(heard_ms={"region-a-control": now_ms + MINUTE_MS})
    assert freshness(three.top, seen).unknown_since_ms("edge-a1") == now_ms + MINUTE_MS


def test_below_a_cut_further_up_is_known_as_well(three: Three) -> None:
    hop = Hop("region-a-control", "global-control", "region-a")
    now_ms = three.region.now_ms
    record(three.region, hop, DOWN, heard_ms=now_ms - MINUTE_MS, decided_ms=now_ms)
    three.zone.receive_from(three.region)
    told = freshness(three.zone, Seen(up={"region-a-control"}))
    assert told.unknown_since_ms(ROOT) == now_ms - MINUTE_MS
    assert told.unknown_since_ms("region-a") is None


def test_a_standby_knows_what_its_master_recorded(three: Three) -> None:
    now_ms = three.region.now_ms
    record(three.region, TO_ZONE, DOWN, heard_ms=now_ms - MINUTE_MS, decided_ms=now_ms)
    assert freshness(three.region, None).unknown_since_ms("edge-a1") == now_ms - MINUTE_MS
    assert freshness(three.region, None).reachable("edge-a1") is False
    assert freshness(three.region, None).reachable("edge-a2") is None


@pytest.mark.parametrize("ahead_ms", [-24 * 60 * MINUTE_MS, 24 * 60 * MINUTE_MS])
def test_a_clock_that_is_wrong_never_makes_knowledge_newer_than_its_arrival(
    three: Three, ahead_ms: int
) -> None:
    arrived_ms = three.top.now_ms + 5 * MINUTE_MS
    three.top.now_ms = arrived_ms
    three.region.now_ms += ahead_ms
    decided_ms = three.region.now_ms
    record(three.region, TO_ZONE, DOWN, heard_ms=decided_ms - MINUTE_MS, decided_ms=decided_ms)
    three.top.receive_from(three.region)
    since_ms = recorded_down_since_ms(three.top.state, TO_ZONE)
    assert since_ms is not None
    assert since_ms <= arrived_ms
    if ahead_ms > 0:
        assert since_ms == arrived_ms - MINUTE_MS


def test_only_the_end_of_the_link_is_believed(three: Three) -> None:
    now_ms = three.zone.now_ms
    record(three.zone, TO_ZONE, DOWN, heard_ms=now_ms, decided_ms=now_ms)
    assert recorded_down_since_ms(three.zone.state, TO_ZONE) is None
