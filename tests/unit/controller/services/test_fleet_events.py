"""The past of a node: its events, what it was at a time, and why its values are what they are."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from controller.services import fleet_past, node_past
from controller.services.fleet_reads import whole_node
from controller.twin.freshness import Freshness
from federation.errors import NotFound
from souverix.fleet.v1 import connectivity_pb2, history_pb2, lifecycle_pb2, node_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.policy.v1 import policy_service_pb2
from tests.unit.controller.query.fleets import RandomFleet
from tests.unit.controller.services.served import Served, refusal

NODE = "nodes/n1"
DECIDES = history_pb2.EXPLANATION_ROLE_DECIDES
OVERRIDDEN = history_pb2.EXPLANATION_ROLE_OVERRIDDEN
EARLIER = history_pb2.EXPLANATION_ROLE_EARLIER
INPUT = history_pb2.EXPLANATION_ROLE_INPUT


@pytest.fixture
async def upgraded(root: Served) -> Served:
    """A node that was registered, and reported three versions one after the other."""
    await root.fleet.CreateNode(fleet.CreateNodeRequest(node_id="n1"))
    for version in ("1.4.5", "1.4.6", "1.4.7"):
        await report(root, node_pb2.ActualState(reported_version=version))
    return root


async def report(root: Served, body: Any, aspect: str = "actual_state") -> None:
    await root.replica.journal().submit(
        lambda p: p.write("global", NODE, aspect, body, principal="node:n1")
    )


async def events(root: Served, **query: Any) -> list[history_pb2.NodeEvent]:
    """All pages."""
    request = fleet.ListNodeEventsRequest(name=NODE, **query)
    found: list[history_pb2.NodeEvent] = []
    while True:
        reply = await root.fleet.ListNodeEvents(request)
        found.extend(reply.events)
        if not reply.next_page_token:
            return found
        request.page_token = reply.next_page_token


async def test_events_are_listed_newest_first_with_who_wrote_them(upgraded: Served) -> None:
    reports = await events(upgraded, aspects=["actual_state"])

    assert [e.document["reported_version"] for e in reports] == ["1.4.7", "1.4.6", "1.4.5"]
    assert [e.standing for e in reports] == [
        history_pb2.EVENT_STANDING_CURRENT,
        history_pb2.EVENT_STANDING_SUPERSEDED,
        history_pb2.EVENT_STANDING_SUPERSEDED,
    ]
    newest = reports[0]
    assert (newest.controller, newest.domain) == ("global-control", "global")
    assert newest.principal == "node:n1"
    assert newest.HasField("time")
    assert newest.HasField("receive_time")


@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
async def test_pages_of_events_join_to_all_of_them(upgraded: Served, page_size: int) -> None:
    await upgraded.fleet.UpdateNode(
        fleet.UpdateNodeRequest(name=NODE, spec=node_pb2.NodeSpec(zone="north"))
    )
    found = await events(upgraded, page_size=page_size)

    assert [e.aspect for e in found[:1]] == ["node_spec"]
    assert sorted(e.aspect for e in found) == [
        "actual_state", "actual_state", "actual_state", "existence", "lifecycle", "node_spec",
        "node_spec", "placement",
    ]  # fmt: skip
    offsets = [e.log_offset for e in found]
    assert offsets == sorted(offsets, reverse=True)
    assert len({(e.aspect, e.sequence) for e in found}) == len(found)


async def test_events_of_a_time_are_those_received_then(upgraded: Served) -> None:
    reports = await events(upgraded, aspects=["actual_state"])
    middle = reports[1].receive_time
    within = await events(
        upgraded, aspects=["actual_state"], start_time=middle, end_time=reports[0].receive_time
    )
    received = [e.receive_time.ToNanoseconds() for e in reports]
    wanted = [t for t in received if received[1] <= t < received[0]]
    assert [e.receive_time.ToNanoseconds() for e in within] == wanted
    code, info, _ = await refusal(
        upgraded.fleet.ListNodeEvents(fleet.ListNodeEventsRequest(name=NODE, aspects=["colour"]))
    )
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "aspects")


async def test_a_page_ends_where_reading_takes_long_and_the_next_goes_on(
    upgraded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await events(upgraded)
    monkeypatch.setattr(node_past, "MAX_LOOKS", 1)
    reply = await upgraded.fleet.ListNodeEvents(fleet.ListNodeEventsRequest(name=NODE))
    assert reply.next_page_token
    assert 0 < len(reply.events) < len(whole)
    assert await events(upgraded) == whole


async def test_a_made_up_token_is_refused(upgraded: Served) -> None:
    request = fleet.ListNodeEventsRequest(name=NODE, page_token="made-up")
    code, info, _ = await refusal(upgraded.fleet.ListNodeEvents(request))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "page_token")


async def test_a_node_is_shown_as_it_was(root: Served) -> None:
    await root.fleet.CreateNode(fleet.CreateNodeRequest(node_id="n1"))
    policy = policy_service_pb2.CreatePolicyRequest(domain="global", policy_id="base")
    policy.spec.target_version = "1.0.0"
    await root.policies.CreatePolicy(policy)
    await report(root, node_pb2.ActualState(reported_version="1.0.0"))
    await asyncio.sleep(0.01)
    then = Timestamp()
    then.FromNanoseconds(time.time_ns())
    await asyncio.sleep(0.01)
    change = policy_service_pb2.UpdatePolicyRequest(name="domains/global/policies/base")
    change.spec.target_version = "2.0.0"
    await root.policies.UpdatePolicy(change)
    for number in range(5):
        await report(root, node_pb2.ActualState(reported_version=f"1.1.{number}"))

    request = fleet.GetNodeRequest(name=NODE, as_of_time=then)
    node = (await root.fleet.GetNode(request)).node
    now = (await root.fleet.GetNode(fleet.GetNodeRequest(name=NODE))).node

    assert node.actual_state.reported_version == "1.0.0"
    assert node.effective_desired_state.desired_state.target_version == "1.0.0"
    assert not node.drift.objects_out_of_spec
    assert node.as_of_time.ToMilliseconds() == then.ToMilliseconds()
    assert node.authority.master_of_record == "global-control"
    assert now.actual_state.reported_version == "1.1.4"
    assert now.effective_desired_state.desired_state.target_version == "2.0.0"


async def test_times_without_an_answer_are_refused(
    upgraded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fleet.GetNodeRequest(name=NODE, as_of_time=Timestamp(seconds=1))
    code, _, _ = await refusal(upgraded.fleet.GetNode(before))
    assert code is grpc.StatusCode.NOT_FOUND
    ahead = fleet.GetNodeRequest(name=NODE, as_of_time=Timestamp(seconds=int(time.time()) + 3600))
    code, info, _ = await refusal(upgraded.fleet.GetNode(ahead))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "as_of_time")
    monkeypatch.setattr(node_past, "MAX_LOOKS", 1)
    code, info, _ = await refusal(upgraded.fleet.GetNode(before))
    assert (code, info.reason) == (grpc.StatusCode.OUT_OF_RANGE, "HISTORY_OUT_OF_REACH")


@pytest.mark.parametrize("seed", range(3))
async def test_the_past_is_what_was_present_then(root: Served, seed: int) -> None:
    """On a random history, facts read back to a commit are those of the state folded up to it."""
    made = RandomFleet(seed, nodes=5)
    replica = root.replica
    replica.state = made.controller.replayed()
    commits = made.controller.commits

    async def read(first: int, max_bytes: int) -> list[Any]:
        return commits[first : first + 1]

    replica.read_commits = read  # type: ignore[method-assign,assignment]
    remembered = []
    for _ in range(150):
        made.step()
        if made.chance.random() < 0.2:
            now_ms = made.controller.now_ms
            remembered.append((now_ms, _all_nodes(made.state, now_ms)))
    replica.state = made.controller.replayed()

    for now_ms, nodes in remembered:
        for subject, wanted in nodes.items():
            facts = await node_past.facts_at(replica, [subject], now_ms)
            freshness = Freshness(replica.state, "global", now_ms)
            found = whole_node(facts, subject, freshness)
            assert found == wanted, (now_ms, subject)


@pytest.mark.parametrize("seed", range(2))
async def test_a_list_of_the_past_is_what_was_listed_then(root: Served, seed: int) -> None:
    """On a random history, all nodes read back at once, by the log since, are those of the state folded up to then."""
    made = RandomFleet(seed, nodes=5)
    replica = root.replica
    commits = made.controller.commits

    async def read(first: int, max_bytes: int) -> list[Any]:
        return commits[first : first + (1 if max_bytes == 1 else 7)]

    replica.read_commits = read  # type: ignore[method-assign,assignment]
    remembered = []
    for _ in range(100):
        made.step()
        if made.chance.random() < 0.1:
            now_ms = made.controller.now_ms
            remembered.append((now_ms, _all_nodes(made.state, now_ms)))
    replica.state = made.controller.replayed()

    subjects = [s for s in replica.state.domains_of_subject if s.startswith("nodes/")]
    for now_ms, wanted in remembered:
        facts = await node_past.facts_at(replica, subjects, now_ms, ahead=True)
        freshness = Freshness(replica.state, "global", now_ms, is_past=True)
        for subject in subjects:
            with contextlib.suppress(NotFound):
                assert whole_node(facts, subject, freshness) == wanted.pop(subject)
        assert not wanted


async def test_a_list_is_filtered_ordered_and_paged_by_what_was(root: Served) -> None:
    for node in ("n1", "n2", "n3"):
        await root.fleet.CreateNode(fleet.CreateNodeRequest(node_id=node))
    spec = node_pb2.NodeSpec(tags=["lab"])
    await root.fleet.UpdateNode(fleet.UpdateNodeRequest(name="nodes/n2", spec=spec))
    await asyncio.sleep(0.01)
    then = Timestamp()
    then.FromNanoseconds(time.time_ns())
    await asyncio.sleep(0.01)
    await root.fleet.UpdateNode(fleet.UpdateNodeRequest(name="nodes/n1", spec=spec))
    await root.fleet.DeleteNode(fleet.DeleteNodeRequest(name="nodes/n3"))
    await root.fleet.CreateNode(fleet.CreateNodeRequest(node_id="n4"))

    async def listed(**fields: Any) -> fleet.ListNodesResponse:
        request = fleet.ListNodesRequest(as_of_time=then, **fields)
        reply: fleet.ListNodesResponse = await root.fleet.ListNodes(request)
        return reply

    first = await listed(order_by="id desc", page_size=2)
    assert [n.id for n in first.nodes] == ["n3", "n2"]
    assert first.total_size == 3
    assert first.as_of_time.ToMilliseconds() == then.ToMilliseconds()
    assert first.nodes[0].authority.master_of_record == "global-control"
    second = await listed(order_by="id desc", page_size=2, page_token=first.next_page_token)
    assert [n.id for n in second.nodes] == ["n1"]
    tagged = await listed(filter="tags:lab", read_mask={"paths": ["id"]})
    assert [(n.id, n.domain) for n in tagged.nodes] == [("n2", "")]


async def test_a_list_of_the_past_that_is_too_wide_or_too_far_is_refused(
    upgraded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = fleet.ListNodesRequest(as_of_time=Timestamp(seconds=1))
    assert not (await upgraded.fleet.ListNodes(request)).nodes
    monkeypatch.setattr(node_past, "MAX_AHEAD_BYTES", 1)
    code, info, _ = await refusal(upgraded.fleet.ListNodes(request))
    assert (code, info.reason) == (grpc.StatusCode.OUT_OF_RANGE, "HISTORY_OUT_OF_REACH")
    monkeypatch.setattr(fleet_past, "MAX_PAST_NODES", 0)
    code, info, _ = await refusal(upgraded.fleet.ListNodes(request))
    assert (code, info.reason) == (grpc.StatusCode.OUT_OF_RANGE, "PAST_TOO_WIDE")
    request.as_of_time.FromSeconds(int(time.time()) + 3600)
    code, info, _ = await refusal(upgraded.fleet.ListNodes(request))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "as_of_time")


def _all_nodes(state: Any, now_ms: int) -> dict[str, node_pb2.Node]:
    found = {}
    for subject in list(state.domains_of_subject):
        if subject.startswith("nodes/"):
            with contextlib.suppress(NotFound):
                found[subject] = whole_node(state, subject, Freshness(state, "global", now_ms))
    return found


# Why.


async def explain(root: Served, field: str) -> fleet.ExplainNodeResponse:
    request = fleet.ExplainNodeRequest(name=NODE, field=field)
    reply: fleet.ExplainNodeResponse = await root.fleet.ExplainNode(request)
    return reply


async def test_the_version_that_governs_is_explained_level_by_level(upgraded: Served) -> None:
    policy = policy_service_pb2.CreatePolicyRequest(domain="global", policy_id="base")
    policy.spec.target_version = "2.0.0"
    await upgraded.policies.CreatePolicy(policy)
    declared = node_pb2.DesiredState(target_version="1.4.9")
    await upgraded.fleet.SetDesiredState(
        fleet.SetDesiredStateRequest(name=NODE, desired_state=declared)
    )

    near = await explain(upgraded, "target_version")
    assert near.value.string_value == "1.4.9"
    assert [(s.role, s.source) for s in near.chain] == [
        (DECIDES, NODE),
        (OVERRIDDEN, "domains/global/policies/base"),
    ]
    assert "nearer" in near.chain[1].note

    change = policy_service_pb2.UpdatePolicyRequest(name="domains/global/policies/base")
    change.spec.CopyFrom(policy.spec)
    change.spec.enforced = True
    await upgraded.policies.UpdatePolicy(change)
    above = await explain(upgraded, "effective_desired_state.desired_state.target_version")
    assert above.value.string_value == "2.0.0"
    assert [(s.role, s.source) for s in above.chain] == [
        (DECIDES, "domains/global/policies/base"),
        (OVERRIDDEN, NODE),
    ]
    assert above.chain[0].event.document["target_version"] == "2.0.0"
    assert above.chain[0].event.principal.startswith("user:")


async def test_modes_and_phases_are_explained_by_their_transitions(upgraded: Served) -> None:
    for mode, reason in ((1, "first_contact"), (4, "connection_lost")):
        link = connectivity_pb2.LinkState(mode=mode, reason=reason, evidence="seen so")  # type: ignore[arg-type]
        await report(upgraded, link, "link_state")
    reply = await explain(upgraded, "mode")

    assert reply.value.string_value == "CONNECTIVITY_MODE_AUTONOMOUS"
    assert [s.role for s in reply.chain] == [DECIDES, EARLIER]
    assert reply.chain[0].note == "connection_lost: seen so"
    phase = await explain(upgraded, "lifecycle.phase")
    name = lifecycle_pb2.LifecyclePhase.Name(lifecycle_pb2.LIFECYCLE_PHASE_PROVISIONING)
    assert phase.value.string_value == name
    assert phase.chain[0].note == "created"


async def test_reports_drift_and_authority_are_explained(upgraded: Served) -> None:
    declared = node_pb2.DesiredState(target_version="1.4.9")
    await upgraded.fleet.SetDesiredState(
        fleet.SetDesiredStateRequest(name=NODE, desired_state=declared)
    )
    version = await explain(upgraded, "version")
    assert version.field == "actual_state.reported_version"
    assert [s.event.aspect for s in version.chain] == ["actual_state"]
    drift = await explain(upgraded, "drift.score")
    assert drift.value.number_value > 0
    assert [(s.role, s.event.aspect) for s in drift.chain] == [
        (INPUT, "actual_state"),
        (INPUT, "desired_state"),
    ]
    authority = await explain(upgraded, "authority.master_of_record")
    assert authority.value.string_value == "global-control"
    assert authority.chain[0].event.aspect == "genesis"
    nothing = await explain(upgraded, "inventory.hostname")
    assert not nothing.HasField("value")
    assert not nothing.chain


async def test_a_field_that_is_none_is_refused_with_those_there_are(upgraded: Served) -> None:
    for field in ("", "colour", "spec.colour"):
        request = fleet.ExplainNodeRequest(name=NODE, field=field)
        code, info, text = await refusal(upgraded.fleet.ExplainNode(request))
        assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "field")
        assert "is not among" in text
