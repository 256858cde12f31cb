"""Seals, grants and decisions by their calls: who may, what is written, what is audited, what is listed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.signing import Ed25519Signer
from controller.writes import Caller
from federation.chain import chain_start, extend, seal
from federation.codec import stream_to_message
from federation.errors import (
    AuthorityError,
    InvalidWrite,
    NotFound,
    OutOfReach,
    WrongState,
)
from federation.identifiers import Lane, Origin, StreamId
from federation.receipt import Receipt
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.federation.v1 import federation_service_pb2 as service
from souverix.fleet.v1 import node_pb2
from tests.unit.controller.live_controllers import (
    Federation,
    LiveController,
    as_caller,
    federation_in,
)

ZONE = "edge-zone-a1"
ZONE_CONTROL = f"{ZONE}-control"


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
    region = await federation.start_below(top, "region-a-control", "region-a")
    zone = await federation.start_below(region, ZONE_CONTROL, ZONE)
    await top.receive_from(region)
    return Tree(top, region, zone)


def sealing(**fields: object) -> service.SealStreamsRequest:
    fields.setdefault("controller", ZONE_CONTROL)
    fields.setdefault("reason", "taken over")
    return service.SealStreamsRequest(**fields)  # type: ignore[arg-type]


async def test_a_seal_names_all_that_is_in_effect_and_the_next_key_is_for_the_next_incarnation(
    tree: Tree,
) -> None:
    body = node_pb2.NodeSpec(display_name="x")
    for number in range(3):
        await tree.zone.submit(
            lambda p, n=number: p.write(ZONE, f"nodes/n{n}", "node_spec", body, principal="x")  # type: ignore[misc]
        )
    await tree.region.receive_from(tree.zone)
    fresh = Ed25519Signer.generate()

    reply = await tree.region.federation.SealStreams(
        sealing(public_key=fresh.public_key), as_caller()
    )

    [end] = reply.sealed.streams
    assert (end.domain, end.lane, end.last_sequence) == (ZONE, int(Lane.STATE), 3)
    assert (reply.sealed.incarnation, reply.voided_events) == (1, 0)
    state = tree.region.state
    [title] = state.keys.titles(ZONE_CONTROL, fresh.key_id)
    assert (title.domain, title.first_incarnation) == (ZONE, 2)
    assert not state.grounds.outdated
    [audited] = tree.region.audited("souverix.federation.v1.FederationService/SealStreams")
    assert audited.resource == f"domains/{ZONE}/controllers/{ZONE_CONTROL}"


async def test_only_checking_writes_nothing(tree: Tree) -> None:
    reply = await tree.region.federation.SealStreams(sealing(validate_only=True), as_caller())
    assert reply.sealed.controller == ZONE_CONTROL
    assert tree.region.state.grounds.bounds.sealed_incarnation(ZONE_CONTROL) == 0


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (sealing(controller="nobody"), NotFound),
        (sealing(controller="Not An Id"), InvalidWrite),
        (sealing(reason=""), InvalidWrite),
        (sealing(public_key=b"short"), InvalidWrite),
        (sealing(controller="global-control"), WrongState),
    ],
)
async def test_what_cannot_be_sealed_is_refused(
    tree: Tree, request_: service.SealStreamsRequest, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await tree.region.federation.SealStreams(request_, as_caller())


async def test_who_is_not_the_parents_master_does_not_seal(tree: Tree) -> None:
    with pytest.raises((AuthorityError, OutOfReach)):
        await tree.zone.federation.SealStreams(sealing(), as_caller())


async def test_a_zone_cannot_have_its_parent_seal_or_grant_by_a_forwarded_call(tree: Tree) -> None:
    """Whatever user it names: its word counts in its own subtree."""
    forged = Caller("user:admin", f"controller:{ZONE_CONTROL}", 5.0, (ZONE_CONTROL,))
    method = "/souverix.federation.v1.FederationService"
    grant = service.GrantKeyRequest(controller=ZONE_CONTROL, public_key=bytes(32))
    for name, request in (("SealStreams", sealing()), ("GrantKey", grant)):
        with pytest.raises(OutOfReach):
            await tree.region.calls.execute(f"{method}/{name}", request.SerializeToString(), forged)
    assert tree.region.audited(f"{method[1:]}/SealStreams")


async def test_a_granted_key_is_known_and_not_granted_twice(tree: Tree) -> None:
    fresh = Ed25519Signer.generate()
    request = service.GrantKeyRequest(controller=ZONE_CONTROL, public_key=fresh.public_key)
    reply = await tree.region.federation.GrantKey(request, as_caller())
    assert reply.grant.key_id == fresh.key_id
    assert tree.region.state.keys.knows(ZONE_CONTROL, fresh.key_id)
    with pytest.raises(WrongState):
        await tree.region.federation.GrantKey(request, as_caller())


async def test_a_key_without_a_file_cannot_be_exchanged(tree: Tree) -> None:
    with pytest.raises(WrongState):
        await tree.zone.federation.RotateSigningKey(service.RotateSigningKeyRequest(), as_caller())


# What is held.


def zone_run(tree: Tree, signer: Ed25519Signer) -> event_pb2.Run:
    """The first event of the zone's state lane, under a key of choice."""
    stream = StreamId(ZONE, Origin(ZONE_CONTROL, 1), Lane.STATE)
    event = event_pb2.Event(
        stamp=1, subject="nodes/n1", node_spec=node_pb2.NodeSpec(display_name="held")
    ).SerializeToString()
    return event_pb2.Run(
        stream=stream_to_message(stream),
        first_sequence=1,
        events=[event],
        seal=seal(signer, stream, 1, extend(chain_start(stream), [event])),
    )


async def held(controller: LiveController) -> list[service.HeldRun]:
    reply = await controller.federation.ListHeldRuns(
        service.ListHeldRunsRequest(domain=ZONE), as_caller()
    )
    return list(reply.runs)


async def test_a_pending_run_is_listed_and_may_be_vouched_for(tree: Tree) -> None:
    run = zone_run(tree, Ed25519Signer.generate())
    assert await tree.region.submit(lambda p: p.receive(ZONE_CONTROL, run)) is Receipt.TAKEN
    [shown] = await held(tree.region)
    assert (shown.outcome, shown.reason) == (service.HELD_OUTCOME_PENDING, "KEY_UNKNOWN")
    assert (shown.first_sequence, shown.last_sequence) == (1, 1)
    assert shown.size_bytes > 0

    reply = await tree.region.federation.DecideHeldRun(
        service.DecideHeldRunRequest(
            name=shown.name, ruling=authority_pb2.RULING_ACCEPT, reason="checked"
        ),
        as_caller(),
    )

    assert reply.decision.last_sequence == 1
    assert await held(tree.region) == []
    assert "nodes/n1" in set(tree.region.state.subjects_of(ZONE, "nodes"))
    [audited] = tree.region.audited("souverix.federation.v1.FederationService/DecideHeldRun")
    assert audited.principal


async def test_a_refused_run_is_listed_until_it_is_discarded(tree: Tree) -> None:
    run = zone_run(tree, tree.zone.signer)
    run.seal.signature = bytes(64)
    receipt = await tree.region.submit(lambda p: p.receive(ZONE_CONTROL, run))
    assert receipt is Receipt.QUARANTINED
    [shown] = await held(tree.region)
    assert (shown.outcome, shown.peer) == (service.HELD_OUTCOME_REFUSED, ZONE_CONTROL)
    request = service.DecideHeldRunRequest(name=shown.name, reason="forged")
    for ruling, error in ((0, InvalidWrite), (authority_pb2.RULING_ACCEPT, WrongState)):
        request.ruling = ruling  # type: ignore[assignment]
        with pytest.raises(error):
            await tree.region.federation.DecideHeldRun(request, as_caller())

    request.ruling = authority_pb2.RULING_DISCARD
    await tree.region.federation.DecideHeldRun(request, as_caller())

    assert await held(tree.region) == []


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nonsense", InvalidWrite),
        (f"held/{ZONE}/x/1/state/1/00", NotFound),
        ("held/global/x/1/state/1/00", WrongState),
    ],
)
async def test_a_decision_on_what_is_not_held_is_refused(
    tree: Tree, name: str, error: type[Exception]
) -> None:
    request = service.DecideHeldRunRequest(
        name=name, ruling=authority_pb2.RULING_DISCARD, reason="x"
    )
    with pytest.raises(error):
        await tree.region.federation.DecideHeldRun(request, as_caller())
