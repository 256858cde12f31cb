from __future__ import annotations

from functools import partial

import pytest
from google.protobuf.message import Message

from federation.errors import InvalidWrite, NotFound, WrongState
from federation.identifiers import Key
from federation.proposal import Proposal
from federation.transfers import (
    authority_key,
    claims_due,
    release_key,
    releases_due,
    transfer,
)
from souverix.federation.v1 import authority_pb2
from tests.federation_fixture import MemoryController, controller_below, root_controller


def tree() -> tuple[MemoryController, MemoryController]:
    top = root_controller()
    return top, controller_below(top, "region-a-control", "region-a")


def begin(top: MemoryController, to: str, *, force: bool = False) -> authority_pb2.AuthorityRecord:
    record = transfer(top.state, top.name, "region-a", to, force=force, reason="drill")
    top.submit(lambda p: p.write(*authority_key("region-a"), record, principal="user:op"))
    return record


def settle(controller: MemoryController) -> int:
    """Writes what is due; how much it was."""
    me, state = controller.name, controller.state
    due: list[tuple[Key, Message]] = [
        (release_key(release.domain), release) for release in releases_due(state, me)
    ]
    due += [(authority_key(record.domain), record) for record in claims_due(state, me)]
    for key, body in due:
        controller.submit(partial(_write, key=key, body=body))
    return len(due)


def _write(proposal: Proposal, key: Key, body: Message) -> None:
    proposal.write(*key, body, principal="controller:duty")


def test_each_side_owes_its_part_of_a_planned_transfer_once() -> None:
    top, region = tree()
    begin(top, top.name)
    assert settle(top) == 0
    assert settle(region) == 0
    region.receive_from(top)
    assert settle(region) == 1
    assert settle(region) == 0
    top.receive_from(region)
    assert settle(top) == 1
    assert settle(top) == 0
    record = top.state.authority.records["region-a"]
    assert (record.master_of_record, record.term, list(record.since)) == (top.name, 2, [1, 2])
    assert (record.next_master, record.forced, record.reason) == ("", False, "drill")


def test_a_forced_transfer_waits_for_nobody() -> None:
    top, _ = tree()
    record = begin(top, top.name, force=True)
    assert (record.master_of_record, record.term, record.forced) == (top.name, 2, True)
    assert settle(top) == 0


def test_calling_off_takes_a_term_and_keeps_the_mastership_unbroken() -> None:
    top, region = tree()
    begin(top, top.name)
    region.receive_from(top)
    settle(region)
    record = begin(top, region.name)
    assert (record.term, list(record.since), record.next_master) == (2, [1, 1], "")
    top.receive_from(region)
    begin(top, top.name)
    assert claims_due(top.state, top.name) == []


def test_a_transfer_in_the_parents_own_hands_is_complete_at_once() -> None:
    top, region = tree()
    begin(top, top.name, force=True)
    record = begin(top, region.name)
    assert (record.master_of_record, record.term, record.forced) == (region.name, 3, False)


def test_transfers_that_make_no_sense_are_refused() -> None:
    top, region = tree()
    zone = MemoryController("zone-control", "zone", top.root_signer)
    top.declare("zone", "region-a", zone)

    def ask(domain: str, to: str, *, force: bool = False, reason: str = "") -> None:
        transfer(top.state, top.name, domain, to, force=force, reason=reason)

    with pytest.raises(WrongState, match="root"):
        ask("global", region.name)
    with pytest.raises(NotFound):
        ask("nowhere", region.name)
    with pytest.raises(NotFound):
        ask("region-a", "stranger")
    with pytest.raises(InvalidWrite, match="neither region-a nor above it"):
        ask("region-a", zone.name)
    with pytest.raises(InvalidWrite, match="reason"):
        ask("region-a", top.name, force=True)
    with pytest.raises(WrongState, match="already"):
        ask("region-a", region.name)
    begin(top, top.name)
    with pytest.raises(WrongState, match="waits for the release"):
        ask("region-a", top.name)
