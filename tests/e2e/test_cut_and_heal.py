"""A zone cut off from its region: both go on, both write the same policy, and when the link is back they converge with
the loser kept, recorded and restorable.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.audit.v1 import audit_service_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import fleet_service_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, reason_of, wait_until
from tests.e2e.link_proxy import LinkProxy

ZONE = "edge-zone-a1"


@pytest.fixture
def link_and_federation(
    tmp_path: Path, etcd_binary: Path
) -> Iterator[tuple[LinkProxy, LocalFederation]]:
    plans = [
        DomainPlan("region-a", kind="global", level="global"),
        DomainPlan(ZONE, "region-a"),
    ]
    federation = LocalFederation(tmp_path, plans)
    with LinkProxy(federation.address("region-a")) as link:
        federation.parent_addresses[f"{ZONE}-control"] = [link.endpoint]
        with federation as running:
            running.start_all()
            yield link, running


def _is_linked(region: Clients) -> bool:
    peers = region.federation.ListPeers(
        federation_service_pb2.ListPeersRequest(), timeout=DEADLINE_S
    ).peers
    return [p.state for p in peers] == [federation_service_pb2.PEER_STATE_LIVE]


def _conflicts(client: Clients, *, only_open: bool) -> list[federation_service_pb2.Conflict]:
    request = federation_service_pb2.ListConflictsRequest(only_open=only_open)
    return list(client.federation.ListConflicts(request, timeout=DEADLINE_S).conflicts)


def test_writes_on_both_sides_of_a_cut_converge_with_the_conflict_kept_and_audited(
    link_and_federation: tuple[LinkProxy, LocalFederation],
) -> None:
    link, federation = link_and_federation
    with (
        Clients(federation.address("region-a")) as region,
        Clients(federation.address(ZONE)) as zone,
    ):
        zone.create_policy(ZONE, "p", "v1")
        region.wait_for_policy(ZONE, "p", "v1")
        link.cut()
        wait_until(lambda: not _is_linked(region), "the region sees the cut")
        by_zone = zone.update_policy(ZONE, "p", "by-the-zone")
        by_region = region.update_policy(ZONE, "p", "by-the-region")
        assert not by_zone.receipt.optimistic
        assert by_region.receipt.optimistic
        zone.create_policy(ZONE, "while-cut-off", "v1")
        link.heal()
        region.wait_for_policy(ZONE, "while-cut-off", "v1")
        recorded = wait_until(lambda: _conflicts(zone, only_open=True), "the conflict at the zone")
        wait_until(lambda: _conflicts(region, only_open=True), "the conflict at the region")
        winner = zone.policy_version(ZONE, "p")
        region.wait_for_policy(ZONE, "p", winner)
        _check_record(recorded[0], winner)
        assert "conflict.recorded" in _audited_actions(zone)
        _restore_loser(region, zone, recorded[0], winner)


def _check_record(conflict: federation_service_pb2.Conflict, winner: str) -> None:
    assert conflict.open
    versions = [v.fields["version"].string_value for v in conflict.values]
    assert sorted(versions) == ["by-the-region", "by-the-zone"]
    assert versions[0] == winner
    assert [s.winner for s in conflict.record.siblings] == [True, False]


def _restore_loser(
    region: Clients, zone: Clients, conflict: federation_service_pb2.Conflict, winner: str
) -> None:
    loser = next(s for s in conflict.record.siblings if not s.winner)
    request = federation_service_pb2.RestoreConflictValueRequest(
        name=conflict.name, controller=loser.controller, sequence=loser.sequence
    )
    restored = zone.federation.RestoreConflictValue(request, timeout=DEADLINE_S, metadata=PRINCIPAL)
    assert not restored.conflict.open
    other = "by-the-zone" if winner == "by-the-region" else "by-the-region"
    zone.wait_for_policy(ZONE, "p", other)
    region.wait_for_policy(ZONE, "p", other)
    wait_until(lambda: not _conflicts(region, only_open=True), "no open conflict at the region")


def _audited_actions(client: Clients) -> set[str]:
    request = audit_service_pb2.ListAuditEntriesRequest(page_size=1000)
    entries = client.audit.ListAuditEntries(request, timeout=DEADLINE_S).entries
    return {entry.record.action for entry in entries}


def test_streams_are_equal_after_any_number_of_cuts_in_the_middle_of_syncing(
    link_and_federation: tuple[LinkProxy, LocalFederation],
) -> None:
    link, federation = link_and_federation
    with (
        Clients(federation.address("region-a")) as region,
        Clients(federation.address(ZONE)) as zone,
    ):
        for number in range(6):
            _create_nodes(zone, f"batch-{number}", 300)
            if number % 2:
                link.reset_connections()
            else:
                link.swallow_replies()
                _create_nodes(zone, f"unheard-{number}", 50)
                link.heal()
        wait_until(lambda: _is_linked(region), "the link is back")
        wait_until(
            lambda: all(region.streams(ZONE).get(s) == at for s, at in zone.streams(ZONE).items()),
            "equal streams on both sides",
        )
        held, _ = region.streams(ZONE)[(f"{ZONE}-control", "control")]
        assert held >= 2 * (6 * 300 + 3 * 50)
        request = audit_service_pb2.VerifyAuditRequest(all_lanes=True)
        steps = list(region.audit.VerifyAudit(request, timeout=DEADLINE_S))
        assert steps[-1].summary.faulty_streams == 0


def _create_nodes(client: Clients, prefix: str, count: int) -> None:
    request = fleet_service_pb2.BatchCreateNodesRequest(
        items=[
            fleet_service_pb2.NodeCreation(domain=ZONE, node_id=f"{prefix}-{n}")
            for n in range(count)
        ]
    )
    response = client.fleet.BatchCreateNodes(request, timeout=DEADLINE_S, metadata=PRINCIPAL)
    assert [r.status.code for r in response.results] == [0] * count


def test_without_autonomy_a_cut_off_controller_refuses_to_write_for_another(
    tmp_path: Path, etcd_binary: Path
) -> None:
    plans = [
        DomainPlan("region-a", kind="global", level="global", log="sqlite"),
        DomainPlan(
            ZONE,
            "region-a",
            log="sqlite",
            master_of_record="region-a-control",
            can_modify_policies=False,
        ),
    ]
    federation = LocalFederation(tmp_path, plans)
    with LinkProxy(federation.address("region-a")) as link:
        federation.parent_addresses[f"{ZONE}-control"] = [link.endpoint]
        with federation as running:
            running.start_all()
            with (
                Clients(running.address("region-a")) as region,
                Clients(running.address(ZONE)) as zone,
            ):
                made = zone.create_policy(ZONE, "p", "v1")
                assert made.receipt.controller == "region-a-control"
                zone.wait_for_policy(ZONE, "p", "v1")
                link.cut()
                wait_until(lambda: not _is_linked(region), "the region sees the cut")
                with pytest.raises(grpc.RpcError) as refused:
                    wait_until(lambda: zone.update_policy(ZONE, "p", "v2"), "a refusal")
                assert reason_of(refused.value) in ("NOT_MASTER_OF_RECORD", "OUTCOME_UNKNOWN")
                assert zone.policy_version(ZONE, "p") == "v1"
