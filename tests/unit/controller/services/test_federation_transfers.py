from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.errors import AuthorityError, EtagMismatch, InvalidWrite, NotFound, WrongState
from souverix.federation.v1 import authority_pb2
from souverix.federation.v1 import federation_service_pb2 as service
from tests.unit.controller.live_controllers import (
    Federation,
    LiveController,
    as_caller,
    federation_in,
    until,
)


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    async with federation_in(tmp_path) as federation:
        yield federation


class Tree:
    """global-control above region-a-control above edge-zone-a1-control."""

    def __init__(self, top: LiveController, region: LiveController, zone: LiveController) -> None:
        self.top, self.region, self.zone = top, region, zone


@pytest.fixture
async def tree(federation: Federation) -> Tree:
    top = await federation.start_root()
    region = await federation.start_below(
        top,
        "region-a-control",
        "region-a",
        autonomy=authority_pb2.Autonomy(can_operate_isolated=True),
    )
    zone = await federation.start_below(region, "edge-zone-a1-control", "edge-zone-a1")
    await top.receive_from(region)
    return Tree(top, region, zone)


def transfer(
    to: str, domain: str = "edge-zone-a1", **fields: object
) -> service.TransferAuthorityRequest:
    return service.TransferAuthorityRequest(domain=domain, to_controller=to, **fields)  # type: ignore[arg-type]


async def test_a_planned_transfer_waits_for_the_release_and_ends_one_term_later(tree: Tree) -> None:
    begun = await tree.region.federation.TransferAuthority(
        transfer("region-a-control", reason="maintenance"), as_caller()
    )
    assert begun.authority.master_of_record == "edge-zone-a1-control"
    assert begun.authority.next_master == "region-a-control"
    assert begun.receipt.domain == "edge-zone-a1"

    await tree.zone.receive_from(tree.region)
    await until(lambda: tree.zone.audited("authority.released"), "the release")
    await tree.region.receive_from(tree.zone)
    await until(lambda: tree.region.audited("authority.transferred"), "the completed transfer")

    record = tree.region.state.authority.records["edge-zone-a1"]
    assert record.master_of_record == "region-a-control"
    assert (record.term, list(record.since), record.next_master) == (2, [1, 1, 2], "")
    assert not record.forced
    await tree.zone.receive_from(tree.region)
    assert tree.zone.state.authority.records["edge-zone-a1"] == record


async def test_a_master_below_is_released_at_once_when_it_is_the_parents_own_controller(
    tree: Tree,
) -> None:
    await tree.region.federation.TransferAuthority(
        transfer("region-a-control", force=True, reason="site lost"), as_caller()
    )
    back = await tree.region.federation.TransferAuthority(
        transfer("edge-zone-a1-control"), as_caller()
    )
    assert back.authority.master_of_record == "edge-zone-a1-control"
    assert back.authority.term == 3
    assert not back.authority.forced


async def test_a_forced_transfer_needs_a_reason_and_is_complete_at_once(tree: Tree) -> None:
    with pytest.raises(InvalidWrite, match="reason is required"):
        await tree.region.federation.TransferAuthority(
            transfer("region-a-control", force=True), as_caller()
        )
    done = await tree.region.federation.TransferAuthority(
        transfer("region-a-control", force=True, reason="site lost"), as_caller()
    )
    assert done.authority.forced
    assert done.authority.master_of_record == "region-a-control"
    assert done.authority.term == 2


async def test_a_release_given_before_a_call_off_does_not_complete_a_later_transfer(
    tree: Tree,
) -> None:
    region, zone = tree.region, tree.zone
    await region.federation.TransferAuthority(transfer("region-a-control"), as_caller())
    await zone.receive_from(region)
    await until(lambda: zone.audited("authority.released"), "the release")

    off = await region.federation.TransferAuthority(transfer("edge-zone-a1-control"), as_caller())
    assert off.authority.next_master == ""
    assert list(off.authority.since) == [1, 1, 1]
    again = await region.federation.TransferAuthority(transfer("global-control"), as_caller())
    await region.receive_from(zone)

    assert again.authority.next_master == "global-control"
    record = region.state.authority.records["edge-zone-a1"]
    assert (record.master_of_record, record.next_master) == (
        "edge-zone-a1-control",
        "global-control",
    )
    await zone.receive_from(region)
    await until(lambda: len(zone.audited("authority.released")) == 2, "the second release")
    await region.receive_from(zone)
    await until(
        lambda: region.state.authority.records["edge-zone-a1"].master_of_record == "global-control"
    )


async def test_a_release_found_after_a_restart_is_still_answered(tree: Tree) -> None:
    await tree.region.federation.TransferAuthority(transfer("region-a-control"), as_caller())
    await tree.zone.receive_from(tree.region)
    await until(lambda: tree.zone.audited("authority.released"), "the release")
    await tree.region.receive_from(tree.zone)
    await tree.region.stop()
    await tree.region.start()
    await until(
        lambda: (
            tree.region.state.authority.records["edge-zone-a1"].master_of_record
            == "region-a-control"
        )
    )
    assert len(tree.region.audited("authority.transferred")) == 1


async def test_a_transfer_is_forwarded_to_the_master_of_the_parent(tree: Tree) -> None:
    tree.top.wires.up.add("region-a-control")
    done = await tree.top.federation.TransferAuthority(transfer("global-control"), as_caller())
    assert done.receipt.controller == "region-a-control"
    assert tree.region.state.authority.records["edge-zone-a1"].next_master == "global-control"


async def test_autonomy_does_not_reach_to_the_authority_of_others(tree: Tree) -> None:
    await tree.top.federation.TransferAuthority(
        transfer("global-control", "region-a", force=True, reason="take over"), as_caller()
    )
    await tree.region.receive_from(tree.top)
    with pytest.raises(AuthorityError, match="only the master-of-record of region-a"):
        await tree.region.federation.TransferAuthority(transfer("region-a-control"), as_caller())


async def test_what_cannot_be_transferred_is_refused_with_the_reason(tree: Tree) -> None:
    call = tree.region.federation.TransferAuthority
    with pytest.raises(WrongState, match="is the root"):
        await tree.top.federation.TransferAuthority(
            transfer("region-a-control", "global"), as_caller()
        )
    with pytest.raises(NotFound, match="no authority record"):
        await call(transfer("region-a-control", "nowhere"), as_caller())
    with pytest.raises(NotFound, match="no key was granted"):
        await call(transfer("stranger"), as_caller())
    with pytest.raises(WrongState, match="master-of-record of edge-zone-a1 already"):
        await call(transfer("edge-zone-a1-control"), as_caller())
    with pytest.raises(InvalidWrite, match="neither region-a nor above it"):
        await tree.top.federation.TransferAuthority(
            transfer("edge-zone-a1-control", "region-a"), as_caller()
        )
    with pytest.raises(EtagMismatch):
        await call(transfer("region-a-control", etag="other"), as_caller())


async def test_the_etag_changes_with_the_record_and_is_given_for_the_root_too(tree: Tree) -> None:
    ask = service.GetAuthorityRequest(domain="edge-zone-a1")
    before = await tree.region.federation.GetAuthority(ask, as_caller())
    assert list(before.term_path) == [1, 1, 1]
    await tree.region.federation.TransferAuthority(
        transfer("region-a-control", etag=before.etag), as_caller()
    )
    after = await tree.region.federation.GetAuthority(ask, as_caller())
    assert after.etag != before.etag
    root = await tree.top.federation.GetAuthority(
        service.GetAuthorityRequest(domain="global"), as_caller()
    )
    assert root.etag


async def test_a_repeated_request_and_a_validation_write_nothing_more(tree: Tree) -> None:
    region = tree.region
    only_checked = await region.federation.TransferAuthority(
        transfer("region-a-control", validate_only=True), as_caller()
    )
    assert only_checked.authority.next_master == "region-a-control"
    assert region.state.authority.records["edge-zone-a1"].next_master == ""
    first = await region.federation.TransferAuthority(
        transfer("region-a-control", request_id="r1"), as_caller()
    )
    offset = region.state.next_offset
    second = await region.federation.TransferAuthority(
        transfer("region-a-control", request_id="r1"), as_caller()
    )
    assert second.receipt.repeated_request
    assert second.authority == first.authority
    assert region.state.next_offset == offset


async def test_the_caller_is_named_in_the_audit_log(tree: Tree) -> None:
    await tree.region.federation.TransferAuthority(
        transfer("region-a-control"), as_caller("user:bob")
    )
    [record] = tree.region.audited("souverix.federation.v1.FederationService/TransferAuthority")
    assert record.principal == "user:bob"
    assert record.resource == "domains/edge-zone-a1"
    assert record.source == "ipv4:127.0.0.1:50000"
