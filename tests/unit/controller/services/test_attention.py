"""The attention queue by calls: items appear, are ordered, marked and watched, and end with their causes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from controller.services.paging import encode_token, query_digest
from controller.signing import Ed25519Signer
from controller.sync.links import PeerView
from controller.twin.facts import timestamp
from federation.backlog import SyncDebt
from federation.domains import DomainDeclaration, declare_domain
from federation.identifiers import Key
from federation.proposal import Proposal
from federation.session_phases import Phase
from federation.session_settings import PeerRole
from souverix.attention.v1 import attention_pb2 as attention
from souverix.attention.v1 import attention_service_pb2 as service
from souverix.audit.v1 import audit_pb2
from souverix.federation.v1 import authority_pb2, peer_link_pb2
from souverix.fleet.v1 import connectivity_pb2, domain_pb2, fleet_service_pb2, node_pb2
from tests.federation_fixture import ROOT, MemoryController
from tests.unit.controller.services.served import Served, refusal

DEADLINE_S = 20.0
ALICE = (("souverix-principal", "user:alice"),)
DISCONNECTED = connectivity_pb2.CONNECTIVITY_MODE_DISCONNECTED
LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE


async def create(root: Served, *nodes: str, domain: str = ROOT) -> None:
    for node in nodes:
        request = fleet_service_pb2.CreateNodeRequest(node_id=node, domain=domain)
        await root.fleet.CreateNode(request)


async def report(root: Served, node: str, aspect: str, body: Any, domain: str = ROOT) -> None:
    key = Key(domain, f"nodes/{node}", aspect)
    await root.replica.journal().submit(lambda p: p.write(*key, body, principal="controller:x"))


async def link(root: Served, node: str, mode: int, domain: str = ROOT, ago_s: int = 60) -> None:
    body = connectivity_pb2.LinkState(mode=mode, reason="agent_stopped")  # type: ignore[arg-type]
    body.since.CopyFrom(timestamp(time.time_ns() // 1_000_000 - ago_s * 1000))
    await report(root, node, "link_state", body, domain)


async def items(root: Served, **asked: Any) -> list[attention.AttentionItem]:
    reply = await root.attention.ListItems(service.ListItemsRequest(**asked))
    return list(reply.items)


async def until(
    root: Served, condition: Callable[[list[attention.AttentionItem]], bool], **asked: Any
) -> list[attention.AttentionItem]:
    """Lists until the items are as awaited."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = await items(root, **asked)
            if condition(found):
                return found
            await asyncio.sleep(0.02)


async def the_item(root: Served) -> attention.AttentionItem:
    (item,) = await until(root, lambda found: len(found) == 1)
    return item


def acknowledging(item: attention.AttentionItem, **fields: Any) -> service.AcknowledgeItemRequest:
    fields.setdefault("reason", "on it")
    return service.AcknowledgeItemRequest(name=item.name, **fields)


def forged(place: str) -> str:
    """A page token of the right form that names a place no page ends at."""
    return encode_token([1, query_digest(service.ListItemsRequest()), place])


async def test_a_cut_off_node_is_an_item_until_it_is_back(root: Served) -> None:
    await create(root, "n1")
    await link(root, "n1", DISCONNECTED)
    item = await the_item(root)
    assert (item.kind, item.subject) == (attention.ATTENTION_KIND_NODE_DISCONNECTED, "nodes/n1")
    assert (item.domain, item.severity) == (ROOT, attention.ATTENTION_SEVERITY_HIGH)
    assert item.state == attention.ATTENTION_STATE_OPEN
    assert "agent_stopped" in item.cause
    assert item.next_step == "souverixctl history n1 --connectivity"
    parts = item.score_parts
    assert item.score == pytest.approx(parts.kind * parts.severity * parts.age)
    assert (await root.attention.GetItem(service.GetItemRequest(name=item.name))).item.id == item.id
    await link(root, "n1", LIVE)
    assert await items(root) == []
    code, _, _ = await refusal(root.attention.GetItem(service.GetItemRequest(name=item.name)))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_drift_and_health_come_with_their_facts_and_go(root: Served) -> None:
    await create(root, "n1")
    desired = node_pb2.DesiredState(target_version="2.0.0")
    await root.fleet.SetDesiredState(
        fleet_service_pb2.SetDesiredStateRequest(name="nodes/n1", desired_state=desired)
    )
    actual = node_pb2.ActualState(reported_version="1.0.0")
    actual.runtime.health = node_pb2.RUNTIME_HEALTH_FAILED
    actual.runtime.health_reason = "disk is full"
    await report(root, "n1", "actual_state", actual)
    unhealthy, drift = await items(root)
    assert unhealthy.cause == "health FAILED: disk is full"
    assert drift.kind == attention.ATTENTION_KIND_NODE_DRIFT
    assert "target_version" in drift.cause
    assert unhealthy.score > drift.score > 0
    healed = node_pb2.ActualState(reported_version="2.0.0")
    await report(root, "n1", "actual_state", healed)
    assert await items(root) == []


async def test_lists_are_narrowed_paged_and_ordered_by_score(root: Served) -> None:
    request = fleet_service_pb2.CreateDomainRequest(domain_id="edge-a1")
    request.spec.parent = ROOT
    await root.fleet.CreateDomain(request)
    await create(root, "n1", "n2", "n3")
    await create(root, "z1", domain="edge-a1")
    for number, node in enumerate(("n1", "n2", "n3"), 1):
        await link(root, node, DISCONNECTED, ago_s=number * 3600)
    await link(root, "z1", DISCONNECTED, "edge-a1")
    found = await until(root, lambda found: len(found) == 4)
    assert [each.subject for each in found] == ["nodes/n3", "nodes/n2", "nodes/n1", "nodes/z1"]
    first = await root.attention.ListItems(service.ListItemsRequest(page_size=3))
    assert [each.subject for each in first.items] == ["nodes/n3", "nodes/n2", "nodes/n1"]
    second = service.ListItemsRequest(page_size=3, page_token=first.next_page_token)
    rest = await root.attention.ListItems(second)
    assert [each.subject for each in rest.items] == ["nodes/z1"]
    assert not rest.next_page_token
    assert [e.subject for e in await items(root, domain="edge-a1")] == ["nodes/z1"]
    assert len(await items(root, domain=ROOT)) == 3
    assert len(await items(root, domain=ROOT, include_subtree=True)) == 4
    assert await items(root, kinds=[attention.ATTENTION_KIND_NODE_DRIFT]) == []
    assert await items(root, min_score=found[0].score * 2) == []
    assert await items(root, states=[attention.ATTENTION_STATE_SNOOZED]) == []


async def test_many_nodes_of_one_cause_are_one_item(root: Served) -> None:
    nodes = [f"n{number:02}" for number in range(25)]
    await create(root, *nodes)
    for number, node in enumerate(nodes):
        await link(root, node, DISCONNECTED, ago_s=100 + number)
    (group,) = await until(root, lambda found: [e.node_count for e in found] == [25])
    assert group.subject == f"domains/{ROOT}"
    assert "25 nodes of global are disconnected" in group.cause
    assert list(group.examples) == [f"nodes/n{number:02}" for number in range(24, 19, -1)]
    for node in nodes[:10]:
        await link(root, node, LIVE)
    found = await until(root, lambda found: len(found) == 15)
    assert {each.node_count for each in found} == {1}
    assert all(each.cause.startswith("disconnected") for each in found)


async def test_an_item_is_acknowledged_reopened_and_snoozed(root: Served) -> None:
    await create(root, "n1")
    await link(root, "n1", DISCONNECTED)
    item = await the_item(root)
    reply = await root.attention.AcknowledgeItem(acknowledging(item), metadata=ALICE)
    assert reply.receipt.controller == "global-control"
    assert reply.item.state == attention.ATTENTION_STATE_ACKNOWLEDGED
    assert (reply.item.mark.reason, reply.item.mark_principal) == ("on it", "user:alice")
    assert reply.item.HasField("mark_time")
    assert await items(root) == []
    (held,) = await items(root, states=[attention.ATTENTION_STATE_ACKNOWLEDGED])
    assert held.etag == reply.item.etag != item.etag
    reopened = await root.attention.ReopenItem(service.ReopenItemRequest(name=item.name))
    assert reopened.item.state == attention.ATTENTION_STATE_OPEN
    assert not reopened.item.HasField("mark")
    code, info, _ = await refusal(
        root.attention.ReopenItem(service.ReopenItemRequest(name=item.name))
    )
    assert (code, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FAILED_PRECONDITION")
    request = service.SnoozeItemRequest(
        name=item.name, reason="parts come today", snooze=Duration(nanos=400_000_000)
    )
    snoozed = await root.attention.SnoozeItem(request)
    assert snoozed.item.state == attention.ATTENTION_STATE_SNOOZED
    assert snoozed.item.mark.HasField("snooze_until")
    (again,) = await until(root, lambda found: len(found) == 1)
    assert again.state == attention.ATTENTION_STATE_OPEN


async def test_a_mark_does_not_speak_for_the_next_occurrence(root: Served) -> None:
    await create(root, "n1")
    await link(root, "n1", DISCONNECTED)
    item = await the_item(root)
    await root.attention.AcknowledgeItem(acknowledging(item))
    await link(root, "n1", LIVE, ago_s=30)
    await link(root, "n1", DISCONNECTED, ago_s=10)
    (new,) = await items(root)
    assert new.id == item.id
    assert not new.HasField("mark")


async def test_a_mark_is_taken_back_when_its_cause_has_ended(root: Served) -> None:
    """What governs a node may be older than the first occurrence: its time alone does not tell them apart."""
    await create(root, "n1")
    desired = node_pb2.DesiredState(target_version="2.0.0")
    await root.fleet.SetDesiredState(
        fleet_service_pb2.SetDesiredStateRequest(name="nodes/n1", desired_state=desired)
    )
    await report(root, "n1", "actual_state", node_pb2.ActualState(reported_version="1.0.0"))
    item = await the_item(root)
    await root.attention.AcknowledgeItem(acknowledging(item))
    await report(root, "n1", "actual_state", node_pb2.ActualState(reported_version="2.0.0"))
    key = Key(ROOT, item.name, "attention_mark")

    def taken_back() -> bool:
        held = root.replica.state.winner(key)
        return held is not None and held.body().state == attention.ATTENTION_STATE_OPEN

    await until(root, lambda _: taken_back())
    await report(root, "n1", "actual_state", node_pb2.ActualState(reported_version="1.0.0"))
    assert (await the_item(root)).id == item.id


async def test_marks_are_checked_like_other_writes(root: Served) -> None:
    await create(root, "n1")
    await link(root, "n1", DISCONNECTED)
    item = await the_item(root)
    stale = acknowledging(item, etag="stale")
    code, _, _ = await refusal(root.attention.AcknowledgeItem(stale))
    assert code is grpc.StatusCode.ABORTED
    tried = await root.attention.AcknowledgeItem(acknowledging(item, validate_only=True))
    assert tried.item.state == attention.ATTENTION_STATE_ACKNOWLEDGED
    assert not tried.HasField("receipt")
    assert len(await items(root)) == 1
    await root.attention.AcknowledgeItem(acknowledging(item, request_id="r1"))
    again = await root.attention.AcknowledgeItem(acknowledging(item, request_id="r1"))
    assert again.receipt.repeated_request
    audited = [each.write.body() for each in root.replica.state.audits]
    made = [r for r in audited if r.outcome == audit_pb2.AUDIT_OUTCOME_ALLOWED]
    assert (made[-1].action, made[-1].resource) == (
        "souverix.attention.v1.AttentionService/AcknowledgeItem",
        f"domains/{ROOT}/{item.name}",
    )


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (service.AcknowledgeItemRequest(name="attention/0123456789abcdef"), "reason"),
        (service.AcknowledgeItemRequest(name="attention/x", reason="r"), "name"),
        (service.AcknowledgeItemRequest(name="nodes/n1", reason="r" * 2000), "name"),
        (service.SnoozeItemRequest(name="attention/0123456789abcdef", reason="r"), "snooze"),
        (
            service.SnoozeItemRequest(
                name="attention/0123456789abcdef", reason="r", snooze=Duration(seconds=10**8)
            ),
            "snooze",
        ),
        (service.ReopenItemRequest(), "name"),
        (service.GetItemRequest(name="attention/0123"), "name"),
        (service.ListItemsRequest(kinds=[99]), "kinds"),  # type: ignore[list-item]
        (service.ListItemsRequest(states=[0]), "states"),  # type: ignore[list-item]
        (service.ListItemsRequest(min_score=-1), "min_score"),
        (service.ListItemsRequest(domain="NO"), "domain"),
        (service.ListItemsRequest(page_token="x"), "page_token"),
        (service.ListItemsRequest(page_token=forged("9" * 30 + " 1 x")), "page_token"),
        (service.ListItemsRequest(page_token=forged("1")), "page_token"),
    ],
)
async def test_bad_input_is_refused_by_field(root: Served, request_: Any, field: str) -> None:
    method = type(request_).__name__.removesuffix("Request")
    code, info, _ = await refusal(getattr(root.attention, method)(request_))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_quarantine_and_maintenance_make_and_hide_items(root: Served) -> None:
    await create(root, "n1")
    for transition in ("ENROL", "ACTIVATE"):
        await root.fleet.TransitionNode(
            fleet_service_pb2.TransitionNodeRequest(
                name="nodes/n1", transition=f"LIFECYCLE_TRANSITION_{transition}"
            )
        )
    await link(root, "n1", DISCONNECTED)
    assert len(await items(root)) == 1
    request = fleet_service_pb2.TransitionNodeRequest(
        name="nodes/n1", transition="LIFECYCLE_TRANSITION_ENTER_MAINTENANCE"
    )
    request.expire_time.FromMilliseconds(time.time_ns() // 1_000_000 + 3_600_000)
    await root.fleet.TransitionNode(request)
    assert await items(root) == []
    await root.fleet.TransitionNode(
        fleet_service_pb2.TransitionNodeRequest(
            name="nodes/n1",
            transition="LIFECYCLE_TRANSITION_QUARANTINE",
            reason="firmware differs",
            exit_condition="firmware 2.1.3",
        )
    )
    kinds = {each.kind: each.cause for each in await items(root)}
    assert "firmware differs" in kinds[attention.ATTENTION_KIND_NODE_QUARANTINED]
    assert "firmware 2.1.3" in kinds[attention.ATTENTION_KIND_NODE_QUARANTINED]


async def test_a_controller_that_cannot_be_reached_is_an_item_of_who_misses_it(
    root: Served,
) -> None:
    zone = MemoryController("edge-a1-control", "edge-a1", Ed25519Signer.generate())
    declaration = DomainDeclaration(
        "edge-a1", domain_pb2.DomainSpec(parent=ROOT), "global-control",
        authority_pb2.AUTHORITY_LEVEL_LOCAL, zone.name, zone.signer.public_key,
    )  # fmt: skip

    def declare(proposal: Proposal) -> None:
        declare_domain(
            lambda d, s, a, body: proposal.write(d, s, a, body, principal="user:test"),
            declaration,
            (1,),
            proposal.wall_ms,
        )

    await root.replica.journal().submit(declare)
    await create(root, "z1", domain="edge-a1")
    now = timestamp(time.time_ns() // 1_000_000)
    down = peer_link_pb2.PeerLink(
        state=peer_link_pb2.PEER_LINK_STATE_DOWN,
        reason="connection_lost",
        last_heard_time=now,
        time=now,
    )
    key = Key("edge-a1", "controllers/edge-a1-control", "peer_link")
    await root.replica.journal().submit(lambda p: p.write(*key, down, principal="controller:x"))
    (item,) = await items(root)
    assert item.kind == attention.ATTENTION_KIND_CONTROLLER_CUT_OFF
    assert (item.domain, item.subject, item.node_count) == (ROOT, key.subject, 1)
    up = peer_link_pb2.PeerLink(state=peer_link_pb2.PEER_LINK_STATE_UP, time=now)
    await root.replica.journal().submit(lambda p: p.write(*key, up, principal="controller:x"))
    assert await items(root) == []


async def test_a_linked_controller_far_behind_is_an_item(root: Served) -> None:
    debt = SyncDebt(60_000, 50_000, {"message": 50_000}, 0.0, None)
    view = PeerView(
        "edge-a1-control", "edge-a1", PeerRole.CHILD, Phase.SYNCING, "", None, debt, 30_000,
        "", None, None,
    )  # fmt: skip
    root.peers.append(view)
    debt_item, clock = await until(root, lambda found: len(found) == 2)
    assert {debt_item.kind, clock.kind} == {
        attention.ATTENTION_KIND_CONTROLLER_SYNC_DEBT,
        attention.ATTENTION_KIND_CONTROLLER_CLOCK_OFF,
    }
    root.peers.clear()
    await until(root, lambda found: not found)


async def test_a_watch_shows_what_is_there_then_changes_and_can_go_on(root: Served) -> None:
    await create(root, "n1", "n2")
    await link(root, "n1", DISCONNECTED)
    await the_item(root)
    stream = root.attention.WatchItems(service.WatchItemsRequest())

    async def next_of(stream: Any) -> Any:
        return await asyncio.wait_for(stream.read(), DEADLINE_S)

    assert (await next_of(stream)).existing.subject == "nodes/n1"
    bookmark = (await next_of(stream)).bookmark
    assert bookmark.initial_state_complete
    await link(root, "n2", DISCONNECTED)
    changed = await next_of(stream)
    assert changed.changed.subject == "nodes/n2"
    await link(root, "n2", LIVE)
    removed = await next_of(stream)
    assert removed.removed == service.ItemRemoval(name=changed.changed.name, ended=True)
    await root.attention.AcknowledgeItem(acknowledging((await items(root))[0]))
    marked = await next_of(stream)
    assert not marked.removed.ended
    stream.cancel()
    resumed = root.attention.WatchItems(
        service.WatchItemsRequest(resume_token=bookmark.resume_token)
    )
    assert (await next_of(resumed)).removed.name == changed.changed.name
    assert not (await next_of(resumed)).bookmark.initial_state_complete
    resumed.cancel()
    other = root.attention.WatchItems(
        service.WatchItemsRequest(min_score=1, resume_token=bookmark.resume_token)
    )
    code, info, _ = await refusal(next_of(other))
    assert (code, info.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")
