"""Large values travel beside the events that name them: the package list of this host can be fetched by its digest at
every level, also when the link was cut between an event and its value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import grpc
import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import fleet_service_pb2, observation_pb2
from souverix.supply.v1 import supply_service_pb2
from tests.e2e.clients import DEADLINE_S, Clients, reason_of, wait_until
from tests.e2e.link_proxy import LinkProxy

ZONE = "edge-zone-a1"


@dataclass
class Levels:
    """The controllers of this module, and the link between the zone and its region."""

    federation: LocalFederation
    link: LinkProxy
    top: Clients
    region: Clients
    zone: Clients

    def all(self) -> list[Clients]:
        """From the edge upwards."""
        return [self.zone, self.region, self.top]


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Levels]:
    plans = [
        DomainPlan("global", kind="global", level="global", log="sqlite"),
        DomainPlan("region-a", "global", kind="region", level="regional", log="sqlite"),
        DomainPlan(ZONE, "region-a", log="sqlite"),
    ]
    federation = LocalFederation(tmp_path_factory.mktemp("federation"), plans)
    with LinkProxy(federation.address("region-a")) as link:
        federation.parent_addresses[f"{ZONE}-control"] = [link.endpoint]
        with (
            federation,
            Clients(federation.address("global")) as top,
            Clients(federation.address("region-a")) as region,
            Clients(federation.address(ZONE)) as zone,
        ):
            federation.start_all()
            yield Levels(federation, link, top, region, zone)


def _packages(clients: Clients, node: str) -> observation_pb2.LargeValueRef | None:
    """What the node's inventory names as its packages, as this controller knows it."""
    request = fleet_service_pb2.GetNodeRequest(name=f"nodes/{node}")
    try:
        inventory = clients.fleet.GetNode(request, timeout=DEADLINE_S).node.inventory
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return next((v for v in inventory.large_values if v.name == "packages"), None)


def _wait_for_packages(clients: Clients, node: str) -> observation_pb2.LargeValueRef:
    value = wait_until(lambda: _packages(clients, node), f"packages of {node} named at the top")
    assert value is not None
    return value


def _download(clients: Clients, digest: str, offset: int = 0) -> bytes | None:
    """A value's bytes; None where it is not (yet) here."""
    request = fleet_service_pb2.DownloadLargeValueRequest(digest=digest, offset=offset)
    try:
        parts = list(clients.fleet.DownloadLargeValue(request, timeout=DEADLINE_S))
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return b"".join(part.data for part in parts)


def _check(levels: Levels, value: observation_pb2.LargeValueRef) -> Any:
    """The value, which is the same at every level."""
    found = []
    for clients in levels.all():
        data = wait_until(
            partial(_download, clients, value.digest), f"the packages at {clients.address}"
        )
        assert data is not None
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == value.digest
        assert len(data) == value.size_bytes
        found.append(json.loads(data))
    return found[0]


def _debt(zone: Clients) -> int:
    """Events that the region has not acknowledged to the zone."""
    request = federation_service_pb2.ListPeersRequest()
    [parent] = zone.federation.ListPeers(request, timeout=DEADLINE_S).peers
    assert parent.role == federation_service_pb2.PEER_ROLE_PARENT
    return int(parent.debt.backlog_events)


def test_the_packages_of_this_host_are_fetched_by_digest_at_every_level(levels: Levels) -> None:
    levels.federation.start_agent(ZONE, "host-1")
    value = _wait_for_packages(levels.top, "host-1")
    document = _check(levels, value)
    assert any(str(entry) for entry in document)
    whole = _download(levels.top, value.digest)
    assert whole is not None
    assert _download(levels.top, value.digest, offset=1000) == whole[1000:]
    wait_until(lambda: _debt(levels.zone) == 0, "all acknowledged by the region")


def _who_runs(clients: Clients, purl: str) -> supply_service_pb2.FindAffectedNodesResponse | None:
    """Who runs a component, once the node's SBOM was read there."""
    request = supply_service_pb2.FindAffectedNodesRequest(
        purl=purl, domain=ZONE, version_range=">=0"
    )
    try:
        reply = clients.supply.FindAffectedNodes(request, timeout=DEADLINE_S)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return reply if reply.counts.affected else None


def test_the_sbom_of_this_host_answers_who_runs_what_at_every_level(levels: Levels) -> None:
    version = metadata.version("grpcio")
    for clients in levels.all():
        reply = wait_until(
            partial(_who_runs, clients, "pkg:pypi/grpcio"), f"the SBOM read at {clients.address}"
        )
        assert reply is not None
        (node,) = [each for each in reply.nodes if each.node == "host-1"]
        assert list(node.purls) == [f"pkg:pypi/grpcio@{version}"]
        assert node.HasField("sbom_time")
        assert reply.version_scheme == "pypi"
        request = supply_service_pb2.GetSbomLineageRequest(node="host-1")
        wait_until(
            lambda clients=clients, request=request: (
                clients.supply.GetSbomLineage(  # type: ignore[misc]
                    request, timeout=DEADLINE_S
                ).versions
            ),
            f"the lineage at {clients.address}",
        )


def test_a_value_whose_upload_was_cut_off_comes_with_the_next_session(levels: Levels) -> None:
    levels.link.swallow_replies()
    levels.federation.start_simulated_agents(ZONE, 1)
    node = f"{ZONE}-n1"
    value = _wait_for_packages(levels.top, node)
    assert _download(levels.zone, value.digest)
    assert _download(levels.region, value.digest) is None
    assert _download(levels.top, value.digest) is None
    assert _debt(levels.zone) > 0
    levels.link.heal()
    _check(levels, value)
    wait_until(lambda: _debt(levels.zone) == 0, "all acknowledged by the region")


def test_a_value_that_nobody_has_is_refused_with_the_cause(levels: Levels) -> None:
    for digest, code in [
        ("sha256:" + "0" * 64, grpc.StatusCode.NOT_FOUND),
        ("../../etc/passwd", grpc.StatusCode.INVALID_ARGUMENT),
    ]:
        request = fleet_service_pb2.DownloadLargeValueRequest(digest=digest)
        with pytest.raises(grpc.RpcError) as refused:
            list(levels.top.fleet.DownloadLargeValue(request, timeout=DEADLINE_S))
        assert refused.value.code() is code
        assert reason_of(refused.value)
