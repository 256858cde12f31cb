"""Steps: the link heals and both sides converge; the loser is restored and the audit verified. Owns these two steps."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.demo.display import duration
from deploy.demo.partition import POLICY, channel_of
from deploy.demo.questions import audit_of, conflicts_at, document_of, node_at, policy_at
from deploy.demo.stage import (
    GLOBAL,
    REAL_NODE,
    REGION_A,
    WAIT_S,
    ZONE_A1,
    Seen,
    Stage,
    StepFailed,
    expect,
    new_request_id,
)
from souverix.audit.v1 import audit_pb2, audit_service_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.policy.v1 import policy_pb2

#: Who must agree about the zone's policy.
PATH = (ZONE_A1, REGION_A, GLOBAL)


async def heal_and_converge(stage: Stage) -> str:
    """Ends the cut and waits until the zone, its region and global hold the same, the conflict recorded."""
    stage.heal()
    stage.display.happened("the link is back")
    policies, took_s = await stage.until("all agree on the policy", lambda: _agreed(stage, 2))
    winner = policies[0]
    stage.display.happened(
        f"{', '.join(PATH)} hold the same: channel {channel_of(winner)} wins", took_s
    )
    conflict, recorded_s = await stage.until(
        f"the conflict's record at {GLOBAL}", lambda: _open_conflict(stage)
    )
    stage.display.happened(f"{conflict.name} is recorded and known at {GLOBAL}", recorded_s)
    _show_conflict(stage, conflict)
    siblings = conflict.record.siblings
    expect(len(siblings) == 2, f"the record names {len(siblings)} values, not 2")
    expect(
        siblings[0].winner and siblings[0].controller == winner.last_controller,
        f"the record's winner is {siblings[0].controller}, the policy's {winner.last_controller}",
    )
    optimistic = {s.controller: s.optimistic for s in siblings}
    region, zone = (stage.federation.plan(d).controller for d in (REGION_A, ZONE_A1))
    expect(optimistic == {region: True, zone: False}, f"optimistic are {optimistic}")
    node = await node_at(stage.client(GLOBAL), REAL_NODE)
    expect(
        node.desired_state.config_name == "radio",
        f"the desired state set behind the cut has not reached {GLOBAL}",
    )
    return f"converged {duration(took_s)} after the link was back, conflict recorded"


async def restore_and_verify(stage: Stage) -> str:
    """The zone's administrator restores the losing value; the audit tells all of it and is verified at global."""
    conflict = (await conflicts_at(stage.client(ZONE_A1), ZONE_A1, only_open=True))[0]
    loser = next(s for s in conflict.record.siblings if not s.winner)
    reply = await stage.client(ZONE_A1).call(
        federation_service_pb2.RestoreConflictValueRequest(
            name=conflict.name,
            controller=loser.controller,
            request_id=new_request_id("restore"),
        ),
        federation_service_pb2.RestoreConflictValueResponse,
    )
    expect(not reply.conflict.open, f"{conflict.name} is still open after its loser was restored")
    stage.display.happened(f"{ZONE_A1}'s administrator restored the value of {loser.controller}")
    policies, took_s = await stage.until("all agree on the policy", lambda: _agreed(stage, 1))
    expect(
        policies[0].last_controller == stage.federation.plan(ZONE_A1).controller,
        f"the restored value was written by {policies[0].last_controller}",
    )
    stage.display.happened(
        f"{', '.join(PATH)} hold channel {channel_of(policies[0])}, one value, no conflict", took_s
    )
    await _show_audit(stage)
    return await _verify(stage)


async def _agreed(stage: Stage, values: int) -> Seen[Sequence[policy_pb2.Policy]]:
    """The policy at every place, once all have the same etag and number of values."""
    policies = [await policy_at(stage.client(domain), POLICY) for domain in PATH]
    same = len({policy.etag for policy in policies}) == 1
    counted = all(policy.sibling_count == values for policy in policies)
    seen = ", ".join(
        f"{domain}: channel {channel_of(policy)} ({policy.sibling_count} values)"
        for domain, policy in zip(PATH, policies, strict=True)
    )
    return Seen(seen, policies if same and counted else None)


async def _open_conflict(stage: Stage) -> Seen[federation_service_pb2.Conflict]:
    found = await conflicts_at(stage.client(GLOBAL), ZONE_A1, only_open=True)
    return Seen(f"{len(found)} open conflicts known at {GLOBAL}", found[0] if found else None)


def _show_conflict(stage: Stage, conflict: federation_service_pb2.Conflict) -> None:
    rows = []
    for sibling, value in zip(conflict.record.siblings, conflict.values, strict=True):
        channel = document_of(value)["configuration"]["radio"]["channel"]
        rows.append(
            (
                "winner" if sibling.winner else "loser",
                f"channel {channel:g}",
                f"{sibling.controller}:{sibling.sequence}",
                sibling.principal,
                "optimistic" if sibling.optimistic else "authoritative",
            )
        )
    stage.display.table(("", "VALUE", "WRITTEN AT", "BY", "AS"), rows)


async def _show_audit(stage: Stage) -> None:
    """What the audit at global says of the policy and its conflict."""

    async def arrived() -> Seen[list[audit_pb2.AuditRecord]]:
        found = await audit_of(stage.client(GLOBAL), "", POLICY)
        restored = any(r.action.endswith("/RestoreConflictValue") for r in found)
        return Seen(f"{len(found)} entries at {GLOBAL}", found if restored else None)

    records, _ = await stage.until(f"the audit entries at {GLOBAL}", arrived)
    rows = []
    for record in reversed(records):
        outcome = audit_pb2.AuditOutcome.Name(record.outcome).removeprefix("AUDIT_OUTCOME_")
        action = record.action.rpartition("/")[2]
        rows.append((action, outcome, record.reason, record.principal))
    stage.display.table(("AUDITED", "OUTCOME", "REASON", "WHO"), rows)
    actions = [record.action.rpartition("/")[2] for record in records]
    for wanted, times in (("CreatePolicy", 1), ("UpdatePolicy", 2), ("RestoreConflictValue", 1)):
        expect(
            actions.count(wanted) >= times,
            f"the audit at {GLOBAL} holds {actions.count(wanted)} entries of {wanted}, not {times}",
        )


async def _verify(stage: Stage) -> str:
    """Has global recompute every chain and check every seal it holds."""
    summary: audit_service_pb2.VerifySummary | None = None
    faults = []
    with stage.display.waiting("verifying") as line:
        async for step in stage.client(GLOBAL).stream(
            audit_service_pb2.VerifyAuditRequest(all_lanes=True),
            audit_service_pb2.VerifyAuditResponse,
            WAIT_S,
        ):
            if step.WhichOneof("step") == "progress":
                read, total = step.progress.commits_read, step.progress.commits_total
                line.show(f"verifying: {read}/{total} commits", read / total if total else None)
            elif step.WhichOneof("step") == "stream" and not step.stream.intact:
                faults.append(f"{step.stream.domain}/{step.stream.lane}: {step.stream.fault}")
            elif step.WhichOneof("step") == "summary":
                summary = step.summary
        took_s = line.elapsed_s
    if summary is None:
        raise StepFailed(f"the verification at {GLOBAL} ended without a summary")
    expect(not faults, f"the verification at {GLOBAL} found faults: {'; '.join(faults)}")
    verified = f"{summary.events} events of {summary.streams} streams"
    stage.display.happened(f"verified at {GLOBAL}: {verified}, every chain and seal", took_s)
    return f"{verified} verified in {duration(took_s)}"
