from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.clock import stamp_of
from federation.identifiers import Key, Lane, Origin, StreamId
from souverix.audit.v1 import audit_pb2
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import federation_service_pb2 as service
from souverix.policy.v1 import policy_pb2
from tests.unit.controller.live_controllers import (
    Federation,
    LiveController,
    as_caller,
    federation_in,
    until,
)

POLICY = Key("edge-zone-a1", "policies/base", "policy")


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    async with federation_in(tmp_path) as federation:
        yield federation


@pytest.fixture
async def top(federation: Federation) -> LiveController:
    return await federation.start_root()


@pytest.fixture
async def zone(federation: Federation, top: LiveController) -> LiveController:
    return await federation.start_below(top, "edge-zone-a1-control", "edge-zone-a1")


async def take_over(top: LiveController) -> None:
    """Forces the zone's authority up, without the zone hearing of it."""
    request = service.TransferAuthorityRequest(
        domain="edge-zone-a1", to_controller=top.name, force=True, reason="site lost"
    )
    await top.federation.TransferAuthority(request, as_caller())


async def write_policy(at: LiveController, version: str, later_ms: int = 0) -> None:
    """Writes the policy; `later_ms` from now by the writer's clock."""
    stamp = stamp_of(time.time_ns() // 1_000_000 + later_ms) if later_ms else None
    await at.write(POLICY, policy_pb2.PolicySpec(version=version), stamp=stamp)


async def test_late_writes_of_a_superseded_master_are_audited_once_by_its_successor(
    top: LiveController, zone: LiveController
) -> None:
    await take_over(top)
    for number in range(3):
        await write_policy(zone, f"late-{number}", later_ms=100)
    await top.receive_from(zone)
    [record] = await until(lambda: top.audited("superseded.write"), "the audit")
    assert record.outcome == audit_pb2.AUDIT_OUTCOME_OBSERVED
    assert record.details["controller"] == zone.name
    assert record.resource == "domains/edge-zone-a1"
    assert record.suppressed_count == 3
    await zone.receive_from(top)
    assert [r.principal for r in zone.audited("superseded.write")] == [f"controller:{top.name}"]


async def test_what_a_predecessor_left_unaudited_is_audited_after_a_restart_and_only_once(
    top: LiveController, zone: LiveController
) -> None:
    await take_over(top)
    await write_policy(zone, "late", later_ms=100)
    await top.receive_from(zone)
    await top.stop()
    await top.start()
    await until(lambda: top.audited("superseded.write"), "the audit")
    await top.stop()
    await top.start()
    conflict_free = Key("edge-zone-a1", "policies/other", "policy")
    await top.write(conflict_free, policy_pb2.PolicySpec())
    assert sum(r.suppressed_count for r in top.audited("superseded.write")) == 1


async def test_a_quarantined_run_is_audited_with_its_reason(
    top: LiveController, zone: LiveController
) -> None:
    await write_policy(zone, "true")
    offset = zone.state.next_offset - 1
    [commit] = await zone.replica.read_commits(offset, 1)
    forged = event_pb2.Run()
    forged.CopyFrom(commit.runs[0])
    forged.seal.signature = bytes(64)
    await top.submit(lambda p: p.receive(zone.name, forged))
    [record] = await until(lambda: top.audited("run.quarantined"), "the audit")
    assert record.reason == "SEAL_INVALID"
    assert record.source == f"controller:{zone.name}"
    stream = StreamId("edge-zone-a1", Origin(zone.name, 1), Lane.CONTROL)
    assert top.state.received(stream) == 0


async def test_a_conflict_found_after_a_restart_is_still_recorded(
    federation: Federation, top: LiveController, zone: LiveController
) -> None:
    await write_policy(top, "from-above")
    await write_policy(zone, "from-zone")
    await top.receive_from(zone)
    [conflict_id] = top.state.conflicts.due
    await zone.stop()
    await zone.start()
    await zone.receive_from(top)
    await until(lambda: conflict_id in zone.state.conflicts.recorded, "the record")
    assert conflict_id not in top.state.conflicts.recorded
    await top.receive_from(zone)
    assert conflict_id in top.state.conflicts.recorded
    assert not top.state.conflicts.due


async def test_a_master_that_is_handing_over_records_no_conflict_any_more(
    top: LiveController, zone: LiveController
) -> None:
    request = service.TransferAuthorityRequest(domain="edge-zone-a1", to_controller=top.name)
    await write_policy(top, "from-above")
    await write_policy(zone, "from-zone")
    await top.federation.TransferAuthority(request, as_caller())
    await zone.receive_from(top)
    await until(lambda: zone.audited("authority.released"), "the release")
    assert not zone.state.conflicts.recorded
    await top.receive_from(zone)
    await until(lambda: top.state.conflicts.recorded, "the record by the new master")
    [(key, write)] = top.state.conflicts.recorded.values()
    assert (key, write.origin.controller) == (POLICY, top.name)
