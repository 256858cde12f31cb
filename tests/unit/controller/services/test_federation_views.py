from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import duration_pb2

from controller.sync.links import PeerView
from federation.backlog import SyncDebt
from federation.errors import InvalidWrite, WrongState
from federation.identifiers import Key
from federation.session_phases import Phase
from federation.session_settings import PeerRole
from souverix.federation.v1 import federation_service_pb2 as service
from souverix.fleet.v1 import domain_pb2, node_pb2
from tests.unit.controller.live_controllers import (
    Federation,
    LiveController,
    as_caller,
    federation_in,
)


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    async with federation_in(tmp_path) as federation:
        yield federation


@pytest.fixture
async def top(federation: Federation) -> LiveController:
    return await federation.start_root()


def view(**fields: Any) -> PeerView:
    given: dict[str, Any] = {
        "controller": "global-control",
        "domain": "global",
        "role": PeerRole.PARENT,
        "phase": Phase.SYNCING,
        "address": "127.0.0.1:7400",
        "last_seen_ms": 5_000,
        "debt": SyncDebt(0, 0, {}, 0.0, None),
        "skew_ms": -20,
        "last_error": "",
        "next_attempt_ms": None,
        "last_level_ms": 4_000,
        **fields,
    }
    return PeerView(**given)


async def test_topology_lists_parents_first_with_authority_nodes_and_freshness(
    federation: Federation, top: LiveController
) -> None:
    region = await federation.start_below(top, "region-a-control", "region-a")
    zone = await federation.start_below(region, "edge-zone-a1-control", "edge-zone-a1")
    for node in ("n1", "n2"):
        at = f"nodes/{node}"
        await zone.write(Key("edge-zone-a1", at, "existence"), domain_pb2.Existence(exists=True))
        placement = node_pb2.Placement(domain="edge-zone-a1", epoch=1)
        await zone.write(Key("edge-zone-a1", at, "placement"), placement)
    gone = Key("edge-zone-a1", "nodes/n2", "existence")
    await zone.write(gone, domain_pb2.Existence(exists=False))
    await region.receive_from(zone)
    await top.receive_from(region)

    tree = await top.federation.GetTopology(service.GetTopologyRequest(), as_caller())

    assert tree.controller == "global-control"
    assert [d.domain for d in tree.domains] == ["global", "region-a", "edge-zone-a1"]
    assert [d.parent for d in tree.domains] == ["", "global", "region-a"]
    assert [d.own for d in tree.domains] == [True, False, False]
    assert [d.node_count for d in tree.domains] == [0, 0, 1]
    assert [list(d.term_path) for d in tree.domains] == [[1], [1, 1], [1, 1, 1]]
    assert [d.HasField("last_received_time") for d in tree.domains] == [False, True, True]


async def test_streams_tell_what_is_held_what_is_in_effect_and_why_the_rest_waits(
    federation: Federation, top: LiveController
) -> None:
    region = await federation.start_below(top, "region-a-control", "region-a")
    zone = await federation.start_below(region, "edge-zone-a1-control", "edge-zone-a1")
    await zone.write(
        Key("edge-zone-a1", "nodes/n1", "existence"), domain_pb2.Existence(exists=True)
    )
    for commit in await zone.replica.read_commits(0, 1 << 20):
        for run in commit.runs:
            if run.stream.controller == zone.name:
                await top.submit(lambda p, run=run: p.receive("region-a-control", run))  # type: ignore[misc]

    reply = await top.federation.ListStreams(
        service.ListStreamsRequest(domain="edge-zone-a1"), as_caller()
    )

    [waiting] = [s for s in reply.streams if s.controller == zone.name and s.lane == "control"]
    assert (waiting.received, waiting.applied) == (1, 0)
    assert waiting.pending_reason == "KEY_UNKNOWN"
    everything = await top.federation.ListStreams(service.ListStreamsRequest(), as_caller())
    own = next(s for s in everything.streams if s.controller == "global-control")
    assert own.applied == own.received > 0
    assert own.pending_reason == ""
    tree = await top.federation.GetTopology(service.GetTopologyRequest(), as_caller())
    assert [d.domain for d in tree.domains if not d.HasField("authority")] == ["edge-zone-a1"]


async def test_peers_are_shown_with_state_debt_and_skew(top: LiveController) -> None:
    behind = SyncDebt(9_000, 12, {"config": 3, "message": 9}, 4.0, 3_000)
    top.wires.views = [
        view(),
        view(role=PeerRole.CHILD, controller="region-a-control", debt=behind),
        view(role=PeerRole.CHILD, controller="b", phase=Phase.COMPARING),
        view(
            role=PeerRole.CHILD,
            controller="c",
            phase=Phase.CLOSED,
            debt=None,
            skew_ms=None,
            last_seen_ms=None,
            last_error="refused",
            next_attempt_ms=7_000,
        ),
    ]
    reply = await top.federation.ListPeers(service.ListPeersRequest(), as_caller())
    level, late, greeting, cut = reply.peers
    assert level.state == service.PEER_STATE_LIVE
    assert level.role == service.PEER_ROLE_PARENT
    assert level.clock_skew.ToMilliseconds() == -20
    assert late.state == service.PEER_STATE_CATCHING_UP
    assert late.debt.behind.ToMilliseconds() == 9_000
    assert (late.debt.backlog_events, late.debt.backlog_config_updates) == (12, 3)
    assert late.debt.estimated_duration.ToMilliseconds() == 3_000
    assert late.debt.HasField("replay_eta")
    assert greeting.state == service.PEER_STATE_GREETING
    assert cut.state == service.PEER_STATE_DISCONNECTED
    assert not cut.HasField("debt")
    assert not cut.HasField("last_seen_time")
    assert (cut.last_error, cut.next_attempt_time.ToMilliseconds()) == ("refused", 7_000)


async def test_status_names_the_master_its_token_and_the_logs_head(
    federation: Federation, top: LiveController
) -> None:
    status = await top.federation.GetStatus(service.GetStatusRequest(), as_caller())
    head = await top.replica.log.head()
    assert (status.controller, status.domain, status.replica) == ("global-control", "global", "r1")
    assert status.master
    assert status.current_master.startswith("r1@")
    assert status.fencing_token == top.replica.journal().fencing_token
    assert status.next_offset == status.applied_offset == top.state.next_offset
    assert status.head_hash == head.hash.hex()
    assert status.connected_nodes == 3
    assert status.version
    assert not status.HasField("sync")
    child = await federation.start_below(top, "region-a-control", "region-a")
    status = await child.federation.GetStatus(service.GetStatusRequest(), as_caller())
    assert status.HasField("sync")


async def test_sync_now_tells_each_step_and_ends_level(
    federation: Federation, top: LiveController
) -> None:
    child = await federation.start_below(top, "region-a-control", "region-a")
    child.wires.views = [view(phase=Phase.GREETING, debt=None), view()]
    steps = [step async for step in child.federation.SyncNow(service.SyncNowRequest(), as_caller())]
    assert [s.level for s in steps] == [False, False, True]
    assert steps[0].state == service.PEER_STATE_GREETING
    assert steps[1].state == service.PEER_STATE_LIVE


async def test_sync_now_is_refused_at_the_root_and_for_a_time_that_is_none(
    top: LiveController,
) -> None:
    with pytest.raises(WrongState, match="no parent"):
        await anext(aiter(top.federation.SyncNow(service.SyncNowRequest(), as_caller())))
    request = service.SyncNowRequest(timeout=duration_pb2.Duration(seconds=-1))
    with pytest.raises(InvalidWrite, match="timeout"):
        await anext(aiter(top.federation.SyncNow(request, as_caller())))
