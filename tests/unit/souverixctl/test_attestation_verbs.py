"""`attestation …`: what is asked for and shown."""

from __future__ import annotations

import pytest

from souverix.fleet.v1 import fleet_service_pb2, lifecycle_pb2, supply_chain_pb2
from souverix.receipt.v1 import receipt_pb2
from souverix.trust.v1 import attestation_pb2
from souverix.trust.v1 import attestation_service_pb2 as service
from souverixctl.errors import ExitCode
from tests.unit.souverixctl.conftest import Serve
from tests.unit.souverixctl.scripted import ScriptedController, ctl

RECEIPT = receipt_pb2.WriteReceipt(controller="c", domain="z")
DIGEST = "sha256:" + "ab" * 32
DEMANDED_S = 1_800_000_000


def standing(
    state: supply_chain_pb2.IntegrityState, demand_s: int = 0
) -> service.GetAttestationResponse:
    entry = attestation_pb2.NodeAttestation(state=state, reason="R", measurements_digest=DIGEST)
    entry.registers.add(register="agent.program", value=DIGEST)
    if demand_s:
        entry.demand_time.seconds = demand_s
    if state == supply_chain_pb2.INTEGRITY_STATE_FAILED:
        finding = entry.findings.add(
            register="agent.program", reason=attestation_pb2.FINDING_REASON_NOT_AS_PINNED
        )
        finding.parts.add(name="nodeagent/link.py", digest=DIGEST)
    attestation = service.Attestation(name="nodes/n1", domain="z", attestation=entry)
    return service.GetAttestationResponse(attestation=attestation)


async def test_a_failed_node_is_shown_with_what_it_measured(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(service.GetAttestationRequest, standing(supply_chain_pb2.INTEGRITY_STATE_FAILED))
    ran = await ctl("attestation", "show", "n1", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.OK
    for told in ("FAILED", "agent.program", "NOT_AS_PINNED", "nodeagent/link.py", "never verified"):
        assert told in ran.out


@pytest.mark.parametrize(
    ("state", "demand_s", "code"),
    [
        (supply_chain_pb2.INTEGRITY_STATE_VERIFIED, DEMANDED_S, ExitCode.OK),
        (supply_chain_pb2.INTEGRITY_STATE_FAILED, DEMANDED_S, ExitCode.FAILED),
        (supply_chain_pb2.INTEGRITY_STATE_VERIFIED, DEMANDED_S - 1, ExitCode.TIMEOUT),
    ],
)
async def test_a_demand_waits_for_the_verdict_that_answers_it(
    serve: Serve,
    controller: ScriptedController,
    state: supply_chain_pb2.IntegrityState,
    demand_s: int,
    code: ExitCode,
) -> None:
    reply = service.AttestNodeResponse(receipt=RECEIPT)
    reply.demand_time.seconds = DEMANDED_S
    controller.on(service.AttestNodeRequest, reply)
    controller.on(service.GetAttestationRequest, standing(state, demand_s))
    ran = await ctl(
        "attestation", "attest", "n1", "--wait", "--wait-timeout", "10ms",
        "--server", await serve(controller),
    )  # fmt: skip
    assert ran.exit_code == code


async def test_the_last_measurements_are_accepted_by_their_digest(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(service.GetAttestationRequest, standing(supply_chain_pb2.INTEGRITY_STATE_FAILED))
    controller.on(
        service.AcceptMeasurementsRequest, service.AcceptMeasurementsResponse(receipt=RECEIPT)
    )
    server = await serve(controller)
    ran = await ctl("attestation", "accept", "n1", "--reason", "new release", "--server", server)
    assert ran.exit_code == ExitCode.OK
    (request,) = controller.requests(service.AcceptMeasurementsRequest)
    assert (request.measurements_digest, request.reason) == (DIGEST, "new release")


async def test_a_policy_is_put_together_from_options(
    serve: Serve, controller: ScriptedController
) -> None:
    controller.on(
        service.SetAttestationPolicyRequest, service.SetAttestationPolicyResponse(receipt=RECEIPT)
    )
    ran = await ctl(
        "attestation", "set-policy", "z", "--pin", "agent.program", "--allow", f"kernel={DIGEST}",
        "--allow", "kernel=sha256:cd", "--interval", "15m", "--max-age", "1h",
        "--on-failure", "quarantine", "--server", await serve(controller),
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK
    (request,) = controller.requests(service.SetAttestationPolicyRequest)
    spec = request.spec
    assert list(spec.pinned_registers) == ["agent.program"]
    assert [(r.register, list(r.allowed)) for r in spec.rules] == [
        ("kernel", [DIGEST, "sha256:cd"])
    ]
    assert (spec.interval.seconds, spec.max_age.seconds) == (900, 3600)
    assert spec.on_failure == attestation_pb2.FAILURE_ACTION_QUARANTINE


@pytest.mark.parametrize("given", [(), ("--pin", "r", "--nothing-expected"), ("--allow", "kernel")])
async def test_a_policy_that_says_nothing_clear_is_not_sent(
    serve: Serve, controller: ScriptedController, given: tuple[str, ...]
) -> None:
    server = await serve(controller)
    ran = await ctl("attestation", "set-policy", "z", *given, "--server", server)
    assert ran.exit_code == ExitCode.USAGE
    assert not controller.requests(service.SetAttestationPolicyRequest)


async def test_history_is_a_row_a_state(serve: Serve, controller: ScriptedController) -> None:
    reply = service.ListAttestationHistoryResponse()
    for state in ("VERIFIED", "FAILED"):
        reply.attestations.add(state=f"INTEGRITY_STATE_{state}", reason="R")
    controller.on(service.ListAttestationHistoryRequest, reply)
    ran = await ctl("attestation", "history", "n1", "--server", await serve(controller))
    assert ran.exit_code == ExitCode.OK
    assert ran.out.index("VERIFIED") < ran.out.index("FAILED")


async def test_a_release_may_override(serve: Serve, controller: ScriptedController) -> None:
    reply = fleet_service_pb2.TransitionNodeResponse(receipt=RECEIPT)
    reply.node.lifecycle.phase = lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE
    controller.on(fleet_service_pb2.TransitionNodeRequest, reply)
    ran = await ctl(
        "lifecycle", "n1", "release-from-quarantine", "--override-attestation",
        "--reason", "known good", "--server", await serve(controller),
    )  # fmt: skip
    assert ran.exit_code == ExitCode.OK
    (request,) = controller.requests(fleet_service_pb2.TransitionNodeRequest)
    assert request.override_attestation
