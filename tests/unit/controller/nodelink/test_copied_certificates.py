"""One certificate used from two places: the first stays, the second is refused and raised with where both call from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controller.nodelink import elsewhere
from controller.nodelink.elsewhere import Elsewhere
from federation.proposal import Proposal
from souverix.fleet.v1 import connectivity_pb2, return_pb2
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2
from tests.certificates import CertificateTree
from tests.federation_fixture import ROOT
from tests.unit.controller.nodelink.served_links import (
    CONTROLLER,
    Directory,
    ScriptedAgent,
    ScriptedRelay,
    Served,
    key_of,
    until,
)
from trust.certificates import fingerprint
from trust.files import Credentials
from trust.identity import Kind

ZONE = "edge-zone-a1"
LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE
COPIED = return_pb2.INCIDENT_KIND_CERTIFICATE_COPIED


@pytest.fixture
async def served(tmp_path: Path, certificate_tree: CertificateTree) -> AsyncIterator[Served]:
    directory = Directory(tmp_path / "controller", certificate_tree, heartbeat_interval_s=0.2)
    async with directory.served() as controller:
        await controller.create_node("n1")
        yield controller


@pytest.fixture
def own(served: Served) -> Credentials:
    return served.leaf(Kind.NODE, "n1")


@pytest.fixture
async def relay(served: Served) -> ScriptedRelay:
    relay = ScriptedRelay(served, shown=served.leaf(Kind.RELAY, "relay-1"))
    await relay.greet()
    return relay


def incident(served: Served, domain: str = ROOT) -> Any:
    return served.body(domain, "nodes/n1", "return_incident")


async def test_another_key_by_the_same_certificate_is_raised_while_the_first_is_linked(
    served: Served, own: Credentials, relay: ScriptedRelay
) -> None:
    first = ScriptedAgent(served, shown=own)
    await first.greet()
    link = served.service.links.get("n1")
    assert link is not None
    await first.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1))
    await first.hear("heartbeat_ack")
    refused = await relay.bring(0, "n1", key=key_of("thief"), vouching=own)
    assert refused.goodbye.reason == nodelink_pb2.LINK_END_IDENTITY
    found = await until(lambda: incident(served))
    assert (found.kind, found.reason, found.relay) == (COPIED, "ANOTHER_KEY", "relay-1")
    assert found.linked_source == link.peer
    assert found.source.endswith("relay:relay-1")
    assert found.certificate == fingerprint(own.leaf)
    assert served.service.links.get("n1") is link


async def test_two_agents_are_raised_when_one_comes_by_a_relay_and_the_other_by_itself(
    served: Served, own: Credentials, relay: ScriptedRelay
) -> None:
    """The linked one is heard in its relay's batches only."""
    assert (await relay.bring(0, "n1", "s1", vouching=own)).HasField("welcome")
    copy = await ScriptedAgent(served, shown=own).greet()
    assert copy.goodbye.reason == nodelink_pb2.LINK_END_DUPLICATE
    number = 0
    while incident(served) is None:
        number += 1
        await relay.say(heartbeats=relay_pb2.HeartbeatBatch(number=number, nodes=[0]))
        assert (await relay.hear_kind("heartbeats")).number == number
    found = incident(served)
    assert found.kind == return_pb2.INCIDENT_KIND_TWO_AGENTS
    assert found.linked_source.endswith("relay:relay-1")
    assert (found.relay, found.certificate) == ("", fingerprint(own.leaf))
    link = served.service.links.get("n1")
    assert link is not None
    assert link.relay == "relay-1"


async def test_the_copy_behind_a_relay_is_raised_when_the_first_speaks(
    served: Served, own: Credentials, relay: ScriptedRelay
) -> None:
    first = ScriptedAgent(served, shown=own)
    await first.greet()
    copy = await relay.bring(0, "n1", "s1", vouching=own)
    assert copy.goodbye.reason == nodelink_pb2.LINK_END_DUPLICATE
    await first.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1))
    found = await until(lambda: incident(served))
    assert (found.kind, found.relay) == (return_pb2.INCIDENT_KIND_TWO_AGENTS, "relay-1")


# At two controllers.


async def live_in_the_zone(served: Served, run: str = "true") -> None:
    """The node lives in a zone with a controller of its own, where a run of its agent is linked."""
    state = connectivity_pb2.LinkState(mode=LIVE, run=run)

    def decide(proposal: Proposal) -> None:
        proposal.write(ZONE, "nodes/n1", "link_state", state, principal="user:test")

    await served.submit(decide)


@pytest.fixture
async def zone(
    tmp_path: Path, certificate_tree: CertificateTree, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    """The root's controller, where a node of the zone strays to; sightings count at once."""
    monkeypatch.setattr(elsewhere, "APART_S", 0.0)
    async with Directory(tmp_path / "above", certificate_tree).served() as controller:
        await controller.declare("region-a")
        await controller.declare(ZONE, "region-a", controller=f"{ZONE}-control")
        await controller.state_authority(ZONE)
        await controller.create_node("n1", ZONE)
        await live_in_the_zone(controller)
        yield controller


async def stray(served: Served, run: str) -> None:
    own = served.leaf(Kind.NODE, "n1", ZONE)
    refused = await ScriptedAgent(served, run=run, shown=own).greet()
    assert refused.goodbye.reason == nodelink_pb2.LINK_END_MOVED, refused


async def test_a_copy_that_calls_another_controller_is_raised_there(zone: Served) -> None:
    zone.forwarder.up = {f"{ZONE}-control"}
    await stray(zone, "copy")
    assert incident(zone, ZONE) is None
    await stray(zone, "copy")
    found = await until(lambda: incident(zone, ZONE))
    assert (found.kind, found.reason) == (COPIED, "ANOTHER_CONTROLLER")
    assert CONTROLLER in found.evidence
    assert f"{ZONE}-control" in found.evidence


async def test_an_agent_that_strays_is_no_copy_of_itself(zone: Served) -> None:
    zone.forwarder.up = {f"{ZONE}-control"}
    for _ in range(3):
        await stray(zone, "true")
    assert incident(zone, ZONE) is None


async def test_nothing_is_raised_while_the_nodes_controller_is_out_of_reach(zone: Served) -> None:
    for _ in range(3):
        await stray(zone, "copy")
    assert incident(zone, ZONE) is None


async def test_sightings_count_when_they_lie_apart_and_the_link_stood_all_the_time(
    zone: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "APART_S", 60.0)
    seen, facts = Elsewhere(), zone.replica.state
    assert not seen.is_at_two_places(facts, ZONE, "n1", "copy", 0.0)
    assert not seen.is_at_two_places(facts, ZONE, "n1", "copy", 59.0)
    assert seen.is_at_two_places(facts, ZONE, "n1", "copy", 60.0)
    # Its agent was linked anew meanwhile: it may have been here in between.
    await live_in_the_zone(zone, "again")
    assert not seen.is_at_two_places(facts, ZONE, "n1", "copy", 61.0)
    assert not seen.is_at_two_places(facts, ZONE, "n1", "other", 130.0)
    assert not seen.is_at_two_places(facts, ZONE, "n1", "other", 140.0)
    assert seen.is_at_two_places(facts, ZONE, "n1", "other", 190.0)
