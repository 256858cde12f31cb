from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2

from controller.services.fleet_batches import MAX_ITEMS
from controller.writes import Draft, Executed, Forwarded, WriteCall
from federation.identifiers import Key
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2, item_status_pb2, node_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from tests.unit.controller.services.served import Served, refusal, zone_served


def creations(count: int, **fields: object) -> list[fleet.NodeCreation]:
    return [fleet.NodeCreation(node_id=f"n{i}", **fields) for i in range(count)]  # type: ignore[arg-type]


def declarations(count: int, version: str) -> list[fleet.DesiredStateDeclaration]:
    desired = node_pb2.DesiredState(target_version=version)
    return [
        fleet.DesiredStateDeclaration(name=f"nodes/n{i}", desired_state=desired)
        for i in range(count)
    ]


async def test_batch_is_one_commit_with_one_audit_event_that_counts_its_items(root: Served) -> None:
    before = root.replica.state.next_offset

    reply = await root.fleet.BatchCreateNodes(fleet.BatchCreateNodesRequest(items=creations(200)))

    assert [r.status.code for r in reply.results] == [0] * 200
    assert {r.receipt.commit_offset for r in reply.results} == {before}
    assert root.replica.state.next_offset == before + 1
    audit = root.replica.state.audits[-1].write.body()
    assert audit.action == "souverix.fleet.v1.FleetService/BatchCreateNodes"
    assert "200 items" in audit.resource
    node = (await root.fleet.GetNode(fleet.GetNodeRequest(name="nodes/n199"))).node
    assert node.etag == reply.results[199].etag


async def test_items_succeed_and_fail_each_for_itself(root: Served) -> None:
    await root.fleet.BatchCreateNodes(fleet.BatchCreateNodesRequest(items=creations(3)))
    items = declarations(3, "v1")
    items[1].etag = "stale"
    items.append(fleet.DesiredStateDeclaration(name="nodes/unknown"))
    items.append(fleet.DesiredStateDeclaration(name="wrong"))

    reply = await root.fleet.BatchSetDesiredStates(fleet.BatchSetDesiredStatesRequest(items=items))

    assert [r.status.code for r in reply.results] == [
        code_pb2.OK,
        code_pb2.ABORTED,
        code_pb2.OK,
        code_pb2.NOT_FOUND,
        code_pb2.INVALID_ARGUMENT,
    ]
    assert reply.results[1].status.reason == "ETAG_MISMATCH"
    assert reply.results[4].status.metadata["field"] == "items[4].name"
    state = root.replica.state
    assert state.winner(Key("global", "nodes/n1", "desired_state")) is None
    winner = state.winner(Key("global", "nodes/n2", "desired_state"))
    assert winner is not None
    assert winner.body().target_version == "v1"


async def test_repeated_batch_writes_nothing_and_answers_the_same(root: Served) -> None:
    await root.fleet.BatchCreateNodes(fleet.BatchCreateNodesRequest(items=creations(3)))
    items = declarations(3, "v1")
    first = await root.fleet.BatchSetDesiredStates(
        fleet.BatchSetDesiredStatesRequest(items=items[:2], request_id="b-1")
    )
    before = root.replica.state.next_offset

    again = await root.fleet.BatchSetDesiredStates(
        fleet.BatchSetDesiredStatesRequest(items=list(reversed(items)), request_id="b-1")
    )

    assert [r.receipt.repeated_request for r in again.results] == [False, True, True]
    assert again.results[2].receipt.commit_offset == first.results[0].receipt.commit_offset
    assert again.results[2].etag == first.results[0].etag
    assert root.replica.state.next_offset == before + 1


async def test_batch_without_ids_makes_the_same_ids_when_repeated(root: Served) -> None:
    request = fleet.BatchCreateNodesRequest(
        items=[fleet.NodeCreation(), fleet.NodeCreation()], request_id="b-2"
    )

    first = await root.fleet.BatchCreateNodes(request)
    again = await root.fleet.BatchCreateNodes(request)

    assert [r.name for r in first.results] == [r.name for r in again.results]
    assert len({r.name for r in first.results}) == 2
    assert all(r.receipt.repeated_request for r in again.results)


async def test_batch_of_no_or_too_many_items_or_one_node_twice_is_refused(root: Served) -> None:
    for items in ([], creations(MAX_ITEMS + 1), [*creations(2), *creations(1)]):
        code, info, _ = await refusal(
            root.fleet.BatchCreateNodes(fleet.BatchCreateNodesRequest(items=items))
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert info.metadata["field"].startswith("items")
    assert not list(root.replica.state.subjects_of("global", "nodes"))


async def test_validate_only_checks_each_item_and_writes_nothing(root: Served) -> None:
    await root.fleet.BatchCreateNodes(fleet.BatchCreateNodesRequest(items=creations(1)))
    before = root.replica.state.next_offset

    reply = await root.fleet.BatchCreateNodes(
        fleet.BatchCreateNodesRequest(items=creations(2), validate_only=True)
    )

    assert [r.status.code for r in reply.results] == [code_pb2.ALREADY_EXISTS, code_pb2.OK]
    assert not reply.results[1].HasField("receipt")
    assert root.replica.state.next_offset == before


async def test_large_items_are_cut_into_submissions_that_fit_the_log(root: Served) -> None:
    spec = node_pb2.NodeSpec(labels={f"l{i}": "x" * 500 for i in range(40)})

    reply = await root.fleet.BatchCreateNodes(
        fleet.BatchCreateNodesRequest(items=creations(100, spec=spec))
    )

    assert [r.status.code for r in reply.results] == [0] * 100


async def test_items_of_another_master_are_forwarded_or_refused_with_its_name(
    tmp_path: Path,
) -> None:
    autonomy = authority_pb2.Autonomy(can_operate_isolated=True)
    async with zone_served(tmp_path, autonomy) as (zone, _):
        mine = fleet.NodeCreation(node_id="n0")
        other = fleet.NodeCreation(node_id="n1", domain="global")
        request = fleet.BatchCreateNodesRequest(items=[other, mine], request_id="b-1")

        cut_off = await zone.fleet.BatchCreateNodes(request)
        zone.forwarder.up.add("global-control")
        zone.forwarder.answer = fleet.BatchCreateNodesResponse(
            results=[
                fleet.NodeWriteResult(
                    status=item_status_pb2.ItemStatus(), name="nodes/n1", etag="e"
                )
            ]
        ).SerializeToString()
        linked = await zone.fleet.BatchCreateNodes(request)

        assert [r.status.code for r in cut_off.results] == [
            code_pb2.PERMISSION_DENIED,
            code_pb2.OK,
        ]
        assert cut_off.results[0].status.metadata["master"] == "global-control"
        assert [r.status.code for r in linked.results] == [0, 0]
        assert linked.results[0].etag == "e"
        assert linked.results[1].receipt.repeated_request
        sent = fleet.BatchCreateNodesRequest.FromString(zone.forwarder.asked[0][2])
        assert [item.node_id for item in sent.items] == ["n1"]


async def test_autonomy_is_asked_item_by_item(tmp_path: Path) -> None:
    autonomy = authority_pb2.Autonomy(can_operate_isolated=True, can_deploy_versions=True)
    async with zone_served(tmp_path, autonomy, master="global-control") as (zone, _):
        await zone.fleet.BatchCreateNodes(fleet.BatchCreateNodesRequest(items=creations(2)))
        items = declarations(2, "v1")
        items[1].desired_state.policy_bundle = "p1"

        reply = await zone.fleet.BatchSetDesiredStates(
            fleet.BatchSetDesiredStatesRequest(items=items)
        )

        assert [r.status.code for r in reply.results] == [
            code_pb2.OK,
            code_pb2.FAILED_PRECONDITION,
        ]
        assert reply.results[0].receipt.optimistic
        assert reply.results[1].status.metadata["permission"] == "can_modify_policies"


async def test_decision_that_runs_again_tells_of_its_last_run_only(
    root: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await root.fleet.BatchCreateNodes(fleet.BatchCreateNodesRequest(items=creations(1)))
    execute = root.replica.writer.execute

    async def execute_twice(call: WriteCall) -> Executed | Forwarded:
        def decide(draft: Draft) -> None:
            mark = draft.proposal.mark()
            gone = domain_pb2.Existence(exists=False)
            draft.write(call.domain, "nodes/n0", "existence", gone)
            call.decide(draft)
            draft.proposal.revert(mark)
            call.decide(draft)

        return await execute(call._replace(decide=decide))

    monkeypatch.setattr(root.replica.writer, "execute", execute_twice)
    request = fleet.BatchSetDesiredStatesRequest(items=declarations(1, "v1"))
    reply = await root.fleet.BatchSetDesiredStates(request)

    assert reply.results[0].status.code == code_pb2.OK
    node = (await root.fleet.GetNode(fleet.GetNodeRequest(name="nodes/n0"))).node
    assert node.desired_state.target_version == "v1"
    assert node.etag == reply.results[0].etag
