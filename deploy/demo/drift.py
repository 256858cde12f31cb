"""Step: a node of zone a2 is not as it is declared to be, and is set right by a command. Owns that step."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict

from deploy.demo.attention import await_end, show_item
from deploy.demo.client import Client
from deploy.demo.command import run_command
from deploy.demo.display import duration
from deploy.demo.questions import node_at
from deploy.demo.stage import GLOBAL, ZONE_A2, Seen, Stage, expect, new_request_id
from souverix.attention.v1 import attention_pb2
from souverix.command.v1 import command_pb2
from souverix.fleet.v1 import drift_pb2, fleet_service_pb2, node_pb2

#: A simulated node; its agent is a real one.
NODE = f"{ZONE_A2}-n01"

CONFIG_NAME = "gateway-v2"

#: What the node is to hold.
DOCUMENT: dict[str, Any] = {"upstreams": ["10.0.0.1:5060", "10.0.0.2:5060"], "limit": 400}


async def drift_and_heal(stage: Stage) -> str:
    """Declares a configuration the node does not have, and has the node apply it; both are seen at global."""
    zone, top = stage.client(ZONE_A2), stage.client(GLOBAL)
    before = await node_at(top, NODE)
    expect(before.drift.state != drift_pb2.DRIFT_STATE_DRIFTING, f"{NODE} drifts already")
    await _declare(zone)
    drifting, appeared_s = await stage.until(
        f"drift of {NODE} at {GLOBAL}", lambda: _in_state(top, drift_pb2.DRIFT_STATE_DRIFTING)
    )
    stage.display.happened(f"{NODE} drifts, seen at {GLOBAL}", appeared_s)
    fields = drifting.drift.config_drift.details
    rows = [(each.field, _value(each.desired), _value(each.actual)) for each in fields]
    stage.display.table(("FIELD", "DESIRED", "ACTUAL"), rows)
    named = {each.field.split(".")[0].split("[")[0] for each in fields}
    expect(named == set(DOCUMENT), f"the drift names {sorted(named)}, not {sorted(DOCUMENT)}")
    sums = await _sums(top)
    expect(sums.drifting_node_count >= 1, f"{GLOBAL} counts no drifting node in {ZONE_A2}: {sums}")

    await show_item(stage, top, ZONE_A2, attention_pb2.ATTENTION_KIND_NODE_DRIFT, f"nodes/{NODE}")

    document = struct_pb2.Struct()
    document.update(DOCUMENT)
    apply = command_pb2.Action(
        apply_config=command_pb2.ApplyConfig(config_name=CONFIG_NAME, document=document)
    )
    _, command_s = await run_command(stage, top, NODE, apply)
    stage.display.happened(f"apply-config from {GLOBAL}: the node holds the document", command_s)
    _, healed_s = await stage.until(
        f"{NODE} in spec at {GLOBAL}", lambda: _in_state(top, drift_pb2.DRIFT_STATE_IN_SPEC)
    )
    stage.display.happened(f"{NODE} is in spec again, seen at {GLOBAL}", healed_s)
    await await_end(stage, top, ZONE_A2, attention_pb2.ATTENTION_KIND_NODE_DRIFT, f"nodes/{NODE}")
    return f"{len(rows)} fields out of spec after {duration(appeared_s)}, healed by a command"


async def _declare(zone: Client) -> None:
    desired = node_pb2.DesiredState(config_name=CONFIG_NAME)
    desired.configuration.update(DOCUMENT)
    await zone.call(
        fleet_service_pb2.SetDesiredStateRequest(
            name=f"nodes/{NODE}",
            desired_state=desired,
            request_id=new_request_id("desired"),
        ),
        fleet_service_pb2.SetDesiredStateResponse,
    )


async def _in_state(client: Client, state: drift_pb2.DriftState) -> Seen[node_pb2.Node]:
    node = await node_at(client, NODE)
    seen = drift_pb2.DriftState.Name(node.drift.state).removeprefix("DRIFT_STATE_")
    return Seen(f"{NODE} at {GLOBAL}: {seen}", node if node.drift.state == state else None)


async def _sums(client: Client) -> drift_pb2.DriftSums:
    reply = await client.call(
        fleet_service_pb2.ListDomainDriftsRequest(domain=ZONE_A2),
        fleet_service_pb2.ListDomainDriftsResponse,
    )
    return reply.domains[0].own


def _value(value: struct_pb2.Value) -> str:
    return json.dumps(MessageToDict(value)) if value.WhichOneof("kind") else "-"
