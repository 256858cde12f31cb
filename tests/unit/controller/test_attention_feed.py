"""The queue of a running controller: made anew from its log it is what it was, policies reach nodes nobody touched,
time brings items and ends them, and marks that another controller passes on are written as that one saw the item.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from controller.attention.conditions import UNDATED, Cause, Kind, item_id
from controller.attention.queue import Item
from controller.attention_feed import AttentionFeed
from controller.attention_links import SeenLinks
from controller.local_calls import ForwardedContext
from controller.services.attention import AttentionService
from controller.signing import Ed25519Signer
from controller.twin.facts import timestamp
from controller.writes import Caller
from federation.domains import DomainDeclaration, declare_domain
from federation.errors import InvalidWrite, NotFound
from federation.identifiers import Key
from souverix.attention.v1 import attention_pb2
from souverix.attention.v1 import attention_service_pb2 as service
from souverix.command.v1 import command_pb2
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import (
    connectivity_pb2,
    domain_pb2,
    drift_pb2,
    fleet_service_pb2,
    node_pb2,
    return_pb2,
)
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from tests.federation_fixture import ROOT, MemoryController
from tests.unit.controller.services.served import Served, root_served

DEADLINE_S = 20.0
ZONE = "edge-a1"


@pytest.fixture
async def root(tmp_path: Any) -> AsyncIterator[Served]:
    async with root_served(tmp_path / "root") as controller:
        yield controller


@contextlib.asynccontextmanager
async def fed(root: Served) -> AsyncIterator[AttentionFeed]:
    """A queue of its own over a controller's state, complete."""
    feed = AttentionFeed(root.replica, SeenLinks(root.replica, list))
    task = asyncio.create_task(feed.run())
    try:
        await until(lambda: feed.complete)
        yield feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


async def write(root: Served, subject: str, aspect: str, body: Any) -> None:
    key = Key(ROOT, subject, aspect)
    await root.replica.journal().submit(lambda p: p.write(*key, body, principal="controller:x"))


async def create(root: Served, *nodes: str) -> None:
    for node in nodes:
        await root.fleet.CreateNode(fleet_service_pb2.CreateNodeRequest(node_id=node))


def link(mode: int, ago_s: int = 60) -> connectivity_pb2.LinkState:
    state = connectivity_pb2.LinkState(mode=mode, reason="connection_lost")  # type: ignore[arg-type]
    state.since.CopyFrom(timestamp(_now_ms() - ago_s * 1000))
    return state


def kinds_of(feed: AttentionFeed) -> dict[str, set[Kind]]:
    found: dict[str, set[Kind]] = {}
    for item in feed.queue.items():
        found.setdefault(item.subject, set()).add(item.kind)
    return found


async def troubled(root: Served) -> None:
    """Nodes in every kind of trouble that facts tell of."""
    await create(
        root, "away", "alone", "hot", "old", "waived", "flaps", "fine", "back", "fast", "forged"
    )
    await write(root, "nodes/away", "link_state", link(5))
    await write(root, "nodes/alone", "link_state", link(4))
    await write(root, "nodes/back", "link_state", link(6, 3600))
    for number in range(8):
        await write(root, "nodes/flaps", "link_state", link(1 + number % 2, 100 - number))
    hot = node_pb2.ActualState(reported_version="1.0.0")
    hot.runtime.health = node_pb2.RUNTIME_HEALTH_DEGRADED
    await write(root, "nodes/hot", "actual_state", hot)
    fast = node_pb2.ActualState(reported_version="1.0.0")
    fast.report_time.CopyFrom(timestamp(_now_ms() + 3_600_000))
    await write(root, "nodes/fast", "actual_state", fast)
    incident = return_pb2.ReturnIncident(kind=return_pb2.INCIDENT_KIND_WRONG_KEY, evidence="k1")
    incident.time.CopyFrom(timestamp(_now_ms() - 60_000))
    await write(root, "nodes/forged", "return_incident", incident)
    for node in ("old", "waived"):
        desired = node_pb2.DesiredState(target_version="2.0.0")
        await write(root, f"nodes/{node}", "desired_state", desired)
        await write(
            root, f"nodes/{node}", "actual_state", node_pb2.ActualState(reported_version="1.0.0")
        )
    waiver = drift_pb2.DriftWaiver(field="target_version", reason="no parts", any_value=True)
    waiver.expire_time.CopyFrom(timestamp(_now_ms() + 3_600_000))
    await write(root, "nodes/waived", "drift_waiver", drift_pb2.DriftWaivers(waivers=[waiver]))
    delivery = command_pb2.Delivery(
        command_id="c1", node="old", state=command_pb2.DELIVERY_STATE_FAILED
    )
    delivery.update_time.CopyFrom(timestamp(_now_ms()))
    await write(root, "commands/c1/old", "delivery", delivery)


async def test_made_anew_from_the_log_the_queue_is_what_it_was(root: Served) -> None:
    async with fed(root) as live:
        await troubled(root)
        await until(lambda: len(kinds_of(live)) == 10)
        assert kinds_of(live) == {
            "nodes/away": {Kind.NODE_DISCONNECTED},
            "nodes/alone": {Kind.NODE_AUTONOMOUS},
            "nodes/back": {Kind.NODE_RETURN_STUCK},
            "nodes/flaps": {Kind.NODE_FLAPPING},
            "nodes/hot": {Kind.NODE_UNHEALTHY},
            "nodes/fast": {Kind.NODE_CLOCK_OFF},
            "nodes/forged": {Kind.NODE_AGENT_REFUSED},
            "nodes/old": {Kind.NODE_DRIFT},
            "nodes/waived": {Kind.WAIVER_EXPIRING},
            "commands/c1": {Kind.COMMAND_UNSUCCESSFUL},
        }
        async with fed(root) as rebuilt:
            assert dated(rebuilt) == dated(live)
            assert kinds_of(rebuilt) == kinds_of(live)


def dated(feed: AttentionFeed) -> list[Item]:
    items = [item for item in feed.queue.items() if item.kind not in UNDATED]
    return sorted(items, key=lambda item: item.id)


async def test_a_policy_reaches_nodes_that_nobody_touched(root: Served) -> None:
    await create(root, "n1", "n2")
    for node in ("n1", "n2"):
        await write(
            root, f"nodes/{node}", "actual_state", node_pb2.ActualState(reported_version="1.0.0")
        )
    async with fed(root) as feed:
        assert kinds_of(feed) == {}
        spec = policy_pb2.PolicySpec(target_version="2.0.0")
        request = policy_service_pb2.CreatePolicyRequest(domain=ROOT, policy_id="p1", spec=spec)
        await root.policies.CreatePolicy(request)
        await until(lambda: len(kinds_of(feed)) == 2)
        first = {item.since_ms for item in feed.queue.items()}
        spec.target_version = "3.0.0"
        name = f"domains/{ROOT}/policies/p1"
        await root.policies.UpdatePolicy(
            policy_service_pb2.UpdatePolicyRequest(name=name, spec=spec)
        )
        await until(lambda: all(item.since_ms not in first for item in feed.queue.items()))
        await root.policies.DeletePolicy(policy_service_pb2.DeletePolicyRequest(name=name))
        await until(lambda: kinds_of(feed) == {})


async def test_time_brings_items_and_ends_them(root: Served) -> None:
    await create(root, "n1")
    desired = node_pb2.DesiredState(target_version="2.0.0")
    await write(root, "nodes/n1", "desired_state", desired)
    await write(root, "nodes/n1", "actual_state", node_pb2.ActualState(reported_version="1.0.0"))
    waiver = drift_pb2.DriftWaiver(field="target_version", reason="no parts", any_value=True)
    waiver.expire_time.CopyFrom(timestamp(_now_ms() + 1000))
    async with fed(root) as feed:
        await write(root, "nodes/n1", "drift_waiver", drift_pb2.DriftWaivers(waivers=[waiver]))
        await until(lambda: kinds_of(feed) == {"nodes/n1": {Kind.WAIVER_EXPIRING}})
        await until(lambda: kinds_of(feed) == {"nodes/n1": {Kind.NODE_DRIFT}})


async def test_a_backlog_that_a_linked_node_keeps_is_an_item(root: Served) -> None:
    await create(root, "n2")
    now_s = time.monotonic()
    table = root.replica.connectivity
    table.linked("n2", ROOT, 5000, now_s)
    async with fed(root) as feed:
        await until(lambda: kinds_of(feed) == {"nodes/n2": {Kind.NODE_SYNC_DEBT}})
        table.heard("n2", None, 0, now_s)
        await until(lambda: kinds_of(feed) == {})


async def test_a_mark_that_another_controller_passes_on_is_written_as_it_saw_the_item(
    root: Served,
) -> None:
    zone = MemoryController(f"{ZONE}-control", ZONE, Ed25519Signer.generate())
    await declare_zone(root, zone)
    cause = Cause(Kind.NODE_SYNC_DEBT, ZONE, "nodes/z1")
    seen = attention_pb2.AttentionItem(
        id=item_id(cause),
        kind=attention_pb2.ATTENTION_KIND_NODE_SYNC_DEBT,
        domain=ZONE,
        subject="nodes/z1",
        severity=attention_pb2.ATTENTION_SEVERITY_HIGH,
        since=timestamp(5000),
        node_count=1,
        cause="reports wait",
    )
    request = service.AcknowledgeItemRequest(name=f"attention/{seen.id}", reason="on it", seen=seen)
    async with fed(root) as feed:
        served = AttentionService(root.replica, feed)
        passed_on = ForwardedContext(Caller("user:alice", "zone", via=(zone.name,)))
        reply = await served.AcknowledgeItem(request, passed_on)
        assert reply.item.state == attention_pb2.ATTENTION_STATE_ACKNOWLEDGED
        assert reply.item.mark.occurrence_time.ToMilliseconds() == 5000
        assert reply.item.cause == "reports wait"
        held = root.replica.state.winner(Key(ZONE, request.name, "attention_mark"))
        assert held is not None
        assert held.principal == "user:alice"
        with pytest.raises(NotFound):
            await served.AcknowledgeItem(request, ForwardedContext(Caller("user:alice", "here")))
        request.seen.subject = "nodes/other"
        with pytest.raises(InvalidWrite):
            await served.AcknowledgeItem(request, passed_on)


async def declare_zone(root: Served, zone: MemoryController) -> None:
    """The root's controller stays master-of-record of the zone that another one serves."""
    declaration = DomainDeclaration(
        domain=ZONE,
        spec=domain_pb2.DomainSpec(parent=ROOT),
        master_of_record="global-control",
        level=authority_pb2.AUTHORITY_LEVEL_LOCAL,
        controller=zone.name,
        public_key=zone.signer.public_key,
    )
    term = root.replica.state.authority.term_of(ROOT)
    await root.replica.journal().submit(
        lambda p: declare_domain(
            lambda d, s, a, body: p.write(d, s, a, body, principal="user:test"),
            declaration,
            term,
            p.wall_ms,
        )
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
