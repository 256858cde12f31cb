"""Step: a node attests what it runs, and a file that was changed is found out. Owns that step."""

from __future__ import annotations

from deploy.demo.client import Client
from deploy.demo.questions import node_at
from deploy.demo.shell import play_line, souverixctl
from deploy.demo.stage import ISLAND, ISLAND_NODE, Seen, Stage, expect, measured_file
from souverix.fleet.v1 import lifecycle_pb2, node_pb2, supply_chain_pb2

VERIFIED = supply_chain_pb2.INTEGRITY_STATE_VERIFIED

SOUND = "mode = strict\n"
CHANGED = "mode = open\n"

#: How a demand ends that finds a node not as it is expected.
FAILED_CODE = 1


async def attest(stage: Stage) -> str:
    """The island expects its node to stay as it is: verified, changed and quarantined, put right and released."""
    island, ctl = stage.client(ISLAND), souverixctl(stage, ISLAND)
    measured = measured_file(stage)
    pins = "--pin agent.program --pin files --on-failure quarantine"
    await play_line(stage, f"{ctl} attestation set-policy {ISLAND} {pins}")
    _, took_s = await stage.until(f"{ISLAND_NODE} is verified", lambda: _verified(island))
    stage.display.happened(
        f"{ISLAND_NODE} has signed what it measured over a challenge: VERIFIED", took_s
    )
    measured.write_text(CHANGED)
    stage.display.happened(f"somebody changes {measured.name} on the node")
    demand = f"{ctl} attestation attest {ISLAND_NODE} --wait"
    told = await play_line(stage, demand, code=FAILED_CODE)
    expect(
        "NOT_AS_PINNED" in told and measured.name in told, f"it is not said what differs: {told}"
    )
    await stage.until(
        f"{ISLAND_NODE} in quarantine",
        lambda: _in_phase(island, lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED),
    )
    stage.display.happened(f"{ISLAND_NODE} is QUARANTINED, by the island alone: it has no link")
    measured.write_text(SOUND)
    await play_line(stage, demand, quiet=True)
    release = f"lifecycle {ISLAND_NODE} release-from-quarantine --reason 'file restored'"
    await play_line(stage, f"{ctl} {release}")
    await stage.until(
        f"{ISLAND_NODE} released",
        lambda: _in_phase(island, lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE),
    )
    stage.display.happened("put right, verified again, released")
    return "verified; a changed file quarantined its node until it was put right"


async def _verified(client: Client) -> Seen[node_pb2.Node]:
    node = await node_at(client, ISLAND_NODE)
    state = node.trust.runtime_attestation.integrity_state
    seen = supply_chain_pb2.IntegrityState.Name(state).removeprefix("INTEGRITY_STATE_")
    return Seen(f"{ISLAND_NODE}: {seen}", node if state == VERIFIED else None)


async def _in_phase(client: Client, phase: lifecycle_pb2.LifecyclePhase) -> Seen[node_pb2.Node]:
    node = await node_at(client, ISLAND_NODE)
    seen = lifecycle_pb2.LifecyclePhase.Name(node.lifecycle.phase)
    return Seen(f"{ISLAND_NODE} is {seen}", node if node.lifecycle.phase == phase else None)
