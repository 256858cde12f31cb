"""Step: the backlog of a node is altered on its disk while it is away, and its return is refused. Owns that step."""

from __future__ import annotations

from pathlib import Path

from deploy.demo.agent_disk import Waiting, backlog_of, tamper
from deploy.demo.attention import await_end, show_item
from deploy.demo.client import Client
from deploy.demo.display import duration
from deploy.demo.node_return import LIVE, REPORT_INTERVAL_S, in_mode
from deploy.demo.questions import issue, node_at, refusals_at
from deploy.demo.shell import play_line, souverixctl
from deploy.demo.stage import (
    GLOBAL,
    SHED_NODE,
    ZONE_A2,
    Seen,
    Stage,
    expect,
    new_request_id,
)
from souverix.attention.v1 import attention_pb2
from souverix.audit.v1 import audit_pb2
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.fleet.v1 import lifecycle_pb2, node_pb2, return_pb2

#: Reports on their way when the link breaks: they have their numbers, and no acknowledgement.
HANDED_OUT = 5

#: What the forged report says the node runs.
FORGED = "9.9.9-forged"

#: What the check finds.
REASON = "SEQUENCE_BROKEN"

QUARANTINED = attention_pb2.ATTENTION_KIND_NODE_QUARANTINED


async def refuse_a_tampered_backlog(stage: Stage) -> str:
    """Alters the backlog of a node on its disk, has it return, and shows the way out."""
    top = stage.client(GLOBAL)
    _start(stage)
    await stage.until(f"{SHED_NODE} live at {GLOBAL}", lambda: in_mode(top, LIVE, SHED_NODE))
    stage.display.happened(f"{SHED_NODE} has joined {ZONE_A2}, and is LIVE at {GLOBAL}")
    gone = await _alter_while_away(stage)
    stage.display.happened(
        f"power off; on its disk somebody takes report {gone} out of the backlog, and adds that it runs {FORGED}"
    )
    before = await node_at(top, SHED_NODE)
    _start(stage)
    node, took_s = await stage.until(f"{SHED_NODE} in quarantine", lambda: _quarantined(top))
    stage.display.happened(f"it returns, and is QUARANTINED at {GLOBAL}", took_s)
    incident = node.return_incident
    expect(incident.reason == REASON, f"refused for {incident.reason}, not {REASON}")
    expect(f"where {gone} is expected" in incident.evidence, f"evidence: {incident.evidence}")
    _check_unchanged(before, node)
    stage.display.happened("nothing of the backlog has taken effect: its twin is as it was before")
    await _show_evidence(stage, top, node)
    await _check_isolated(stage, top)
    live_s = await _lead_out(stage, top)
    return f"{REASON}, no effect; led out and LIVE after {duration(live_s)}"


def _state_dir(stage: Stage) -> Path:
    return stage.federation.directory / f"agent-{SHED_NODE}"


def _start(stage: Stage) -> None:
    interval = ("--report-interval", str(REPORT_INTERVAL_S))
    stage.federation.start_agent(ZONE_A2, SHED_NODE, *interval, server=stage.field_link.endpoint)
    stage.remember_processes()


async def _alter_while_away(stage: Stage) -> int:
    """The link goes dead, and breaks; the agent is killed and its backlog altered. The report that is gone."""
    stage.field_link.stall()

    async def look() -> Seen[Waiting]:
        found = backlog_of(_state_dir(stage), SHED_NODE)
        done = found.handed_out >= HANDED_OUT
        return Seen(f"{found.reports} reports wait at {SHED_NODE}", found if done else None)

    waiting, _ = await stage.until(f"{SHED_NODE} works on", look)
    stage.field_link.cut()
    stage.federation.processes.pop(f"agent/{SHED_NODE}").kill()
    stage.display.happened(f"{SHED_NODE} is cut off; {waiting.reports} reports wait at it")
    gone = tamper(_state_dir(stage), SHED_NODE, FORGED)
    stage.field_link.heal()
    return gone


async def _quarantined(client: Client) -> Seen[node_pb2.Node]:
    node = await node_at(client, SHED_NODE)
    phase = lifecycle_pb2.LifecyclePhase.Name(node.lifecycle.phase)
    found = node.lifecycle.phase == lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED
    seen = f"{SHED_NODE} is {phase.removeprefix('LIFECYCLE_PHASE_')}"
    refused = node.return_incident.kind == return_pb2.INCIDENT_KIND_BACKLOG_REFUSED
    return Seen(seen, node if found and refused else None)


def _check_unchanged(before: node_pb2.Node, after: node_pb2.Node) -> None:
    expect(
        (after.actual_state, after.inventory) == (before.actual_state, before.inventory),
        f"a report of the refused backlog has taken effect: {after.actual_state}",
    )


async def _show_evidence(stage: Stage, top: Client, node: node_pb2.Node) -> None:
    stage.display.table(
        ("REASON", "EVIDENCE", "ENDS WHEN"),
        [
            (
                node.return_incident.reason,
                node.return_incident.evidence,
                node.lifecycle.exit_condition,
            )
        ],
    )
    await show_item(stage, top, ZONE_A2, QUARANTINED, f"nodes/{SHED_NODE}")

    async def audited() -> Seen[audit_pb2.AuditRecord]:
        found = [r for r in await refusals_at(top, ZONE_A2) if r.reason == REASON]
        return Seen(f"{len(found)} refusals of it in the audit", found[0] if found else None)

    record, _ = await stage.until(f"the refusal in the audit at {GLOBAL}", audited)
    stage.display.happened(f"audited: {record.action} of {record.principal}, {record.reason}")


async def _check_isolated(stage: Stage, top: Client) -> None:
    """A command that would change the node must not be delivered."""
    empty = command_pb2.ApplyConfig(config_name="routes", document={})
    apply = command_pb2.Action(apply_config=empty)
    targets = command_pb2.Targets(nodes=[SHED_NODE])
    command = await issue(top, targets, apply, new_request_id("apply"))

    async def refused() -> Seen[command_pb2.Delivery]:
        reply = await top.call(
            command_service_pb2.GetCommandRequest(name=command.name),
            command_service_pb2.GetCommandResponse,
        )
        [delivery] = reply.command.deliveries
        found = reply.command.done and delivery.reason == "NODE_ISOLATED"
        return Seen(f"apply-config: {delivery.reason}", delivery if found else None)

    delivery, _ = await stage.until("the command is turned down", refused)
    expect(
        delivery.state != command_pb2.DELIVERY_STATE_SUCCEEDED,
        f"a node in quarantine was changed by {command.name}",
    )
    stage.display.happened(f"a command that would change it is turned down: {delivery.reason}")


async def _lead_out(stage: Stage, top: Client) -> float:
    """Gives the agent's key and backlog up, releases the node, and lets a new agent speak for it."""
    stage.federation.processes.pop(f"agent/{SHED_NODE}").stop()
    _state_dir(stage).rename(stage.federation.directory / "evidence")
    stage.display.happened("the way out: its state directory is put aside as evidence")
    ctl = souverixctl(stage, ZONE_A2)
    await play_line(stage, f"{ctl} reset-key {SHED_NODE} --reason 'disk was tampered with'")
    release = f"lifecycle {SHED_NODE} release-from-quarantine --reason 'new disk'"
    await play_line(stage, f"{ctl} {release}")
    _start(stage)
    _, took_s = await stage.until(
        f"{SHED_NODE} is live again", lambda: in_mode(top, LIVE, SHED_NODE)
    )
    stage.display.happened(f"a new agent speaks for it: LIVE at {GLOBAL}", took_s)
    await await_end(stage, top, ZONE_A2, QUARANTINED, f"nodes/{SHED_NODE}")
    return took_s
