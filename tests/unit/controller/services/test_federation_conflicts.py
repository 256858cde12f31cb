from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from federation.clock import stamp_of
from federation.errors import AuthorityError, EtagMismatch, InvalidWrite, NotFound, WrongState
from federation.identifiers import Key
from federation.merge import etag_of
from souverix.federation.v1 import authority_pb2
from souverix.federation.v1 import federation_service_pb2 as service
from souverix.fleet.v1 import node_pb2
from souverix.policy.v1 import policy_pb2
from tests.unit.controller.live_controllers import (
    Federation,
    LiveController,
    as_caller,
    federation_in,
    until,
)

POLICY = Key("edge-zone-a1", "policies/base", "policy")


class Pair:
    """A zone that is master-of-record of its domain, and the root above it, which wrote there too."""

    def __init__(self, top: LiveController, zone: LiveController) -> None:
        self.top, self.zone = top, zone

    async def disagree(
        self, key: Key = POLICY, upper: Any = None, lower: Any = None
    ) -> service.Conflict:
        """Both write while cut off from each other, the zone last, then meet; the conflict, as the zone recorded it."""
        stamp = stamp_of(time.time_ns() // 1_000_000)
        upper = upper or policy_pb2.PolicySpec(version="from-above")
        lower = lower or policy_pb2.PolicySpec(version="from-zone")
        await self.top.write(key, upper, "user:up", stamp=stamp)
        await self.zone.write(key, lower, "user:low", stamp=stamp + 1)
        await self.zone.receive_from(self.top)
        conflict_id = self.zone.state.conflicts.open_keys[key]
        await until(lambda: conflict_id in self.zone.state.conflicts.recorded, "the record")
        await self.top.receive_from(self.zone)
        return await self.get(self.zone, f"conflicts/{conflict_id}")

    async def get(self, at: LiveController, name: str) -> service.Conflict:
        reply = await at.federation.GetConflict(service.GetConflictRequest(name=name), as_caller())
        return reply.conflict


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with federation_in(tmp_path) as federation:
        yield await pair_in(federation)


async def pair_in(federation: Federation, autonomy: authority_pb2.Autonomy | None = None) -> Pair:
    top = await federation.start_root()
    zone = await federation.start_below(
        top, "edge-zone-a1-control", "edge-zone-a1", autonomy=autonomy
    )
    await top.receive_from(zone)
    return Pair(top, zone)


def restore(conflict: service.Conflict, controller: str, **fields: Any) -> Any:
    return service.RestoreConflictValueRequest(name=conflict.name, controller=controller, **fields)


async def test_the_master_of_record_alone_records_a_conflict_with_all_values_and_audits_it(
    pair: Pair,
) -> None:
    conflict = await pair.disagree()
    assert conflict.open
    assert [s.winner for s in conflict.record.siblings] == [True, False]
    assert {s.controller for s in conflict.record.siblings} == {pair.top.name, pair.zone.name}
    values = [json_format.MessageToDict(value) for value in conflict.values]
    assert values == [{"version": "from-zone"}, {"version": "from-above"}]
    assert conflict.HasField("record_time")
    [audit] = pair.zone.audited("conflict.recorded")
    assert audit.details["conflict"] == conflict.record.conflict_id
    assert audit.resource == "domains/edge-zone-a1/policies/base"
    assert pair.top.audited("conflict.recorded") == [audit]
    assert (await pair.get(pair.top, conflict.name)) == conflict


async def test_a_loser_is_restored_by_a_write_that_saw_all_and_the_conflict_is_over(
    pair: Pair,
) -> None:
    conflict = await pair.disagree()
    reply = await pair.zone.federation.RestoreConflictValue(
        restore(conflict, pair.top.name, request_id="r1"), as_caller()
    )
    assert not reply.conflict.open
    assert reply.receipt.domain == "edge-zone-a1"
    winner = pair.zone.state.winner(POLICY)
    assert winner is not None
    assert winner.body().version == "from-above"
    assert winner.principal == "user:alice"
    assert len(winner.resolves) == 2
    await pair.top.receive_from(pair.zone)
    assert pair.top.state.siblings(POLICY) == (winner,)
    again = await pair.zone.federation.RestoreConflictValue(
        restore(conflict, pair.top.name, request_id="r1"), as_caller()
    )
    assert again.receipt.repeated_request
    with pytest.raises(WrongState, match="is over"):
        await pair.zone.federation.RestoreConflictValue(
            restore(conflict, pair.top.name), as_caller()
        )


async def test_a_restoration_is_forwarded_to_the_master_of_record(pair: Pair) -> None:
    conflict = await pair.disagree()
    pair.top.wires.up.add(pair.zone.name)
    reply = await pair.top.federation.RestoreConflictValue(
        restore(conflict, pair.top.name), as_caller()
    )
    assert reply.receipt.controller == pair.zone.name
    assert pair.zone.state.winner(POLICY).body().version == "from-above"  # type: ignore[union-attr]


async def test_without_autonomy_no_value_is_restored_in_the_masters_place(pair: Pair) -> None:
    conflict = await pair.disagree()
    with pytest.raises(AuthorityError, match="cannot be reached"):
        await pair.top.federation.RestoreConflictValue(
            restore(conflict, pair.top.name), as_caller()
        )


async def test_bad_restorations_are_refused_with_the_reason(pair: Pair) -> None:
    conflict = await pair.disagree()
    call = pair.zone.federation.RestoreConflictValue
    with pytest.raises(InvalidWrite, match="no sibling is stranger"):
        await call(restore(conflict, "stranger"), as_caller())
    with pytest.raises(InvalidWrite, match="no sibling is global-control:99"):
        await call(restore(conflict, pair.top.name, sequence=99), as_caller())
    with pytest.raises(InvalidWrite, match="controller is required"):
        await call(restore(conflict, ""), as_caller())
    with pytest.raises(NotFound):
        await call(
            service.RestoreConflictValueRequest(name="conflicts/0f", controller="x"), as_caller()
        )
    with pytest.raises(InvalidWrite, match="conflicts/"):
        await call(service.RestoreConflictValueRequest(name="0f", controller="x"), as_caller())
    with pytest.raises(EtagMismatch):
        await call(restore(conflict, pair.top.name, etag="old"), as_caller())
    held = pair.zone.state.siblings(POLICY)
    winner = pair.zone.state.winner(POLICY)
    assert winner is not None
    checked = await call(
        restore(conflict, pair.top.name, etag=etag_of(held, winner), validate_only=True),
        as_caller(),
    )
    assert checked.conflict.open
    assert pair.zone.state.siblings(POLICY) == held


async def test_a_restored_placement_takes_the_next_epoch(pair: Pair) -> None:
    key = Key("edge-zone-a1", "nodes/n1", "placement")
    conflict = await pair.disagree(
        key,
        node_pb2.Placement(domain="edge-zone-a1", epoch=4),
        node_pb2.Placement(domain="edge-zone-a1", epoch=2),
    )
    await pair.zone.federation.RestoreConflictValue(restore(conflict, pair.zone.name), as_caller())
    assert pair.zone.state.winner(key).body().epoch == 5  # type: ignore[union-attr]


async def test_conflicts_are_listed_newest_first_in_pages_and_filtered(pair: Pair) -> None:
    names = []
    for number in range(5):
        key = Key("edge-zone-a1", f"policies/p{number}", "policy")
        names.append((await pair.disagree(key)).name)
    await pair.zone.federation.RestoreConflictValue(
        restore(await pair.get(pair.zone, names[3]), pair.top.name), as_caller()
    )

    async def listed(**fields: Any) -> list[str]:
        found, token = [], ""
        while True:
            request = service.ListConflictsRequest(page_size=2, page_token=token, **fields)
            reply = await pair.zone.federation.ListConflicts(request, as_caller())
            assert len(reply.conflicts) <= 2
            found += [c.name for c in reply.conflicts]
            token = reply.next_page_token
            if not token:
                return found

    assert await listed() == names[::-1]
    assert await listed(only_open=True) == [names[4], names[2], names[1], names[0]]
    assert await listed(domain="edge-zone-a1") == names[::-1]
    assert await listed(domain="global") == []


async def test_a_page_of_large_values_ends_before_it_is_too_large_for_a_message(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await pair.disagree(Key("edge-zone-a1", f"policies/p{number}", "policy"))
    monkeypatch.setattr("controller.services.federation_conflicts.MAX_PAGE_BYTES", 1)
    found, token, pages = set(), "", 0
    while pages == 0 or token:
        request = service.ListConflictsRequest(page_token=token)
        reply = await pair.zone.federation.ListConflicts(request, as_caller())
        found |= {c.name for c in reply.conflicts}
        token, pages = reply.next_page_token, pages + 1
    assert (len(found), pages) == (3, 3)


async def test_a_watch_shows_open_conflicts_then_new_and_resolved_ones(pair: Pair) -> None:
    first = await pair.disagree()
    request = service.WatchConflictsRequest(domain="edge-zone-a1")
    async with aclosing(pair.zone.federation.WatchConflicts(request, as_caller())) as watch:  # type: ignore[type-var]
        assert (await anext(watch)).conflict == first
        second = await pair.disagree(Key("edge-zone-a1", "policies/other", "policy"))
        assert (await anext(watch)).conflict == second
        await pair.zone.federation.RestoreConflictValue(restore(first, pair.top.name), as_caller())
        resolved = (await anext(watch)).conflict
        assert (resolved.name, resolved.open) == (first.name, False)


async def test_values_too_large_for_one_record_stay_readable_while_they_stand(pair: Pair) -> None:
    large = "x" * (150 * 1024)
    conflict = await pair.disagree(
        POLICY,
        policy_pb2.PolicySpec(version="from-above", display_name=large),
        policy_pb2.PolicySpec(version="from-zone", display_name=large),
    )
    assert [bool(s.event) for s in conflict.record.siblings] == [False, True]
    assert [v["version"] for v in conflict.values] == ["from-zone", "from-above"]
    [audit] = pair.zone.audited("conflict.recorded")
    assert audit.details["values_left_out"] == "1"


async def test_desired_state_is_restored_under_autonomy_only_with_the_right_to_deploy_versions(
    tmp_path: Path,
) -> None:
    async with federation_in(tmp_path) as federation:
        pair = await pair_in(
            federation,
            authority_pb2.Autonomy(can_operate_isolated=True, can_modify_policies=True),
        )
        key = Key("edge-zone-a1", "nodes/n1", "desired_state")
        conflict = await pair.disagree(
            key,
            node_pb2.DesiredState(target_version="2.0"),
            node_pb2.DesiredState(config_name="quiet"),
        )
        taken = service.TransferAuthorityRequest(
            domain="edge-zone-a1", to_controller=pair.top.name, force=True, reason="drill"
        )
        await pair.top.federation.TransferAuthority(taken, as_caller())
        await pair.zone.receive_from(pair.top)
        with pytest.raises(AuthorityError, match="can_deploy_versions"):
            await pair.zone.federation.RestoreConflictValue(
                restore(conflict, pair.top.name), as_caller()
            )
        reply = await pair.zone.federation.RestoreConflictValue(
            restore(conflict, pair.zone.name), as_caller()
        )
        assert reply.receipt.optimistic
