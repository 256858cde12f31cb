"""Step: a command from global to the agent of this host and back, and what the host is as seen at global. Owns that
step, and how a command's way is shown.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from deploy.demo.client import Client
from deploy.demo.display import duration
from deploy.demo.questions import download, follow, issue, node_at
from deploy.demo.stage import (
    GLOBAL,
    REAL_NODE,
    TREE,
    ZONE_A1,
    Seen,
    Stage,
    StepFailed,
    expect,
    new_request_id,
)
from souverix.command.v1 import command_pb2
from souverix.fleet.v1 import node_pb2, observation_pb2

MIB = 1024 * 1024


async def command_from_global(stage: Stage) -> str:
    """Pings this host from global, has it look at itself, and reads at global what it is."""
    client = stage.client(GLOBAL)
    payload = f"hello from {GLOBAL}"
    ping = command_pb2.Action(ping=command_pb2.Ping(payload=payload))
    command, took_s = await run_command(stage, client, REAL_NODE, ping)
    answer = command.deliveries[0].output
    expect(answer["payload"] == payload, f"the node answered {answer['payload']!r}")
    stage.display.happened(f"ping: the answer is back at {GLOBAL}", took_s)
    _show_way(stage, command, took_s)

    refresh = command_pb2.Action(refresh_inventory=command_pb2.RefreshInventory())
    command, refresh_s = await run_command(stage, client, REAL_NODE, refresh)
    observed = str(command.deliveries[0].output["observe_time"])
    stage.display.happened("refresh-inventory: the host looked at itself", refresh_s)
    node, _ = await stage.until(
        f"the new inventory at {GLOBAL}", lambda: _inventory_since(client, observed)
    )
    await _show_host(stage, client, node)
    return f"ping to the edge and back in {duration(took_s)}"


async def run_command(
    stage: Stage, client: Client, target: str, action: command_pb2.Action
) -> tuple[command_pb2.Command, float]:
    """Issues a command to a node, or to the nodes of a domain, and follows it to its end; it, and the seconds.

    Raises `StepFailed` unless every target succeeds.
    """
    kind = str(action.WhichOneof("action")).replace("_", "-")
    is_node = all(target != plan.domain for plan in TREE)
    targets = command_pb2.Targets(
        nodes=[target] if is_node else [], domain="" if is_node else target
    )
    with stage.display.waiting(f"{kind} of {target}") as line:
        command = await issue(client, targets, action, new_request_id(kind))
        async for view in follow(client, command.name):
            command = view
            done, total = command.finished_targets, command.total_targets
            line.show(f"{kind} of {target}: {done}/{total} nodes", done / total if total else None)
        took_s = line.elapsed_s
    expect(command.done, f"{kind} of {target} is not done, though its watch has ended")
    for delivery in command.deliveries:
        state = command_pb2.DeliveryState.Name(delivery.state)
        expect(
            delivery.state == command_pb2.DELIVERY_STATE_SUCCEEDED,
            f"{kind} of {delivery.node}: {state} {delivery.reason} {delivery.error_message}",
        )
    return command, took_s


def _show_way(stage: Stage, command: command_pb2.Command, took_s: float) -> None:
    """Where the command was when, in milliseconds since it was issued. All clocks are this machine's."""
    delivery = command.deliveries[0]
    began = _moment(command.issue_time)
    zone = stage.federation.plan(ZONE_A1).controller
    places = (
        ("issued", command.issuing_controller, began),
        ("dispatch recorded", zone, _moment(delivery.dispatch_time)),
        ("received", REAL_NODE, _parsed(str(delivery.output["receive_time"]))),
        ("answered", REAL_NODE, _parsed(str(delivery.output["answer_time"]))),
        ("result recorded", zone, _moment(delivery.update_time)),
    )
    rows = [
        (what, where, f"+{(moment - began).total_seconds() * 1000:.0f} ms")
        for what, where, moment in places
    ]
    rows.append(("result seen", command.issuing_controller, f"+{took_s * 1000:.0f} ms"))
    stage.display.table(("WHAT", "WHERE", "WHEN"), rows)


async def _inventory_since(client: Client, observed: str) -> Seen[node_pb2.Node]:
    node = await node_at(client, REAL_NODE)
    seen_time = node.inventory.observe_time.ToJsonString()
    fresh = _parsed(seen_time) >= _parsed(observed)
    return Seen(f"inventory of {REAL_NODE} at {GLOBAL} is of {seen_time}", node if fresh else None)


async def _show_host(stage: Stage, client: Client, node: node_pb2.Node) -> None:
    inventory = node.inventory
    host = os.uname()
    expect(inventory.hostname == host.nodename, f"the host is {host.nodename}, not {inventory}")
    expect(host.release in inventory.kernel, f"the kernel is {host.release}, not {inventory}")
    value = next((v for v in inventory.large_values if v.name == "packages"), None)
    if value is None:
        raise StepFailed(f"the inventory of {REAL_NODE} names no packages value")
    content, took_s = await stage.until(
        f"the packages value at {GLOBAL}", lambda: _downloaded(client, value)
    )
    packages = json.loads(content)
    storage = sum(each.capacity_bytes for each in inventory.filesystems)
    rows = [
        ("host", f"{inventory.hostname}, {inventory.architecture}"),
        ("processor", f"{inventory.cpu.model}, {inventory.cpu.logical_processors} logical"),
        ("memory, storage", f"{inventory.memory_bytes // MIB} MiB, {storage // MIB} MiB"),
        ("system", f"{inventory.os.name} {inventory.os.version}, {inventory.kernel}"),
        (
            "packages",
            f"{len(packages['debian'])} Debian, {len(packages['python'])} Python; "
            f"{len(content)} bytes, {value.digest[:19]}…",
        ),
    ]
    stage.display.table((REAL_NODE.upper(), f"AS KNOWN AT {GLOBAL.upper()}"), rows)
    stage.display.happened("the packages value was downloaded at global by its digest", took_s)


async def _downloaded(client: Client, value: observation_pb2.LargeValueRef) -> Seen[bytes]:
    """Raises `Refused` while the value has not arrived."""
    return Seen(value.digest, await download(client, value.digest))


def _moment(time: Timestamp) -> datetime:
    return time.ToDatetime(UTC)


def _parsed(text: str) -> datetime:
    time = Timestamp()
    time.FromJsonString(text)
    return _moment(time)
