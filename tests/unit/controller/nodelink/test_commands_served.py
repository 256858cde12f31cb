"""Commands from a client's call to a node and back, over real streams; masters that change on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from controller.command.issuing import MAX_ACTION_BYTES
from controller.command.view import NOT_HEARD_OF
from controller.log.errors import LogUnavailable
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.fleet.v1 import lifecycle_pb2
from souverix.nodelink.v1 import nodelink_pb2
from tests.federation_fixture import ROOT
from tests.unit.controller.nodelink.served_links import Directory, ScriptedAgent, Served, until
from tests.unit.controller.services.served import refusal

PENDING = command_pb2.DELIVERY_STATE_PENDING
DISPATCHED = command_pb2.DELIVERY_STATE_DISPATCHED
SUCCEEDED = command_pb2.DELIVERY_STATE_SUCCEEDED
EXPIRED = command_pb2.DELIVERY_STATE_EXPIRED
CANCELLED = command_pb2.DELIVERY_STATE_CANCELLED
REJECTED = command_pb2.DELIVERY_STATE_REJECTED
INDETERMINATE = command_pb2.DELIVERY_STATE_INDETERMINATE
AT_MOST_ONCE = command_pb2.DELIVERY_SEMANTICS_AT_MOST_ONCE


def asking(*nodes: str, **fields: Any) -> command_service_pb2.IssueCommandRequest:
    action = command_pb2.Action(ping=command_pb2.Ping(payload="hello"))
    targets = command_pb2.Targets(nodes=nodes)
    return command_service_pb2.IssueCommandRequest(
        **{"targets": targets, "action": action, **fields}
    )


def lasting(seconds: float) -> command_pb2.Expiry:
    ttl = Duration()
    ttl.FromMilliseconds(int(seconds * 1000))
    return command_pb2.Expiry(ttl=ttl)


async def issue(controller: Served, *nodes: str, **fields: Any) -> Any:
    return (await controller.commands.IssueCommand(asking(*nodes, **fields))).command


async def read(controller: Served, name: str) -> Any:
    request = command_service_pb2.GetCommandRequest(name=name)
    return (await controller.commands.GetCommand(request)).command


async def reached(controller: Served, name: str, state: int, node: str = "n1") -> Any:
    """The delivery once it is in a state."""
    async with asyncio.timeout(20):
        while True:
            command = await read(controller, name)
            for delivery in command.deliveries:
                if delivery.node == node and delivery.state == state:
                    return delivery
            await asyncio.sleep(0.02)


def result(command_id: str, **output: Any) -> nodelink_pb2.CommandResult:
    given = Struct()
    given.update(output)
    return nodelink_pb2.CommandResult(command_id=command_id, state=SUCCEEDED, output=given)


async def test_a_command_reaches_the_node_and_its_result_comes_back(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    command = await issue(served, "n1", reason="to see it work")
    assert [d.state for d in command.deliveries] == [PENDING]
    frame = await agent.hear("command")
    assert (frame.command.command_id, frame.command.attempt) == (command.id, 1)
    assert frame.command.action == command.action
    assert frame.fence.fencing_token == served.replica.journal().fencing_token
    recorded = served.body(ROOT, f"commands/{command.id}/n1", "delivery")
    assert recorded.state == DISPATCHED
    await agent.say(result=result(command.id, pong="hello"))
    assert (await agent.hear("result_ack")).result_ack.command_id == command.id
    done = await read(served, command.name)
    assert (done.done, done.finished_targets, done.total_targets) == (True, 1, 1)
    assert done.deliveries[0].output["pong"] == "hello"
    assert done.principal == "user:anonymous"


async def test_a_command_waits_for_its_node(served: Served) -> None:
    command = await issue(served, "n1")
    delivery = await reached(served, command.name, PENDING)
    await until(lambda: served.body(ROOT, f"commands/{command.id}/n1", "delivery") is not None)
    delivery = (await read(served, command.name)).deliveries[0]
    assert delivery.reason == "NODE_NOT_LINKED"
    agent = ScriptedAgent(served)
    await agent.greet()
    assert (await agent.hear("command")).command.command_id == command.id


async def test_a_watch_shows_each_change_and_ends_when_all_is_done(served: Served) -> None:
    agent = ScriptedAgent(served)
    command = await issue(served, "n1")
    seen = []

    async def watch() -> None:
        request = command_service_pb2.WatchCommandRequest(name=command.name)
        async for response in served.commands.WatchCommand(request):
            state = response.command.deliveries[0].state
            seen.append(state)

    watching = asyncio.create_task(watch())
    await until(lambda: seen)
    await agent.greet()
    frame = await agent.hear("command")
    await until(lambda: DISPATCHED in seen)
    await agent.say(result=result(frame.command.command_id))
    async with asyncio.timeout(20):
        await watching
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (PENDING, SUCCEEDED)


async def test_a_repeated_request_is_the_same_command(served: Served) -> None:
    first = await served.commands.IssueCommand(asking("n1", request_id="r1"))
    again = await served.commands.IssueCommand(asking("n1", request_id="r1"))
    assert again.command.id == first.command.id
    assert again.receipt.repeated_request
    other = await issue(served, "n1", request_id="r2")
    assert other.id != first.command.id
    code, info, _ = await refusal(
        served.commands.IssueCommand(asking("n1", request_id="r1", semantics=AT_MOST_ONCE))
    )
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def test_validate_only_checks_and_writes_nothing(served: Served) -> None:
    offset = served.replica.state.next_offset
    reply = await served.commands.IssueCommand(asking("n1", validate_only=True))
    assert [d.node for d in reply.command.deliveries] == ["n1"]
    assert served.replica.state.next_offset == offset


async def test_bad_commands_are_refused_with_their_cause(served: Served) -> None:
    await served.declare("edge-a1", controller="edge-a1-control")
    big = command_pb2.Action(apply_config=command_pb2.ApplyConfig(document=Struct()))
    big.apply_config.document.update({"x": "y" * MAX_ACTION_BYTES})
    bad = grpc.StatusCode.INVALID_ARGUMENT
    for request, expected, cause in (
        (asking(), bad, "exactly one of nodes and domain"),
        (asking("n1", action=command_pb2.Action()), bad, "exactly one of ping"),
        (asking("n1", action=big), bad, "at most"),
        (asking("n1", expiry=lasting(31 * 24 * 3600)), bad, "30 days"),
        (asking("n1", expiry=lasting(-1)), bad, "positive"),
        (asking("n1", "n7", "n8"), grpc.StatusCode.NOT_FOUND, "n7, n8"),
        (
            asking(targets=command_pb2.Targets(domain="nowhere")),
            grpc.StatusCode.NOT_FOUND,
            "nowhere",
        ),
        (
            asking(targets=command_pb2.Targets(domain="edge-a1")),
            grpc.StatusCode.NOT_FOUND,
            "no nodes",
        ),
    ):
        code, _, message = await refusal(served.commands.IssueCommand(request))
        assert code == expected, message
        assert cause in message
    assert list(served.replica.state.subjects_of(ROOT, "commands")) == []


async def test_a_domains_command_becomes_one_fact_a_domain_and_waits_for_the_others_controller(
    served: Served,
) -> None:
    await served.declare("edge-a1", controller="edge-a1-control")
    await served.declare("cluster-1", parent="edge-a1")
    await served.create_node("n2", "edge-a1")
    await served.create_node("n3", "cluster-1")
    agent = ScriptedAgent(served)
    await agent.greet()
    everywhere = command_pb2.Targets(domain=ROOT, include_subtree=True)
    command = await issue(served, targets=everywhere)
    assert command.total_targets == 3
    await agent.hear("command")
    await agent.say(result=result(command.id))
    await agent.hear("result_ack")
    view = await read(served, command.name)
    assert {d.node: d.state for d in view.deliveries} == {
        "n1": SUCCEEDED,
        "n2": PENDING,
        "n3": PENDING,
    }
    assert (view.finished_targets, view.done) == (1, False)
    for domain in ("edge-a1", "cluster-1"):
        fact = served.body(domain, f"commands/{command.id}", "command")
        assert (len(fact.nodes), fact.total_targets) == (1, 3)
    alone = await issue(served, targets=command_pb2.Targets(domain=ROOT))
    assert alone.total_targets == 1


async def test_a_domain_declared_while_the_master_works_is_delivered_to(served: Served) -> None:
    await served.declare("cluster-1")
    await served.create_node("n2", "cluster-1")
    agent = ScriptedAgent(served, "n2")
    await agent.greet()
    command = await issue(served, "n2")
    assert (await agent.hear("command")).command.command_id == command.id


async def test_commands_of_a_domain_that_gets_a_controller_of_its_own_are_left_to_it(
    served: Served,
) -> None:
    await served.declare("edge-a1", controller="edge-a1-control")
    await served.create_node("n2", "edge-a1")
    command = await issue(served, "n2", expiry=lasting(0.05))
    other = await issue(served, "n1", expiry=lasting(0.05))
    await reached(served, other.name, EXPIRED)
    delivery = (await read(served, command.name)).deliveries[0]
    assert (delivery.state, delivery.reason) == (PENDING, NOT_HEARD_OF)


async def test_an_expired_command_is_not_sent_and_a_late_result_is_kept(served: Served) -> None:
    waiting = await issue(served, "n1", expiry=lasting(0.05))
    assert (await reached(served, waiting.name, EXPIRED)).reason == "NOT_SENT"
    agent = ScriptedAgent(served)
    await agent.greet()
    sent = await issue(served, "n1", expiry=lasting(0.2))
    frame = await agent.hear("command")
    assert frame.command.command_id == sent.id
    assert (await reached(served, sent.name, EXPIRED)).reason == "NO_ANSWER"
    await agent.say(result=result(sent.id, pong="late"))
    await agent.hear("result_ack")
    delivery = (await read(served, sent.name)).deliveries[0]
    assert (delivery.state, delivery.late_result) == (EXPIRED, True)
    assert delivery.output["pong"] == "late"


async def test_a_cancel_stops_what_waits_and_asks_for_what_was_sent(served: Served) -> None:
    await served.create_node("n2")
    agent = ScriptedAgent(served)
    await agent.greet()
    command = await issue(served, "n1", "n2", request_id="r1")
    await agent.hear("command")
    await reached(served, command.name, DISPATCHED)
    cancel = command_service_pb2.CancelCommandRequest(
        name=command.name, request_id="r2", reason="wrong zone"
    )
    reply = await served.commands.CancelCommand(cancel)
    assert reply.command.cancel_requested
    assert reply.command.cancel_reason == "wrong zone"
    stopped = await reached(served, command.name, CANCELLED, "n2")
    assert stopped.reason == "CANCELLED_BEFORE_DISPATCH"
    assert (await agent.hear("cancel")).cancel.command_id == command.id
    said = nodelink_pb2.CommandResult(command_id=command.id, state=CANCELLED)
    await agent.say(result=said)
    await reached(served, command.name, CANCELLED)
    code, _, message = await refusal(
        served.commands.CancelCommand(command_service_pb2.CancelCommandRequest(name=command.name))
    )
    assert (code, "is done" in message) == (grpc.StatusCode.FAILED_PRECONDITION, True)


async def test_a_cancel_checks_etag_name_and_request_id(served: Served) -> None:
    command = await issue(served, "n1", request_id="r1")
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    for fields, expected in (
        ({"name": command.name, "etag": "stale"}, grpc.StatusCode.ABORTED),
        ({"name": "commands/nope"}, grpc.StatusCode.NOT_FOUND),
        ({"name": "nodes/n1"}, invalid),
        ({"name": command.name, "request_id": "r1"}, invalid),
    ):
        request = command_service_pb2.CancelCommandRequest(**fields)
        code, _, message = await refusal(served.commands.CancelCommand(request))
        assert code == expected, message
    assert not (await read(served, command.name)).cancel_requested


async def test_a_list_is_newest_first_in_pages_and_filtered(served: Served) -> None:
    await served.create_node("n2")
    names = [(await issue(served, "n1")).name for _ in range(3)]
    names.append((await issue(served, "n2", expiry=lasting(0.01))).name)
    await reached(served, names[3], EXPIRED, "n2")

    async def listed(**fields: Any) -> Any:
        request = command_service_pb2.ListCommandsRequest(**fields)
        return await served.commands.ListCommands(request)

    first = await listed(page_size=3)
    second = await listed(page_size=3, page_token=first.next_page_token)
    assert [c.name for c in (*first.commands, *second.commands)] == names[::-1]
    assert second.next_page_token == ""
    assert [c.name for c in (await listed(node="n2")).commands] == names[3:]
    assert [c.name for c in (await listed(only_open=True)).commands] == names[2::-1]
    assert list((await listed(domain="elsewhere")).commands) == []


async def test_an_unconfirmed_at_most_once_command_is_indeterminate_under_the_next_master(
    directory: Directory,
) -> None:
    async with directory.served() as first:
        await first.create_node("n1")
        agent = ScriptedAgent(first)
        await agent.greet()
        once = await issue(first, "n1", semantics=AT_MOST_ONCE)
        more = await issue(first, "n1")
        for _ in range(2):
            await agent.hear("command")
    async with directory.served() as second:
        delivery = await reached(second, once.name, INDETERMINATE)
        assert (delivery.reason, delivery.attempts) == ("MASTER_CHANGED", 1)
        agent = ScriptedAgent(second)
        await agent.greet()
        frame = await agent.hear("command")
        assert (frame.command.command_id, frame.command.attempt) == (more.id, 2)
        await agent.say(result=result(once.id, pong="after all"))
        await agent.hear("result_ack")
        delivery = (await read(second, once.name)).deliveries[0]
        assert (delivery.state, delivery.late_result) == (INDETERMINATE, True)
        assert delivery.reason == "MASTER_CHANGED_THEN_SUCCEEDED"


async def test_what_waits_survives_a_change_of_master(directory: Directory) -> None:
    async with directory.served() as first:
        await first.create_node("n1")
        command = await issue(first, "n1", semantics=AT_MOST_ONCE)
        await until(lambda: first.body(ROOT, f"commands/{command.id}/n1", "delivery") is not None)
    async with directory.served() as second:
        agent = ScriptedAgent(second)
        await agent.greet()
        frame = await agent.hear("command")
        assert (frame.command.command_id, frame.command.attempt) == (command.id, 1)


async def test_a_result_of_an_unknown_command_is_not_acknowledged(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    await agent.say(result=result("0" * 32))
    command = await issue(served, "n1")
    await agent.say(result=result(command.id))
    assert (await agent.hear("result_ack")).result_ack.command_id == command.id


async def test_a_node_cannot_answer_for_another(served: Served) -> None:
    await served.create_node("n2")
    agent, other = ScriptedAgent(served), ScriptedAgent(served, "n2")
    await agent.greet()
    await other.greet()
    command = await issue(served, "n1")
    await agent.hear("command")
    await other.say(result=result(command.id))
    await other.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1))
    assert (await other.hear()).WhichOneof("kind") == "heartbeat_ack"
    assert (await read(served, command.name)).deliveries[0].state == DISPATCHED
    assert served.body(ROOT, f"commands/{command.id}/n2", "delivery") is None


async def test_commands_are_refused_at_a_standby(directory: Directory) -> None:
    async with directory.served("r1"), directory.served("r2", wait=False) as standby:
        await standby.replica.replayed()
        code, info, _ = await refusal(standby.commands.IssueCommand(asking("n1")))
        assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_MASTER")


async def known_key(served: Served) -> None:
    """Has the node's key pinned, so that its next greeting writes nothing."""
    first = ScriptedAgent(served)
    await first.greet()
    first.vanish()
    await until(lambda: served.service.links.get("n1") is None)


async def test_nothing_leaves_before_its_commit_stands(served: Served) -> None:
    await known_key(served)
    command = await issue(served, "n1", semantics=AT_MOST_ONCE)
    await until(lambda: served.body(ROOT, f"commands/{command.id}/n1", "delivery") is not None)
    log, durable, append = served.replica.log, asyncio.Event(), served.replica.log.append

    async def held_append(*given: Any) -> Any:
        await durable.wait()
        return await append(*given)

    log.append = held_append  # type: ignore[method-assign, assignment]
    agent = ScriptedAgent(served)
    await agent.greet()
    await agent.report_version(1, "1.0")
    for ping_ms in range(10):
        await agent.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=ping_ms))
        assert (await agent.hear()).WhichOneof("kind") == "heartbeat_ack"
        await asyncio.sleep(0.02)
    assert served.body(ROOT, f"commands/{command.id}/n1", "delivery").state == PENDING
    durable.set()
    kinds = {(await agent.hear()).WhichOneof("kind") for _ in range(2)}
    assert kinds == {"command", "report_ack"}
    assert served.body(ROOT, f"commands/{command.id}/n1", "delivery").state == DISPATCHED


async def test_a_log_that_is_away_delays_reports_and_commands_and_loses_none(
    served: Served,
) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    command = await issue(served, "n1")
    await agent.hear("command")
    log, append = served.replica.log, served.replica.log.append
    refused: list[Any] = []

    async def unavailable_twice(*given: Any) -> Any:
        if len(refused) < 2:
            refused.append(given)
            raise LogUnavailable("the disk is away")
        return await append(*given)

    log.append = unavailable_twice  # type: ignore[method-assign, assignment]
    await agent.report_version(1, "1.0")
    await agent.say(result=result(command.id))
    kinds: set[str] = set()
    while len(kinds) < 2:
        await agent.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1))
        kinds |= {(await agent.hear()).WhichOneof("kind")} - {"heartbeat_ack"}
    assert kinds == {"report_ack", "result_ack"}
    assert (await read(served, command.name)).done


async def test_a_node_in_quarantine_takes_only_commands_that_look(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    quarantined = lifecycle_pb2.LifecycleState(phase=lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED)
    await served.submit(
        lambda p: p.write(ROOT, "nodes/n1", "lifecycle", quarantined, principal="user:test")
    )
    apply = command_pb2.Action(apply_config=command_pb2.ApplyConfig(document=Struct()))
    refused = await issue(served, "n1", action=apply)
    delivery = await reached(served, refused.name, REJECTED)
    assert delivery.reason == "NODE_ISOLATED"
    ping = await issue(served, "n1")
    frame = await agent.hear("command")
    assert frame.command.command_id == ping.id
