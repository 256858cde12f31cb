"""AttestationService, and what of attestation shows elsewhere: the twin, lists, history, attention, release."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from controller.attestation.record import Came, next_record
from controller.attestation.states import Evidence
from controller.attestation.verdict import Baseline, judge
from controller.config import AccessSection
from souverix.attention.v1 import attention_pb2, attention_service_pb2
from souverix.fleet.v1 import fleet_service_pb2, lifecycle_pb2, return_pb2, supply_chain_pb2
from souverix.trust.v1 import access_service_pb2, attestation_pb2, role_binding_pb2
from souverix.trust.v1 import attestation_service_pb2 as service
from tests.federation_fixture import ROOT
from tests.unit.controller.attestation.attestations import KEY, expected, said, value
from tests.unit.controller.services.served import Served, refusal, root_served

VERIFIED = supply_chain_pb2.INTEGRITY_STATE_VERIFIED
FAILED = supply_chain_pb2.INTEGRITY_STATE_FAILED
EXPIRED = supply_chain_pb2.INTEGRITY_STATE_EXPIRED

ADMIN: Any = {"metadata": (("souverix-principal", "user:admin"),)}
ALICE: Any = {"metadata": (("souverix-principal", "user:alice"),)}

Spec = attestation_pb2.AttestationPolicySpec


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[Served]:
    async with root_served(tmp_path) as served:
        for node in ("n1", "n2"):
            await served.fleet.CreateNode(
                fleet_service_pb2.CreateNodeRequest(domain=ROOT, node_id=node)
            )
        yield served


async def refuses(code: grpc.StatusCode, call: Any, **metadata: str) -> None:
    found, info, text = await refusal(call)
    assert found == code, text
    assert dict(info.metadata).items() >= metadata.items()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 the condition is a call's
            await asyncio.sleep(0.05)


async def set_policy(controller: Served, spec: Spec, **fields: Any) -> Any:
    return await controller.attestation.SetAttestationPolicy(
        service.SetAttestationPolicyRequest(domain=ROOT, spec=spec, **fields)
    )


async def write(controller: Served, aspect: str, body: Any, node: str = "n1") -> None:
    await controller.replica.journal().submit(
        lambda proposal: proposal.write(
            ROOT, f"nodes/{node}", aspect, body, principal="controller:global-control"
        )
    )


async def record(
    controller: Served, number: int, node: str = "n1", max_age_ms: int = 0
) -> attestation_pb2.NodeAttestation:
    """Records that the node measured a value, of which 1 is expected."""
    demands = expected("r")
    statement = said(r=number)
    verdict = judge(statement, demands, Baseline({"r": value(1)}, KEY))
    came = Came(verdict.evidence, statement, verdict.findings)
    held = await read(controller, node)
    before = held.attestation if held.HasField("attestation") else None
    now_ms = time.time_ns() // 1_000_000
    made = next_record(before, came, demands, now_ms, "global-control", now_ms)
    assert made is not None
    if max_age_ms:
        made.attestation.expire_time.FromMilliseconds(now_ms + max_age_ms)
    await write(controller, "attestation", made.attestation, node)
    return made.attestation


async def read(controller: Served, node: str = "n1") -> service.Attestation:
    reply = await controller.attestation.GetAttestation(
        service.GetAttestationRequest(name=f"nodes/{node}")
    )
    attestation: service.Attestation = reply.attestation
    return attestation


async def listed(controller: Served, condition: str) -> list[str]:
    reply = await controller.fleet.ListNodes(fleet_service_pb2.ListNodesRequest(filter=condition))
    return [node.id for node in reply.nodes]


async def test_a_policy_is_written_read_and_joined(controller: Served) -> None:
    reply = await set_policy(
        controller, Spec(pinned_registers=["agent.program"], interval=Duration(seconds=600))
    )
    assert reply.receipt.domain == ROOT
    held = (
        await controller.attestation.GetAttestationPolicy(
            service.GetAttestationPolicyRequest(domain=ROOT)
        )
    ).policy
    assert held == reply.policy
    assert (held.effective.interval.seconds, held.effective.max_age.seconds) == (600, 1800)
    assert held.effective.on_failure == attestation_pb2.FAILURE_ACTION_ATTENTION
    await refuses(grpc.StatusCode.ABORTED, set_policy(controller, Spec(), etag="other"))
    preview = await set_policy(controller, Spec(), etag=held.etag, validate_only=True)
    assert not preview.policy.effective.pinned_registers
    assert not preview.HasField("receipt")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (Spec(pinned_registers=["No Name"]), "spec.pinned_registers[0]"),
        (Spec(pinned_registers=["r"] * 33), "spec.pinned_registers"),
        (Spec(rules=[attestation_pb2.RegisterRule(register="r")]), "spec.rules[0].allowed"),
        (
            Spec(rules=[attestation_pb2.RegisterRule(register="r", allowed=["x"])]),
            "spec.rules[0].allowed[0]",
        ),
        (Spec(interval=Duration(seconds=1)), "spec.interval"),
        (Spec(interval=Duration(seconds=60), max_age=Duration(seconds=90)), "spec.max_age"),
        (Spec(max_age=Duration(seconds=10**9)), "spec.max_age"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused(
    controller: Served, spec: Spec, field: str
) -> None:
    await refuses(grpc.StatusCode.INVALID_ARGUMENT, set_policy(controller, spec), field=field)


async def test_a_demand_is_a_fact_and_each_is_of_another_time(controller: Served) -> None:
    request = service.AttestNodeRequest(name="nodes/n1", reason="look", request_id="one")
    first = await controller.attestation.AttestNode(request)
    assert (await read(controller)).demand.reason == "look"
    assert (await controller.attestation.AttestNode(request)).demand_time == first.demand_time
    second = await controller.attestation.AttestNode(service.AttestNodeRequest(name="nodes/n1"))
    assert second.demand_time.ToMilliseconds() > first.demand_time.ToMilliseconds()
    await refuses(
        grpc.StatusCode.NOT_FOUND,
        controller.attestation.AttestNode(service.AttestNodeRequest(name="nodes/none")),
    )


async def test_the_twin_shows_the_verdict_its_age_and_a_score(controller: Served) -> None:
    await record(controller, 1)
    node = (await controller.fleet.GetNode(fleet_service_pb2.GetNodeRequest(name="nodes/n1"))).node
    shown = node.trust.runtime_attestation
    assert (shown.integrity_state, shown.reason) == (VERIFIED, "AS_EXPECTED")
    assert shown.last_verified_time == shown.initial_time
    assert 0.99 < node.trust.trust_score <= 1.0
    await record(controller, 2)
    node = (await controller.fleet.GetNode(fleet_service_pb2.GetNodeRequest(name="nodes/n1"))).node
    assert node.trust.runtime_attestation.integrity_state == FAILED
    assert list(node.trust.runtime_attestation.failed_registers) == ["r"]
    assert (node.trust.HasField("trust_score"), node.trust.trust_score) == (True, 0.0)
    other = (await controller.fleet.GetNode(fleet_service_pb2.GetNodeRequest(name="nodes/n2"))).node
    assert not other.HasField("trust")


async def test_nodes_are_found_by_their_attestation_which_runs_out_by_itself(
    controller: Served,
) -> None:
    await record(controller, 2, "n1")
    await record(controller, 1, "n2", max_age_ms=300)
    assert await listed(controller, "attestation = FAILED") == ["n1"]

    async def has_run_out() -> bool:
        return await listed(controller, "attestation = EXPIRED") == ["n2"]

    await until(has_run_out)
    held = (await read(controller, "n2")).attestation
    assert (held.state, held.reason, held.previous_state) == (EXPIRED, "TOO_OLD", VERIFIED)
    node = (await controller.fleet.GetNode(fleet_service_pb2.GetNodeRequest(name="nodes/n2"))).node
    assert node.trust.runtime_attestation.integrity_state == EXPIRED


async def test_history_holds_the_states_and_not_the_renewals(controller: Served) -> None:
    for number in (1, 1, 2, 1):
        await record(controller, number)
    reply = await controller.attestation.ListAttestationHistory(
        service.ListAttestationHistoryRequest(name="nodes/n1")
    )
    assert [each.state for each in reply.attestations] == [VERIFIED, FAILED, VERIFIED]
    why = await controller.fleet.ExplainNode(
        fleet_service_pb2.ExplainNodeRequest(name="nodes/n1", field="attestation")
    )
    assert why.value.string_value == "INTEGRITY_STATE_VERIFIED"
    assert [step.note for step in why.chain] == [
        "AS_EXPECTED",
        "MEASUREMENTS_DIFFER",
        "AS_EXPECTED",
    ]


async def accept(controller: Served, digest: str, **fields: Any) -> Any:
    fields.setdefault("reason", "the new release")
    return await controller.attestation.AcceptMeasurements(
        service.AcceptMeasurementsRequest(name="nodes/n1", measurements_digest=digest, **fields)
    )


async def test_what_was_looked_at_is_accepted_and_nothing_else(controller: Served) -> None:
    await set_policy(controller, Spec(pinned_registers=["r"]))
    await refuses(grpc.StatusCode.FAILED_PRECONDITION, accept(controller, value(1)))
    failed = await record(controller, 2)
    await refuses(grpc.StatusCode.FAILED_PRECONDITION, accept(controller, value(1)))
    await refuses(
        grpc.StatusCode.INVALID_ARGUMENT,
        accept(controller, failed.measurements_digest, reason=" "),
        field="reason",
    )
    reply = await accept(controller, failed.measurements_digest)
    held = reply.attestation
    assert [(each.register, each.value) for each in held.baseline.registers] == [("r", value(2))]
    assert held.baseline.public_key == KEY
    assert held.baseline.reason == "the new release"
    # It is for the next statement to verify the node; that is demanded.
    assert held.attestation.state == FAILED
    assert held.HasField("demand")


async def test_what_a_rule_forbids_cannot_be_accepted(controller: Served) -> None:
    rule = attestation_pb2.RegisterRule(register="r", allowed=[value(1)])
    await set_policy(controller, Spec(rules=[rule]))
    failed = await record(controller, 2)
    await refuses(
        grpc.StatusCode.FAILED_PRECONDITION,
        accept(controller, failed.measurements_digest),
        registers="r",
    )


async def items(controller: Served) -> list[Any]:
    kinds = [
        attention_pb2.ATTENTION_KIND_ATTESTATION_FAILED,
        attention_pb2.ATTENTION_KIND_ATTESTATION_MISSING,
    ]
    reply = await controller.attention.ListItems(
        attention_service_pb2.ListItemsRequest(kinds=kinds)
    )
    return list(reply.items)


async def until_items(controller: Served, *kinds: int) -> list[Any]:
    async def are_there() -> bool:
        return [item.kind for item in await items(controller)] == list(kinds)

    await until(are_there)
    return await items(controller)


async def test_a_failure_and_a_verification_that_ran_out_are_raised(controller: Served) -> None:
    await set_policy(controller, Spec(pinned_registers=["r"]))
    await record(controller, 2)
    failed = attention_pb2.ATTENTION_KIND_ATTESTATION_FAILED
    missing = attention_pb2.ATTENTION_KIND_ATTESTATION_MISSING
    found = await until_items(controller, failed)
    assert "r NOT_AS_PINNED" in found[0].cause
    await record(controller, 1, "n2", max_age_ms=200)
    await until_items(controller, failed, missing)
    await set_policy(controller, Spec())
    await until_items(controller)


async def test_nothing_is_raised_where_nothing_is_to_follow(controller: Served) -> None:
    nothing = attestation_pb2.FAILURE_ACTION_NOTHING
    await set_policy(controller, Spec(pinned_registers=["r"], on_failure=nothing))
    await record(controller, 2)
    await until_items(controller)
    await set_policy(controller, Spec(pinned_registers=["r"]))
    await until_items(controller, attention_pb2.ATTENTION_KIND_ATTESTATION_FAILED)


async def transition(controller: Served, name: str, **fields: Any) -> Any:
    reply = await controller.fleet.TransitionNode(
        fleet_service_pb2.TransitionNodeRequest(
            name="nodes/n1", transition=f"LIFECYCLE_TRANSITION_{name}", reason="why", **fields
        )
    )
    return reply.node.lifecycle


async def quarantine(controller: Served) -> None:
    held = lifecycle_pb2.LifecycleState(
        phase=lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED, requires_attestation=True
    )
    held.last_transition_time.GetCurrentTime()
    await write(controller, "lifecycle", held)


async def test_release_asks_for_a_verification_since(controller: Served) -> None:
    await record(controller, 1)
    await record(controller, 2)
    await quarantine(controller)
    await refuses(
        grpc.StatusCode.FAILED_PRECONDITION,
        transition(controller, "RELEASE_FROM_QUARANTINE"),
        missing="attestation",
    )
    await asyncio.sleep(0.002)  # the next millisecond, of which stamps are made
    await record(controller, 1)
    freed = await transition(controller, "RELEASE_FROM_QUARANTINE")
    assert freed.phase == lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE


async def test_other_hardware_is_no_way_out_of_a_quarantine(controller: Served) -> None:
    await record(controller, 1)
    await record(controller, 2)
    await quarantine(controller)
    fresh = supply_chain_pb2.HardwareIdentity(serial="b2")
    await refuses(
        grpc.StatusCode.FAILED_PRECONDITION,
        transition(controller, "REPLACE_HARDWARE", hardware=fresh),
        missing="attestation",
    )
    moved = await transition(
        controller, "REPLACE_HARDWARE", hardware=fresh, override_attestation=True
    )
    assert moved.phase == lifecycle_pb2.LIFECYCLE_PHASE_PROVISIONING


async def test_release_may_be_forced_with_a_reason(controller: Served) -> None:
    await record(controller, 2)
    await quarantine(controller)
    await refuses(
        grpc.StatusCode.INVALID_ARGUMENT,
        transition(controller, "ACTIVATE", override_attestation=True),
        field="override_attestation",
    )
    freed = await transition(controller, "RELEASE_FROM_QUARANTINE", override_attestation=True)
    assert freed.phase == lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE


async def test_whoever_gives_an_agents_key_up_gives_up_its_attesters(controller: Served) -> None:
    await write(controller, "agent_key", return_pb2.AgentKey(public_key=KEY))
    baseline = attestation_pb2.AttestationBaseline(public_key=KEY)
    baseline.registers.add(register="r", value=value(1))
    await write(controller, "attestation_baseline", baseline)
    await controller.fleet.ResetAgentKey(
        fleet_service_pb2.ResetAgentKeyRequest(name="nodes/n1", reason="disk lost")
    )
    held = (await read(controller)).baseline
    assert not held.public_key
    assert [each.register for each in held.registers] == ["r"]


async def test_silence_of_a_node_is_told(controller: Served) -> None:
    made = next_record(
        None, Came(Evidence.SILENT), expected("r"), time.time_ns() // 1_000_000, "c", None
    )
    assert made is not None
    await write(controller, "attestation", made.attestation)
    assert await listed(controller, "attestation = UNKNOWN") == ["n1"]


async def test_an_operator_demands_and_does_not_decide(tmp_path: Path) -> None:
    section = AccessSection("enforce", ("user:admin",))
    async with root_served(tmp_path, section) as controller:
        await controller.fleet.CreateNode(
            fleet_service_pb2.CreateNodeRequest(domain=ROOT, node_id="n1"), **ADMIN
        )
        binding = access_service_pb2.CreateRoleBindingRequest(
            domain=ROOT,
            binding_id="b1",
            spec=role_binding_pb2.RoleBindingSpec(
                role=role_binding_pb2.ROLE_OPERATOR, members=["user:alice"]
            ),
        )
        await controller.access.CreateRoleBinding(binding, **ADMIN)
        attestation, denied = controller.attestation, grpc.StatusCode.PERMISSION_DENIED
        demand = service.AttestNodeRequest(name="nodes/n1")
        assert (await attestation.AttestNode(demand, **ALICE)).HasField("demand_time")
        policy = service.SetAttestationPolicyRequest(domain=ROOT, spec=Spec())
        await refuses(denied, attestation.SetAttestationPolicy(policy, **ALICE))
        acceptance = service.AcceptMeasurementsRequest(
            name="nodes/n1", measurements_digest=value(1), reason="why not"
        )
        await refuses(denied, attestation.AcceptMeasurements(acceptance, **ALICE))
        await quarantine(controller)
        release = fleet_service_pb2.TransitionNodeRequest(
            name="nodes/n1",
            transition=lifecycle_pb2.LIFECYCLE_TRANSITION_RELEASE_FROM_QUARANTINE,
            reason="it is fine",
            override_attestation=True,
        )
        await refuses(
            denied, controller.fleet.TransitionNode(release, **ALICE), role="domain-admin"
        )
        freed = (await controller.fleet.TransitionNode(release, **ADMIN)).node
        assert freed.lifecycle.phase == lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE
