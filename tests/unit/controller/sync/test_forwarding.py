"""Writes for other controllers over the links: up, down, over two hops, refused, lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from controller.sync import forwards as forwards_module
from deploy.tcp_proxy import TcpProxy
from souverix.audit.v1 import audit_pb2
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from souverix.sync.v1 import sync_pb2
from tests.unit.controller.sync.tree import DEADLINE_S, PRINCIPAL, PlayedChild, Tree, tree_in, until

CREATE = "/souverix.policy.v1.PolicyService/CreatePolicy"


def reason_of(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return str(info.reason)


def creation(domain: str, policy: str, request_id: str = "") -> bytes:
    return policy_service_pb2.CreatePolicyRequest(
        domain=domain,
        policy_id=policy,
        spec=policy_pb2.PolicySpec(version="v1"),
        request_id=request_id,
    ).SerializeToString()


@pytest.fixture
async def three(tree: Tree) -> Tree:
    """ "global", "region" and "zone"; "region" leaves the policies of "zone" to itself, "governed" is global's."""
    tree.add("global")
    tree.add("region", "global")
    tree.add("zone", "region")
    tree.add("governed", "region", master="region-control")
    await tree.start()
    for domain in ("region", "zone", "governed"):
        await until(tree[domain].session_up, f"the link of {domain}")
    await until(
        lambda: "zone" in tree["global"].replica.state.authority.records, "zone known at the top"
    )
    return tree


async def test_writes_are_made_by_the_master_of_record_over_one_hop_and_two(three: Tree) -> None:
    down = await three["region"].write("zone", "from-the-region")
    assert down.receipt.controller == "zone-control"
    far = await three["global"].write("zone", "from-the-top")
    assert far.receipt.controller == "zone-control"
    assert three["zone"].knows("zone", "from-the-top")
    up = await three["governed"].write("governed", "from-below")
    assert up.receipt.controller == "region-control"


async def test_a_request_is_executed_once_however_often_it_is_forwarded(three: Tree) -> None:
    first = await three["global"].write("zone", "once", request_id="request-1")
    again = await three["global"].write("zone", "once", request_id="request-1")
    nearer = await three["region"].write("zone", "once", request_id="request-1")
    assert not first.receipt.repeated_request
    assert again.receipt.repeated_request
    assert nearer.receipt.repeated_request
    assert first.policy.etag == again.policy.etag == nearer.policy.etag


async def test_a_refusal_arrives_as_the_master_gave_it(three: Tree) -> None:
    await three["zone"].write("zone", "taken")
    with pytest.raises(grpc.aio.AioRpcError) as near:
        await three["zone"].write("zone", "taken")
    with pytest.raises(grpc.aio.AioRpcError) as far:
        await three["global"].write("zone", "taken")
    statuses: list[status_pb2.Status] = []
    for caught in (near, far):
        status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
        assert status is not None
        statuses.append(status)
    assert statuses[0] == statuses[1]
    assert far.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_a_child_may_not_speak_for_others_than_those_below_it(childless: Tree) -> None:
    for via in ([], ["x"], ["global-control", "zone-control"], ["zone-control", "x"]):
        child = PlayedChild(childless["global"], "zone-control", "zone")
        await child.begin()
        forward = sync_pb2.Forward(
            id=1,
            to_controller="global-control",
            method=CREATE,
            request=creation("global", "usurped"),
            principal="user:mallory",
            via=via,
            timeout_ms=5000,
        )
        await child.send(forward=forward)
        reply = await child.receive("forward_reply")
        assert reply.status_code == grpc.StatusCode.PERMISSION_DENIED.value[0], via
        status = status_pb2.Status.FromString(reply.status_details)
        assert "speak for" in status.message
        child.call.cancel()
    assert not childless["global"].knows("global", "usurped")


@pytest.mark.parametrize(
    ("principal", "groups"),
    [
        ("", []),
        ("alice", []),
        ("user:two words", []),
        ("user:" + "a" * 129, []),
        ("oidc:alice@corp", ["noc"]),
        ("oidc:alice@corp", ["group:n\noc@corp"]),
        ("oidc:alice@corp", ["group:noc@corp"] * 257),
    ],
)
async def test_names_that_are_none_are_not_passed_on(
    childless: Tree, principal: str, groups: list[str]
) -> None:
    child = PlayedChild(childless["global"], "zone-control", "zone")
    await child.begin()
    await child.send(
        forward=sync_pb2.Forward(
            id=1,
            to_controller="global-control",
            method=CREATE,
            request=creation("zone", "nameless"),
            principal=principal,
            groups=groups,
            via=["zone-control"],
            timeout_ms=5000,
        )
    )
    reply = await child.receive("forward_reply")
    assert reply.status_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    child.call.cancel()


@pytest.mark.parametrize(
    ("issued_by", "good"),
    [("", True), ("zone", True), ("global", False), ("sibling", False), ("no such", False)],
)
async def test_a_child_may_not_speak_for_people_of_other_domains(
    childless: Tree, issued_by: str, good: bool
) -> None:
    """A zone in hostile hands names the region's admin: not even for a write in the zone."""
    top = childless["global"]
    child = PlayedChild(top, "zone-control", "zone")
    await child.begin()
    await child.send(
        forward=sync_pb2.Forward(
            id=1,
            to_controller="global-control",
            method=CREATE,
            request=creation("zone", "by-whom"),
            principal="user:admin",
            issued_by=issued_by,
            via=["zone-control"],
            timeout_ms=5000,
        )
    )
    status = status_pb2.Status.FromString((await child.receive("forward_reply")).status_details)
    assert ("speak for people of zone and below" in status.message) is not good
    refused = [
        record
        for item in top.replica.state.audits
        if (record := item.write.body()).reason == "FORWARD_UNTRUE"
    ]
    assert bool(refused) is not good
    for record in refused:
        assert record.principal == record.source == "controller:zone-control"
        assert record.action == CREATE.lstrip("/")
        assert record.outcome == audit_pb2.AUDIT_OUTCOME_DENIED
    child.call.cancel()


async def test_a_child_may_not_write_beyond_its_subtree_in_its_own_name(childless: Tree) -> None:
    child = PlayedChild(childless["global"], "zone-control", "zone")
    await child.begin()
    forward = sync_pb2.Forward(
        id=7,
        to_controller="global-control",
        method=CREATE,
        request=creation("global", "usurped"),
        principal="user:mallory",
        via=["zone-control"],
        timeout_ms=5000,
    )
    await child.send(forward=forward)
    reply = await child.receive("forward_reply")
    assert reply.id == 7
    assert reply.status_code == grpc.StatusCode.PERMISSION_DENIED.value[0]
    child.call.cancel()


async def test_a_write_that_comes_round_again_ends(childless: Tree) -> None:
    child = PlayedChild(childless["global"], "zone-control", "zone")
    await child.begin()
    await child.send(
        forward=sync_pb2.Forward(
            id=1,
            to_controller="zone-control",
            method=CREATE,
            request=creation("zone", "round"),
            principal="user:tester",
            via=["zone-control"] * forwards_module.MAX_HOPS,
            timeout_ms=5000,
        )
    )
    reply = await child.receive("forward_reply")
    assert reply.status_code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    child.call.cancel()


async def test_an_unknown_method_and_a_malformed_request_are_refused(childless: Tree) -> None:
    child = PlayedChild(childless["global"], "zone-control", "zone")
    await child.begin()
    expected = {
        "/no.such.Service/Method": (b"", grpc.StatusCode.UNIMPLEMENTED),
        CREATE: (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
    }
    for number, (method, (request, code)) in enumerate(expected.items(), 1):
        await child.send(
            forward=sync_pb2.Forward(
                id=number,
                to_controller="global-control",
                method=method,
                request=request,
                principal="user:tester",
                via=["zone-control"],
            )
        )
        reply = await child.receive("forward_reply")
        assert (reply.id, reply.status_code) == (number, code.value[0])
    child.call.cancel()


async def test_without_a_link_nothing_is_changed_and_the_master_is_named(three: Tree) -> None:
    await three["zone"].stop()
    await until(lambda: "zone-control" not in three["region"].links.children, "the end of the link")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await three["global"].write("zone", "no-way")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(refused.value) == "LINK_DOWN"
    await three["zone"].start()


async def test_a_request_too_large_to_pass_on_is_refused_and_the_link_stands(pair: Tree) -> None:
    session = await until(
        lambda: pair["global"].links.children.get("zone-control"), "the child's session"
    )
    request = policy_service_pb2.CreatePolicyRequest(
        domain="zone",
        policy_id="large",
        spec=policy_pb2.PolicySpec(version="v" * (forwards_module.MAX_FORWARD_BYTES + 1)),
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await pair["global"].policies.CreatePolicy(request, timeout=DEADLINE_S, metadata=PRINCIPAL)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert pair["global"].links.children["zone-control"] is session
    assert (await pair["global"].write("zone", "small")).receipt.controller == "zone-control"


@pytest.fixture
async def proxied(tmp_path: Path) -> AsyncIterator[tuple[Tree, TcpProxy]]:
    """A pair whose link a test can break."""
    async with tree_in(tmp_path / "proxied") as tree:
        tree.add("global")
        port = int(tree["global"].address.rpartition(":")[2])
        async with TcpProxy("127.0.0.1", port) as link:
            tree.add("zone", "global", master="global-control", dial=link.endpoint)
            await tree.start()
            await until(tree["zone"].session_up, "the link")
            yield tree, link
            await tree.stop()


async def test_the_outcome_is_unknown_when_the_link_is_cut_and_a_repeat_finds_it(
    proxied: tuple[Tree, TcpProxy],
) -> None:
    tree, link = proxied
    zone = tree["zone"]
    link.swallow_replies()
    writing = asyncio.create_task(zone.write("zone", "lost-answer", request_id="r-1"))
    await until(lambda: tree["global"].knows("zone", "lost-answer"), "the write at its master")
    link.heal()
    with pytest.raises(grpc.aio.AioRpcError) as lost:
        await writing
    assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(lost.value) == "OUTCOME_UNKNOWN"
    await until(zone.session_up, "the link again")
    again = await zone.write("zone", "lost-answer", request_id="r-1")
    assert again.receipt.repeated_request


async def test_acknowledgements_reach_a_waiting_caller_over_two_hops_and_after_a_cut(
    tmp_path: Path,
) -> None:
    async with tree_in(tmp_path / "levels") as tree:
        tree.add("global")
        port = int(tree["global"].address.rpartition(":")[2])
        async with TcpProxy("127.0.0.1", port) as link:
            tree.add("region", "global", dial=link.endpoint)
            tree.add("zone", "region")
            await tree.start()
            zone = tree["zone"]
            written = await zone.write("zone", "first", durable_at="global")
            assert list(written.receipt.durable_at) == ["zone", "region", "global"]

            link.cut()
            await until(lambda: not tree["region"].session_up(), "the cut")
            near = await zone.write("zone", "second", durable_at="region")
            assert list(near.receipt.durable_at) == ["zone", "region"]
            waiting = asyncio.create_task(zone.write("zone", "third", durable_at="global"))
            await until(lambda: tree["region"].knows("zone", "third"), "the write one level up")
            assert not waiting.done()
            link.heal()
            woken = await waiting
            assert list(woken.receipt.durable_at) == ["zone", "region", "global"]
            await tree.stop()


async def test_a_restarted_child_is_told_at_once_what_is_durable_above(tree: Tree) -> None:
    tree.add("global")
    tree.add("region", "global")
    tree.add("zone", "region")
    await tree.start()
    zone = tree["zone"]
    await zone.write("zone", "early", durable_at="global")
    await zone.stop()
    await zone.start()
    streams = [s for s in zone.replica.state.streams if s.origin.controller == "zone-control"]
    await until(
        lambda: all(
            zone.replica.durability.reached("global", s) == zone.replica.state.received(s)
            for s in streams
        ),
        "what the top holds, known again",
    )
    assert streams
