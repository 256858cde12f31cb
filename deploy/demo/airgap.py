"""Step: an island without any link gets a command by a file and returns its result by another. Owns that step."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.demo.attestation import SOUND
from deploy.demo.client import Client
from deploy.demo.questions import issue, node_at, peers_of
from deploy.demo.shell import play_line, program, shown, souverixctl
from deploy.demo.stage import (
    GLOBAL,
    ISLAND,
    ISLAND_NODE,
    REGION_B,
    Seen,
    Stage,
    expect,
    measured_file,
    new_request_id,
)
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import node_pb2

#: What an import says of a file whose events were new.
APPLIED = re.compile(r"\bAPPLIED\b")

SUCCEEDED = command_pb2.DELIVERY_STATE_SUCCEEDED


async def cross_the_gap(stage: Stage) -> str:
    """Introduces the island by a first exchange of files; then a command goes out, and its result comes back."""
    top, island = stage.client(GLOBAL), stage.client(ISLAND)
    stick = Stick(stage)
    measured = measured_file(stage)
    measured.write_text(SOUND)
    stage.federation.start_agent(ISLAND, ISLAND_NODE, "--measure", str(measured))
    stage.remember_processes()
    stage.display.say("A first exchange: the island learns its place, the region of its node.")
    await stick.carry(REGION_B, ISLAND, quiet=True)
    await stage.until(f"{ISLAND_NODE} at {ISLAND}", lambda: _reported(island))
    await stick.carry(ISLAND, REGION_B, quiet=True)
    _, took_s = await stage.until(f"{ISLAND_NODE} at {GLOBAL}", lambda: _reported(top))
    stage.display.happened(f"{ISLAND_NODE} of {ISLAND} is known at {GLOBAL}", took_s)

    ping = command_pb2.Action(ping=command_pb2.Ping(payload=f"hello from {GLOBAL}, by a file"))
    targets = command_pb2.Targets(nodes=[ISLAND_NODE])
    command = await issue(top, targets, ping, new_request_id("ping"))
    await stage.until("the command at the region", lambda: _known(stage.client(REGION_B), command))
    stage.display.happened(
        f"a command for {ISLAND_NODE} is issued at {GLOBAL}; {REGION_B} cannot deliver it"
    )
    out = await stick.carry(REGION_B, ISLAND, look=True)
    _, done_s = await stage.until(
        f"{ISLAND_NODE} carries it out", lambda: _succeeded(island, command)
    )
    stage.display.happened(f"{ISLAND_NODE} has carried it out, the island knows", done_s)
    seen = await _succeeded(top, command)
    expect(seen.value is None, f"{GLOBAL} knows the result before a file has brought it")
    back = await stick.carry(ISLAND, REGION_B)
    ended, up_s = await stage.until(f"the result at {GLOBAL}", lambda: _succeeded(top, command))
    answer = str(ended.output["payload"])
    expect(answer == ping.ping.payload, f"the node answered {answer!r}")
    stage.display.happened(f"{GLOBAL} has the result: {answer!r}", up_s)
    await _check_no_link(stage)
    return f"out by {out.name}, back by {back.name}"


class Stick:
    """What is carried between the island and its region."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._directory = stage.federation.directory / "stick"

    async def carry(self, source: str, to: str, *, quiet: bool = False, look: bool = False) -> Path:
        """Exports a file at one side and imports it at the other; with `look`, it is examined on the way."""
        stage, before = self._stage, set(self._directory.glob("*.svxb"))
        audience = stage.federation.plan(to).controller
        out = shown(self._directory)
        export = f"{souverixctl(stage, source)} bundle export --to {audience} --out {out}"
        await play_line(stage, export, quiet=quiet)
        [path] = set(self._directory.glob("*.svxb")) - before
        if look:
            bundle, key = f"{program('souverixctl')} bundle", stage.federation.public_key(source)
            await play_line(stage, f"{bundle} inspect {shown(path)}")
            told = await play_line(stage, f"{bundle} verify {shown(path)} --exporter-key {key}")
            expect("good" in told, f"the file is not found good: {told}")
        bring = f"{souverixctl(stage, to)} bundle import {shown(path)}"
        told = await play_line(stage, bring, quiet=quiet)
        expect(bool(APPLIED.search(told)), f"the file was not taken in: {told}")
        if quiet:
            stage.display.happened(told)
        return path


async def _reported(client: Client) -> Seen[node_pb2.Node]:
    """Raises `Refused` until the node is known."""
    node = await node_at(client, ISLAND_NODE)
    seen = "has reported" if node.HasField("inventory") else "is known"
    return Seen(f"{ISLAND_NODE} {seen}", node if node.HasField("inventory") else None)


async def _known(client: Client, command: command_pb2.Command) -> Seen[command_pb2.Command]:
    """Raises `Refused` until it is."""
    reply = await client.call(
        command_service_pb2.GetCommandRequest(name=command.name),
        command_service_pb2.GetCommandResponse,
    )
    return Seen(reply.command.name, reply.command)


async def _succeeded(client: Client, command: command_pb2.Command) -> Seen[command_pb2.Delivery]:
    found = (await _known(client, command)).value
    delivery = found.deliveries[0] if found and found.deliveries else command_pb2.Delivery()
    state = command_pb2.DeliveryState.Name(delivery.state).removeprefix("DELIVERY_STATE_")
    return Seen(f"the command: {state}", delivery if delivery.state == SUCCEEDED else None)


async def _check_no_link(stage: Stage) -> None:
    """The region must never have heard of the island but by file."""
    peer = (await peers_of(stage.client(REGION_B)))[stage.federation.plan(ISLAND).controller]
    expect(
        peer.state == federation_service_pb2.PEER_STATE_DISCONNECTED
        and not peer.HasField("last_seen_time"),
        f"{REGION_B} has had a link to {ISLAND}: {peer}",
    )
    stage.display.happened(f"{REGION_B} has never had a link to {ISLAND}")
