"""What controllers tell of their links: a zone that syncs now and then, and a standby that has none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.federation.v1 import federation_service_pb2
from tests.e2e.clients import DEADLINE_S, Clients, reason_of, wait_until

ZONE = "edge-zone-b1"


@pytest.fixture
def opportunistic(tmp_path: Path) -> Iterator[LocalFederation]:
    plans = [
        DomainPlan("region-b", log="sqlite"),
        DomainPlan(ZONE, "region-b", sync_mode="opportunistic", log="sqlite"),
    ]
    with LocalFederation(tmp_path, plans) as running:
        running.start_all()
        yield running


@pytest.fixture
def replicated(tmp_path: Path, etcd_binary: Path) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path, [DomainPlan("region-a", replicas=2)]) as running:
        running.start_all()
        yield running


def _parent(zone: Clients) -> federation_service_pb2.Peer:
    request = federation_service_pb2.ListPeersRequest()
    (peer,) = zone.federation.ListPeers(request, timeout=DEADLINE_S).peers
    found: federation_service_pb2.Peer = peer
    return found


def _is_closed(zone: Clients) -> bool:
    return _parent(zone).state == federation_service_pb2.PEER_STATE_DISCONNECTED


def test_an_opportunistic_zone_closes_its_link_and_opens_it_when_asked(
    opportunistic: LocalFederation,
) -> None:
    with (
        Clients(opportunistic.address("region-b")) as region,
        Clients(opportunistic.address(ZONE)) as zone,
    ):
        # The first session brings the record that says how the zone is to sync, and must not outlive it.
        wait_until(lambda: _is_closed(zone), "the link is closed once both sides are level")
        assert _parent(zone).HasField("debt")
        before = _parent(zone).debt.backlog_events
        zone.create_policy(ZONE, "p", "v1")
        assert _parent(zone).debt.backlog_events > before
        assert _parent(zone).debt.backlog_policy_updates >= 1
        assert region.policy(ZONE, "p") is None

        steps = list(
            zone.federation.SyncNow(federation_service_pb2.SyncNowRequest(), timeout=DEADLINE_S)
        )
        assert steps[-1].level
        assert region.policy_version(ZONE, "p") == "v1"
        wait_until(lambda: _is_closed(zone), "the link is closed again")
        assert _parent(zone).debt.backlog_events == 0


def test_a_standby_sends_who_asks_for_links_to_the_master(replicated: LocalFederation) -> None:
    master = replicated.wait_for_master("region-a")
    with Clients(replicated.address("region-a", 3 - master)) as standby:
        standby.wait_until_connected()
        request = federation_service_pb2.ListPeersRequest()
        with pytest.raises(grpc.RpcError) as refused:
            standby.federation.ListPeers(request, timeout=DEADLINE_S)
    assert reason_of(refused.value) == "NOT_MASTER"
