"""Steps: the link of zone a1 is cut, and both sides write one policy. Owns these two steps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf import struct_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from deploy.demo.client import Client
from deploy.demo.command import run_command
from deploy.demo.display import duration
from deploy.demo.questions import (
    as_of,
    document_of,
    node_at,
    peers_of,
    policy_at,
    received_of,
    refusals_at,
)
from deploy.demo.stage import (
    GLOBAL,
    REAL_NODE,
    REGION_A,
    ZONE_A1,
    ZONE_A2,
    Seen,
    Stage,
    StepFailed,
    expect,
    new_request_id,
)
from souverix.command.v1 import command_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import fleet_service_pb2, node_pb2
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from souverix.receipt.v1 import receipt_pb2
from souverixctl.errors import Refused

POLICY = f"domains/{ZONE_A1}/policies/radio"

#: The document the zone has its node keep while it is cut off.
DOCUMENT = {"radio": {"channel": 11, "power_dbm": 17}}


async def cut_off(stage: Stage) -> str:
    """Cuts zone a1 off, and shows what each side knows of the other."""
    zone, region = stage.client(ZONE_A1), stage.client(REGION_A)
    await _create_policy(zone)
    _, took_s = await stage.until("the policy at the region", lambda: _known(region))
    stage.display.happened(f"{ZONE_A1} wrote its policy radio, known at {REGION_A}", took_s)

    stage.cut()
    stage.display.happened("the link is cut")
    zone_controller = stage.federation.plan(ZONE_A1).controller
    region_controller = stage.federation.plan(REGION_A).controller
    _, region_s = await stage.until(
        f"{REGION_A} notices", lambda: _disconnected(region, zone_controller)
    )
    _, zone_s = await stage.until(
        f"{ZONE_A1} notices", lambda: _disconnected(zone, region_controller)
    )
    noticed_s = max(region_s, zone_s)
    stage.display.happened("both sides say DISCONNECTED", noticed_s)

    document = struct_pb2.Struct()
    document.update(DOCUMENT)
    apply = command_pb2.Action(
        apply_config=command_pb2.ApplyConfig(config_name="radio", document=document)
    )
    command, command_s = await run_command(stage, zone, REAL_NODE, apply)
    applied = command.deliveries[0].output["config_hash"]
    stage.display.happened(f"the zone works on: apply-config at {REAL_NODE}", command_s)
    desired = await _declare(zone)
    expect(
        desired.desired_state.config_hash == applied,
        f"the node holds {applied}, declared is {desired.desired_state.config_hash}",
    )
    stage.display.happened("the zone works on: desired state set, the node holds what it names")
    refresh = command_pb2.Action(refresh_inventory=command_pb2.RefreshInventory())
    command, refresh_s = await run_command(stage, zone, ZONE_A1, refresh)
    stage.display.happened(
        f"the zone works on: refresh-inventory at its {command.total_targets} nodes", refresh_s
    )
    await _check_stale(stage)
    lacking = await show_debt(stage)
    expect(
        lacking[REGION_A] > command.total_targets,
        f"{ZONE_A1} worked on, and {REGION_A} lacks {lacking[REGION_A]} events of it only",
    )
    return f"noticed after {duration(noticed_s)}; the zone's command took {duration(command_s)}"


async def write_on_both_sides(stage: Stage) -> str:
    """The zone, then its region, change the zone's policy; a sister zone may not."""
    zone, region, sister = (stage.client(d) for d in (ZONE_A1, REGION_A, ZONE_A2))
    receipt = await _change(zone, channel=11, version="2-zone")
    stage.display.happened(f"{ZONE_A1} wrote channel 11: it is master-of-record")
    expect(not receipt.optimistic, "the master-of-record's own write must not be optimistic")
    receipt = await _change(region, channel=36, version="2-region")
    stage.display.happened(f"{REGION_A} wrote channel 36: under its autonomy, marked optimistic")
    expect(receipt.optimistic, "the region is not master-of-record: its write must be optimistic")
    try:
        await _change(sister, channel=99, version="2-sister")
    except Refused as error:
        stage.display.happened(f"{ZONE_A2} tried, and was refused: {error.reason}")
    else:
        raise StepFailed(f"{ZONE_A2} wrote a policy of {ZONE_A1}: it must have been refused")
    refused = [r for r in await refusals_at(sister, ZONE_A2) if r.principal == sister.principal]
    expect(len(refused) == 1, f"{len(refused)} refusals are in the audit of {ZONE_A2}, not 1")
    stage.display.happened(f"the refusal is in the audit of {ZONE_A2}")
    rows = []
    for where, client in ((ZONE_A1, zone), (REGION_A, region), (GLOBAL, stage.client(GLOBAL))):
        policy = await policy_at(client, POLICY)
        mark = "optimistic" if policy.optimistic else ""
        rows.append((where, channel_of(policy), policy.last_controller, mark))
    stage.display.table(("AT", "CHANNEL", "WRITTEN AT", ""), rows)
    lacking = await show_debt(stage)
    for domain, events in lacking.items():
        expect(events > 0, f"both sides have written, and {domain} lacks nothing of the other's")
    return "two values of one policy, each side knowing its own"


async def _create_policy(zone: Client) -> None:
    await zone.call(
        policy_service_pb2.CreatePolicyRequest(
            domain=ZONE_A1,
            policy_id="radio",
            spec=_spec(channel=1, version="1"),
            request_id=new_request_id("radio"),
        ),
        policy_service_pb2.CreatePolicyResponse,
    )


async def _change(client: Client, channel: int, version: str) -> receipt_pb2.WriteReceipt:
    reply = await client.call(
        policy_service_pb2.UpdatePolicyRequest(
            name=POLICY,
            spec=_spec(channel, version),
            request_id=new_request_id("radio"),
        ),
        policy_service_pb2.UpdatePolicyResponse,
    )
    return reply.receipt


def _spec(channel: int, version: str) -> policy_pb2.PolicySpec:
    spec = policy_pb2.PolicySpec(display_name="Radio of the zone", version=version)
    spec.configuration.update({"radio": {"channel": channel}})
    return spec


def channel_of(policy: policy_pb2.Policy) -> str:
    """The radio channel a policy names."""
    return f"{document_of(policy.spec.configuration)['radio']['channel']:g}"


async def _known(client: Client) -> Seen[policy_pb2.Policy]:
    """Raises `Refused` until it is."""
    policy = await policy_at(client, POLICY)
    return Seen(policy.name, policy)


async def _disconnected(client: Client, peer: str) -> Seen[federation_service_pb2.Peer]:
    view = (await peers_of(client))[peer]
    state = _state(view)
    down = view.state == federation_service_pb2.PEER_STATE_DISCONNECTED
    return Seen(f"link to {peer}: {state}", view if down else None)


async def _declare(zone: Client) -> node_pb2.Node:
    desired = node_pb2.DesiredState(config_name="radio")
    desired.configuration.update(DOCUMENT)
    reply = await zone.call(
        fleet_service_pb2.SetDesiredStateRequest(
            name=f"nodes/{REAL_NODE}",
            desired_state=desired,
            request_id=new_request_id("desired"),
        ),
        fleet_service_pb2.SetDesiredStateResponse,
    )
    return reply.node


async def _check_stale(stage: Stage) -> None:
    """The region must not show what it cannot know, and must say up to when it knows."""
    node = await node_at(stage.client(REGION_A), REAL_NODE)
    expect(
        not node.HasField("desired_state"),
        f"{REGION_A} shows a desired state of {REAL_NODE} that was set behind the cut",
    )


async def show_debt(stage: Stage) -> dict[str, int]:
    """Shows what each side says of the link; the events of the zone's domain that each side lacks.

    What a side says of the other's debt must be what the other lacks by its own count.
    """
    debts, _ = await stage.until("both sides know the debt", lambda: _debts(stage))
    rows = [
        (
            d.at,
            d.peer,
            _state(d.view),
            _ago(d.view.last_seen_time),
            _debt(d.view),
            str(d.lacking),
            _ago(d.known),
        )
        for d in debts
    ]
    columns = ("AT", "PEER", "LINK", "LAST HEARD", "ITS DEBT", "IT LACKS", "ZONE KNOWN UP TO")
    stage.display.table(columns, rows)
    return {debt.peer: debt.lacking for debt in debts}


@dataclass(frozen=True, slots=True)
class _Debt:
    """What one side says of the other, beside what the other lacks."""

    at: str
    peer: str
    view: federation_service_pb2.Peer
    lacking: int
    known: Timestamp


async def _debts(stage: Stage) -> Seen[list[_Debt]]:
    zone, region = stage.client(ZONE_A1), stage.client(REGION_A)
    at_zone, at_region = await received_of(zone, ZONE_A1), await received_of(region, ZONE_A1)
    plans = stage.federation.plan
    debts = []
    for at, client, peer, lacking in (
        (ZONE_A1, zone, REGION_A, _beyond(at_zone, at_region, "")),
        (REGION_A, region, ZONE_A1, _beyond(at_region, at_zone, plans(REGION_A).controller)),
    ):
        view = (await peers_of(client))[plans(peer).controller]
        debts.append(_Debt(at, peer, view, lacking, await as_of(client, ZONE_A1)))
    agree = all(d.view.debt.backlog_events == d.lacking for d in debts)
    seen = "; ".join(
        f"{d.at}: {d.peer} {_debt(d.view)} behind, it lacks {d.lacking}" for d in debts
    )
    return Seen(seen, debts if agree else None)


def _beyond(held: dict[tuple[str, str], int], other: dict[tuple[str, str], int], above: str) -> int:
    """Events in one that the other lacks. What a controller audits is told upwards only."""
    return sum(
        max(0, number - other.get(stream, 0))
        for stream, number in held.items()
        if not (stream[0] == above and stream[1] == "audit")
    )


def _state(peer: federation_service_pb2.Peer) -> str:
    return federation_service_pb2.PeerState.Name(peer.state).removeprefix("PEER_STATE_")


def _debt(peer: federation_service_pb2.Peer) -> str:
    if not peer.HasField("debt"):
        return "not known"
    return f"{peer.debt.backlog_events} events, {peer.debt.behind.ToMilliseconds() / 1000:.1f} s"


def _ago(time: Timestamp) -> str:
    return f"{(datetime.now(UTC) - time.ToDatetime(UTC)).total_seconds():.1f} s ago"
