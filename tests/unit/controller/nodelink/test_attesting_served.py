"""Attestation over real streams: who is challenged when, which statements are refused, what is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from controller.attestation.statement import Speaker, extended, signed_form
from controller.signing import Ed25519Signer
from souverix.audit.v1 import audit_pb2
from souverix.fleet.v1 import lifecycle_pb2, supply_chain_pb2
from souverix.nodelink.v1 import nodelink_pb2
from souverix.trust.v1 import attestation_pb2
from souverix.trust.v1 import attestation_service_pb2 as service
from tests.federation_fixture import ROOT
from tests.unit.controller.nodelink.served_links import (
    CONTROLLER,
    Directory,
    ScriptedAgent,
    ScriptedRelay,
    Served,
    until,
)
from tests.unit.nodeagent.made_up import NODE, running_agent

VERIFIED = supply_chain_pb2.INTEGRITY_STATE_VERIFIED
FAILED = supply_chain_pb2.INTEGRITY_STATE_FAILED
UNKNOWN = supply_chain_pb2.INTEGRITY_STATE_UNKNOWN
EXPIRED = supply_chain_pb2.INTEGRITY_STATE_EXPIRED

QUARANTINED = lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED

SOUND, CHANGED = b"\x01" * 32, b"\x02" * 32

ATTESTER = Ed25519Signer.generate()


async def expect(
    controller: Served,
    *pinned: str,
    on_failure: attestation_pb2.FailureAction = attestation_pb2.FAILURE_ACTION_ATTENTION,
    **fields: Any,
) -> None:
    spec = attestation_pb2.AttestationPolicySpec(
        pinned_registers=pinned, on_failure=on_failure, **fields
    )
    await controller.attestation.SetAttestationPolicy(
        service.SetAttestationPolicyRequest(domain=ROOT, spec=spec)
    )


async def challenge_to(agent: ScriptedAgent) -> bytes:
    frame = await agent.hear("attestation_challenge")
    assert frame.fence.controller == CONTROLLER
    return bytes(frame.attestation_challenge.nonce)


def statement(
    nonce: bytes,
    node: str,
    source: str,
    run: str,
    digest: bytes = SOUND,
    key: Ed25519Signer = ATTESTER,
) -> nodelink_pb2.AttestationStatement:
    said = nodelink_pb2.AttestationStatement(
        nonce=nonce, scheme="ed25519", public_key=key.public_key
    )
    said.time.GetCurrentTime()
    register = said.registers.add(name="program", value=extended([digest]))
    register.events.add(name="main.py", digest=digest)
    said.signature = key.sign(signed_form(said, Speaker(CONTROLLER, node, source, run)))
    return said


def said_by(agent: ScriptedAgent, nonce: bytes, **fields: Any) -> nodelink_pb2.AttestationStatement:
    return statement(nonce, agent.node, agent.source, agent.run, **fields)


def recorded(controller: Served, node: str = "n1") -> Any:
    return controller.body(ROOT, f"nodes/{node}", "attestation")


def state_of(controller: Served, node: str = "n1") -> int:
    entry = recorded(controller, node)
    return int(entry.state) if entry is not None else 0


def refusals(controller: Served) -> list[audit_pb2.AuditRecord]:
    return [
        record
        for item in controller.replica.state.audits
        if (record := item.write.body()).action == "node.attest"
        and record.outcome == audit_pb2.AUDIT_OUTCOME_DENIED
    ]


async def attested(controller: Served, digest: bytes = SOUND) -> ScriptedAgent:
    """A node that has attested once, and was found as it said."""
    agent = ScriptedAgent(controller)
    await agent.greet()
    await agent.say(attestation=said_by(agent, await challenge_to(agent), digest=digest))
    await until(lambda: state_of(controller))
    return agent


async def demand(controller: Served, node: str = "n1") -> None:
    await controller.attestation.AttestNode(service.AttestNodeRequest(name=f"nodes/{node}"))


async def test_a_node_is_challenged_when_it_comes_and_its_first_values_are_believed(
    served: Served,
) -> None:
    await expect(served, "program")
    agent = await attested(served)
    entry = recorded(served)
    assert (entry.state, entry.reason, entry.run) == (VERIFIED, "AS_EXPECTED", agent.run)
    assert entry.expire_time.seconds - entry.last_verified_time.seconds == 3 * 3600
    baseline = served.body(ROOT, "nodes/n1", "attestation_baseline")
    assert baseline.public_key == ATTESTER.public_key
    assert [each.register for each in baseline.registers] == ["program"]


async def test_nobody_is_challenged_where_nothing_is_expected(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    assert await agent.hears_nothing_for(0.3)


async def test_a_policy_has_linked_nodes_challenged_at_once(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    await expect(served, "program")
    await agent.say(attestation=said_by(agent, await challenge_to(agent)))
    await until(lambda: state_of(served) == VERIFIED)


async def test_a_repeated_success_is_no_event_and_a_demanded_one_is(served: Served) -> None:
    await expect(served, "program")
    agent = await attested(served)
    before = served.replica.state.next_offset
    # A link of the same run: challenged anew, and nothing of what it says is news.
    again = ScriptedAgent(served, run=agent.run)
    await again.greet()
    await again.say(attestation=said_by(again, await challenge_to(again)))
    await again.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1))
    await again.hear("heartbeat_ack")
    written = [entry.since for entry in [recorded(served)]]
    assert served.replica.state.next_offset == before
    await demand(served)
    await again.say(attestation=said_by(again, await challenge_to(again)))
    await until(lambda: recorded(served).HasField("demand_time"))
    assert recorded(served).renewal
    assert [recorded(served).since] == written


async def test_a_changed_register_fails_and_quarantines_with_evidence(served: Served) -> None:
    await expect(served, "program", on_failure=attestation_pb2.FAILURE_ACTION_QUARANTINE)
    agent = await attested(served)
    await demand(served)
    await agent.say(attestation=said_by(agent, await challenge_to(agent), digest=CHANGED))
    await until(lambda: state_of(served) == FAILED)
    finding = recorded(served).findings[0]
    assert (finding.register, finding.reason) == (
        "program",
        attestation_pb2.FINDING_REASON_NOT_AS_PINNED,
    )
    assert finding.parts[0].name == "main.py"
    assert finding.parts[0].digest == f"sha256:{CHANGED.hex()}"
    lived = served.body(ROOT, "nodes/n1", "lifecycle")
    assert (lived.phase, lived.requires_attestation) == (QUARANTINED, True)
    assert lived.reason == "attestation failed: program NOT_AS_PINNED"
    assert "; the node is quarantined" in refusals(served)[-1].message


async def test_another_attesters_key_fails(served: Served) -> None:
    await expect(served, "program")
    agent = await attested(served)
    await demand(served)
    other = Ed25519Signer.generate()
    await agent.say(attestation=said_by(agent, await challenge_to(agent), key=other))
    await until(lambda: state_of(served) == FAILED)
    assert recorded(served).reason == "OTHER_KEY"


@pytest.mark.parametrize("wrong", ["signature", "run", "node", "nonce", "parts", "scheme"])
async def test_a_statement_that_is_not_in_order_is_refused_and_audited(
    served: Served, wrong: str
) -> None:
    await expect(served, "program")
    agent = ScriptedAgent(served)
    await agent.greet()
    nonce = await challenge_to(agent)
    said = said_by(agent, nonce)
    match wrong:
        case "signature":
            said.signature = bytes(64)
        case "run":
            said = statement(nonce, agent.node, agent.source, "another-run")
        case "node":
            said = statement(nonce, "n2", agent.source, agent.run)
        case "nonce":
            said = said_by(agent, b"\x07" * 32)
        case "parts":
            said.registers[0].events[0].digest = CHANGED
        case "scheme":
            said.scheme = "tpm2"
    await agent.say(attestation=said)
    reasons = {
        "nonce": "UNSOLICITED",
        "parts": "PARTS_CONTRADICT",
        "scheme": "SCHEME_UNKNOWN",
    }
    await until(lambda: refusals(served))
    assert [each.reason for each in refusals(served)] == [reasons.get(wrong, "BAD_SIGNATURE")]
    assert state_of(served) == 0
    if wrong == "nonce":
        # A statement that answers nothing uses up nothing.
        await agent.say(attestation=said_by(agent, nonce))
        await until(lambda: state_of(served) == VERIFIED)


async def test_a_replayed_statement_is_refused(served: Served) -> None:
    await expect(served, "program")
    agent = ScriptedAgent(served)
    await agent.greet()
    said = said_by(agent, await challenge_to(agent))
    await agent.say(attestation=said)
    await agent.say(attestation=said)
    await until(lambda: refusals(served))
    assert [each.reason for each in refusals(served)] == ["REPLAYED"]
    assert state_of(served) == VERIFIED


async def test_a_statement_for_an_earlier_link_is_refused(served: Served) -> None:
    await expect(served, "program")
    first = ScriptedAgent(served)
    await first.greet()
    said = said_by(first, await challenge_to(first))
    second = ScriptedAgent(served, run=first.run)
    await second.greet()
    await challenge_to(second)
    await second.say(attestation=said)
    await until(lambda: refusals(served))
    assert [each.reason for each in refusals(served)] == ["LATE"]
    assert state_of(served) == 0


async def test_a_flood_of_refused_statements_is_audited_once(served: Served) -> None:
    await expect(served, "program")
    agent = ScriptedAgent(served)
    await agent.greet()
    await challenge_to(agent)
    for number in range(200):
        await agent.say(attestation=said_by(agent, number.to_bytes(32, "big")))
    await agent.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1))
    await agent.hear("heartbeat_ack")
    await until(lambda: refusals(served))
    assert len(refusals(served)) == 1


async def test_a_node_that_does_not_answer_is_unknown(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.service.desk.attesting._challenges, "_ttl_s", 0.05)
    await expect(served, "program")
    agent = ScriptedAgent(served)
    await agent.greet()
    nonce = await challenge_to(agent)
    await until(lambda: state_of(served) == UNKNOWN)
    assert recorded(served).reason == "NO_ANSWER"
    await agent.say(attestation=said_by(agent, nonce))
    await until(lambda: refusals(served))
    assert [each.reason for each in refusals(served)] == ["LATE"]


async def test_a_locked_node_is_challenged_once_it_is_reconciled(served: Served) -> None:
    await expect(served, "program")
    agent = ScriptedAgent(served)
    await agent.greet(oldest_report=1, backlog_reports=1)
    report = nodelink_pb2.Report()
    report.actual_state.reported_version = "1.0"
    await agent.replay(1, report)
    kinds: list[str] = []
    while not kinds or kinds[-1] != "attestation_challenge":
        frame = await agent.hear()
        kinds.append(frame.WhichOneof("kind"))
    assert kinds.index("lock_released") < kinds.index("attestation_challenge")


async def test_a_node_attests_through_a_relay(served: Served) -> None:
    await expect(served, "program")
    relay = ScriptedRelay(served)
    await relay.greet()
    await relay.bring(1, "n1", run="r-1")
    frame = (await relay.hear_node(1)).response
    nonce = frame.attestation_challenge.nonce
    await relay.request(1, attestation=statement(nonce, "n1", "s-n1", "r-1"))
    await until(lambda: state_of(served) == VERIFIED)


async def test_a_verification_runs_out(served: Served) -> None:
    await expect(served, "program", interval=Duration(seconds=10), max_age=Duration(seconds=20))
    agent = await attested(served)
    agent.vanish()
    later = recorded(served)
    later.expire_time.CopyFrom(later.last_verified_time)
    await served.submit(
        lambda proposal: proposal.write(
            ROOT, "nodes/n1", "attestation", later, principal="controller:test"
        )
    )
    await until(lambda: state_of(served) == EXPIRED)
    assert recorded(served).reason == "TOO_OLD"
    assert recorded(served).previous_state == VERIFIED


async def test_measurements_are_accepted_by_their_digest_and_then_hold(
    directory: Directory,
) -> None:
    async with directory.served() as served:
        await served.create_node("n1")
        await expect(served, "program")
        agent = await attested(served)
        await demand(served)
        await agent.say(attestation=said_by(agent, await challenge_to(agent), digest=CHANGED))
        await until(lambda: state_of(served) == FAILED)
        await served.attestation.AcceptMeasurements(
            service.AcceptMeasurementsRequest(
                name="nodes/n1",
                measurements_digest=recorded(served).measurements_digest,
                reason="the new release",
            )
        )
        await agent.say(attestation=said_by(agent, await challenge_to(agent), digest=CHANGED))
        await until(lambda: state_of(served) == VERIFIED)
        reply = await served.attestation.ListAttestationHistory(
            service.ListAttestationHistoryRequest(name="nodes/n1")
        )
        assert [each.state for each in reply.attestations] == [VERIFIED, FAILED, VERIFIED]


async def test_a_real_agent_attests_and_a_file_it_measures_is_missed(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text("{}")
    directory = Directory(tmp_path / "controller", enrolment="open")
    async with directory.served() as served:
        await expect(served, "agent.program", "files", "packages")
        async with running_agent(tmp_path / "agent", served.address, measured_files=(str(file),)):
            await until(lambda: state_of(served, NODE) == VERIFIED)
            named = {each.register for each in recorded(served, NODE).registers}
            assert named >= {"agent.program", "boot.id", "configuration", "files", "packages"}
            file.write_text('{"changed": true}')
            await demand(served, NODE)
            await until(lambda: state_of(served, NODE) == FAILED)
            assert [each.name for each in recorded(served, NODE).findings[0].parts] == [str(file)]
            file.write_text("{}")
            await demand(served, NODE)
            await until(lambda: state_of(served, NODE) == VERIFIED)
