"""Mastership of a zone moves to its region and back: planned, with the old master's release, and forced, while the zone
is cut off; what the superseded master wrote meanwhile is kept, never wins against the newer term, and is audited.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.audit.v1 import audit_service_pb2
from souverix.federation.v1 import authority_pb2, federation_service_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, reason_of, wait_until
from tests.e2e.link_proxy import LinkProxy

ZONE = "edge-zone-a1"
ZONE_CONTROL = f"{ZONE}-control"
REGION_CONTROL = "region-a-control"


@dataclass
class Levels:
    """The controllers of this module, and the link between the zone and its region."""

    link: LinkProxy
    top: Clients
    region: Clients
    zone: Clients


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Levels]:
    plans = [
        DomainPlan("global", kind="global", level="global", log="sqlite"),
        DomainPlan("region-a", "global", kind="region", level="regional", log="sqlite"),
        DomainPlan(ZONE, "region-a", log="sqlite", can_modify_policies=False),
    ]
    federation = LocalFederation(tmp_path_factory.mktemp("federation"), plans)
    with LinkProxy(federation.address("region-a")) as link:
        federation.parent_addresses[ZONE_CONTROL] = [link.endpoint]
        with (
            federation,
            Clients(federation.address("global")) as top,
            Clients(federation.address("region-a")) as region,
            Clients(federation.address(ZONE)) as zone,
        ):
            federation.start_all()
            wait_until(lambda: _authority(top) is not None, "the zone known at the top")
            yield Levels(link, top, region, zone)


def _authority(clients: Clients) -> federation_service_pb2.GetAuthorityResponse | None:
    request = federation_service_pb2.GetAuthorityRequest(domain=ZONE)
    try:
        found: federation_service_pb2.GetAuthorityResponse = clients.federation.GetAuthority(
            request, timeout=DEADLINE_S
        )
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return found


def _claims(clients: Clients) -> list[tuple[str, str]]:
    """Who takes itself for the master, as a controller knows it."""
    found = _authority(clients)
    assert found is not None
    prefix = "AUTHORITY_CLAIM_STANDING_"
    return [
        (c.controller, authority_pb2.AuthorityClaimStanding.Name(c.standing).removeprefix(prefix))
        for c in found.claims
    ]


def _now() -> Timestamp:
    now = Timestamp()
    now.FromNanoseconds(time.time_ns())
    return now


def _transfer(clients: Clients, to: str, *, force: bool = False) -> None:
    request = federation_service_pb2.TransferAuthorityRequest(
        domain=ZONE, to_controller=to, force=force, reason="repairs"
    )
    clients.federation.TransferAuthority(request, timeout=DEADLINE_S, metadata=PRINCIPAL)


def _wait_for_master(clients: Clients, master: str, term: int) -> None:
    def is_settled() -> bool:
        found = _authority(clients)
        return (
            found is not None
            and found.authority.master_of_record == master
            and not found.authority.next_master
            and list(found.term_path) == [1, 1, term]
        )

    wait_until(is_settled, f"{master} master-of-record under term {term} at {clients.address}")


def _is_cut(levels: Levels) -> bool:
    request = federation_service_pb2.ListPeersRequest()
    peers = levels.zone.federation.ListPeers(request, timeout=DEADLINE_S).peers
    return [p.state for p in peers] != [federation_service_pb2.PEER_STATE_LIVE]


def _superseded(clients: Clients) -> int:
    """How many writes of the zone as a superseded master are audited; an entry stands for several."""
    request = audit_service_pb2.ListAuditEntriesRequest(domain=ZONE, page_size=1000)
    entries = clients.audit.ListAuditEntries(request, timeout=DEADLINE_S).entries
    told = [e for e in entries if e.record.action == "superseded.write"]
    assert all(e.record.source == f"controller:{ZONE_CONTROL}" for e in told)
    assert all(e.controller == REGION_CONTROL for e in told)
    return sum(e.record.suppressed_count for e in told)


def test_mastership_moves_to_the_region_and_back_as_planned(levels: Levels) -> None:
    by_zone = levels.zone.create_policy(ZONE, "planned", "v1")
    assert by_zone.receipt.controller == ZONE_CONTROL
    _transfer(levels.region, REGION_CONTROL)
    for clients in (levels.region, levels.zone, levels.top):
        _wait_for_master(clients, REGION_CONTROL, 2)
    moments = {clients: _now() for clients in (levels.region, levels.zone, levels.top)}
    forwarded = levels.zone.update_policy(ZONE, "planned", "v2")
    assert forwarded.receipt.controller == REGION_CONTROL
    assert not forwarded.receipt.optimistic
    _transfer(levels.region, ZONE_CONTROL)
    for clients in (levels.zone, levels.region, levels.top):
        _wait_for_master(clients, ZONE_CONTROL, 3)
    back = levels.top.update_policy(ZONE, "planned", "v3")
    assert back.receipt.controller == ZONE_CONTROL
    for clients in (levels.zone, levels.region, levels.top):
        clients.wait_for_policy(ZONE, "planned", "v3")
    assert _superseded(levels.top) == 0
    for clients, then in moments.items():
        request = federation_service_pb2.GetAuthorityRequest(domain=ZONE, as_of_time=then)
        known = clients.federation.GetAuthority(request, timeout=DEADLINE_S)
        assert known.authority.master_of_record == REGION_CONTROL
        assert (list(known.term_path), known.etag) == ([1, 1, 2], "")


def test_only_the_master_of_the_parent_domain_moves_authority(levels: Levels) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        _transfer(levels.zone, REGION_CONTROL)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert _authority(levels.region) == _authority(levels.zone)


def test_after_a_forced_transfer_late_writes_lose_to_the_newer_term_and_stand_alone_otherwise(
    levels: Levels,
) -> None:
    zone, region, top = levels.zone, levels.region, levels.top
    zone.create_policy(ZONE, "contended", "v0")
    top.wait_for_policy(ZONE, "contended", "v0")
    before = _authority(zone)
    assert before is not None
    levels.link.cut()
    wait_until(lambda: _is_cut(levels), "the zone sees the cut")
    _transfer(region, REGION_CONTROL, force=True)
    _wait_for_master(region, REGION_CONTROL, before.authority.term + 1)
    assert _claims(region) == [(REGION_CONTROL, "IN_FORCE"), (ZONE_CONTROL, "NOT_HEARD_SINCE")]
    assert _claims(zone) == [(ZONE_CONTROL, "IN_FORCE")]
    region.update_policy(ZONE, "contended", "by-the-new-master")
    late = zone.update_policy(ZONE, "contended", "by-the-old-master")
    assert late.receipt.controller == ZONE_CONTROL
    zone.create_policy(ZONE, "alone", "by-the-old-master")
    assert _authority(zone) == before
    levels.link.heal()
    for clients in (zone, region, top):
        _wait_for_master(clients, REGION_CONTROL, before.authority.term + 1)
        clients.wait_for_policy(ZONE, "contended", "by-the-new-master")
        clients.wait_for_policy(ZONE, "alone", "by-the-old-master")
    for clients in (zone, region):
        wait_until(
            lambda c=clients: _claims(c) == [(REGION_CONTROL, "IN_FORCE")],  # type: ignore[misc]
            "nobody else takes itself for the master",
        )
    # Three events: the update, and existence and value of the policy created.
    wait_until(lambda: _superseded(top) == 3, "the late writes audited at the top")
    open_conflicts = federation_service_pb2.ListConflictsRequest(only_open=True)
    [conflict] = region.federation.ListConflicts(open_conflicts, timeout=DEADLINE_S).conflicts
    values = [v.fields["version"].string_value for v in conflict.values]
    assert values == ["by-the-new-master", "by-the-old-master"]


def test_a_cut_off_old_master_refuses_writes_and_names_the_new_one(levels: Levels) -> None:
    levels.link.cut()
    wait_until(lambda: _is_cut(levels), "the zone sees the cut")
    with pytest.raises(grpc.RpcError) as refused:
        levels.zone.create_policy(ZONE, "refused", "v1")
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(refused.value) == "NOT_MASTER_OF_RECORD"
    status = rpc_status.from_call(refused.value)  # type: ignore[arg-type]
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.metadata["master"] == REGION_CONTROL
    assert REGION_CONTROL in status.message
    levels.link.heal()
    wait_until(lambda: not _is_cut(levels), "the link is back")
    made = levels.zone.create_policy(ZONE, "forwarded-again", "v1")
    assert made.receipt.controller == REGION_CONTROL
