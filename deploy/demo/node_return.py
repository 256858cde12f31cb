"""Step: a node loses its link, works on, and returns with a backlog. Owns that step.

What is shown is what the zone's controller recorded: every move on the spectrum is an event, with its reason and its
evidence.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from deploy.demo.agent_disk import backlog_of
from deploy.demo.attention import await_end, show_item
from deploy.demo.client import Client
from deploy.demo.command import run_command
from deploy.demo.display import duration
from deploy.demo.questions import follow, issue, node_at
from deploy.demo.stage import (
    FIELD_NODE,
    GLOBAL,
    WAIT_S,
    ZONE_A2,
    Seen,
    Stage,
    expect,
    new_request_id,
)
from souverix.attention.v1 import attention_pb2
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.fleet.v1 import connectivity_pb2, fleet_service_pb2
from souverix.nodelink.v1 import replay_service_pb2

#: So that a backlog gathers while the spectator looks on, and the thin link still carries more than is made meanwhile.
REPORT_INTERVAL_S = 0.2

#: Reports that wait at the node before its link is given back.
BACKLOG_REPORTS = 12

#: What the node is configured with, and so each of its reports carries: some 24 KiB of it, so that its backlog is more
#: than one chunk.
ROUTES: dict[str, Any] = {
    f"prefix-{number:03}": {"peer": f"10.0.{number}.1:5060", "weight": number, "codec": "g711"}
    for number in range(320)
}

#: What its link carries when it is back: a chunk takes longer than a watch of the replay pauses between two steps.
THIN_LINK_BYTES_PER_S = 180_000

LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE
AUTONOMOUS = connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS
RETURNING = connectivity_pb2.CONNECTIVITY_MODE_RETURNING
REPLAYING = connectivity_pb2.CONNECTIVITY_MODE_REPLAYING

CUT_OFF = attention_pb2.ATTENTION_KIND_NODE_AUTONOMOUS


async def go_off_and_return(stage: Stage) -> str:
    """Cuts one node off, issues a command for it meanwhile, and gives it its link back."""
    zone, top = stage.client(ZONE_A2), stage.client(GLOBAL)
    stage.federation.start_agent(
        ZONE_A2,
        FIELD_NODE,
        "--report-interval",
        str(REPORT_INTERVAL_S),
        server=stage.field_link.endpoint,
    )
    stage.remember_processes()
    await stage.until(f"{FIELD_NODE} live at {GLOBAL}", lambda: in_mode(top, LIVE))
    stage.display.happened(f"{FIELD_NODE} has joined {ZONE_A2}, and is LIVE at {GLOBAL}")
    routes = command_pb2.ApplyConfig(config_name="routes")
    routes.document.update(ROUTES)
    await run_command(stage, top, FIELD_NODE, command_pb2.Action(apply_config=routes))

    stage.field_link.cut()
    cut_time = datetime.now(UTC)
    _, took_s = await stage.until(
        f"{FIELD_NODE} cut off, at {GLOBAL}", lambda: in_mode(top, AUTONOMOUS)
    )
    stage.display.happened(f"its link is cut: AUTONOMOUS at {GLOBAL}", took_s)
    await show_item(stage, top, ZONE_A2, CUT_OFF, f"nodes/{FIELD_NODE}")
    ping = command_pb2.Action(ping=command_pb2.Ping(payload="for when you are back"))
    targets = command_pb2.Targets(nodes=[FIELD_NODE])
    command = await issue(top, targets, ping, new_request_id("ping"))
    stage.display.happened("a command is issued for it at global, and waits")
    await stage.until(f"{FIELD_NODE} works on", lambda: _backlog(stage, zone))

    progress = asyncio.create_task(_progress(zone, datetime.now(UTC)))
    stage.field_link.heal()
    stage.field_link.slow(THIN_LINK_BYTES_PER_S)
    _, returned_s = await stage.until(
        f"{FIELD_NODE} replays its backlog", lambda: in_mode(top, LIVE)
    )
    _show_progress(stage, await progress)
    stage.field_link.heal()
    stage.display.happened("its link is back, its backlog replayed: LIVE again", returned_s)
    moves = [link for link in await _ledger(zone) if _moment(link.since) >= cut_time]
    stage.display.table(
        ("MODE", "REASON", "EVIDENCE"),
        [(_name(link.mode), link.reason, link.evidence) for link in moves],
    )
    went = [link.mode for link in moves]
    expect(
        went == [AUTONOMOUS, RETURNING, REPLAYING, LIVE],
        f"the node went {', '.join(map(_name, went))}",
    )
    replayed = moves[1].backlog_messages
    expect(
        replayed >= BACKLOG_REPORTS, f"{replayed} reports waited at the node, not {BACKLOG_REPORTS}"
    )
    await _check_command(top, command.name, after=_moment(moves[-1].since))
    stage.display.happened("the command was delivered after the replay, not before")
    await await_end(stage, top, ZONE_A2, CUT_OFF, f"nodes/{FIELD_NODE}")
    return f"replayed {replayed} reports, LIVE {duration(returned_s)} after its link was back"


async def _progress(client: Client, since: datetime) -> list[replay_service_pb2.Replay]:
    """The return of the node as the zone's controller measures it, step by step to its end."""
    told = []
    request = replay_service_pb2.WatchReplaysRequest(node=FIELD_NODE, domain=ZONE_A2)
    steps = client.stream(request, replay_service_pb2.WatchReplaysResponse, WAIT_S)
    async with contextlib.aclosing(steps):
        async for step in steps:
            told += [each for each in step.replays if _moment(each.begin_time) >= since]
            if told and told[-1].HasField("end_time"):
                break
    return told


def _show_progress(stage: Stage, told: list[replay_service_pb2.Replay]) -> None:
    rows = [
        (
            replay_service_pb2.SessionState.Name(each.state).removeprefix("SESSION_STATE_"),
            f"{max(each.reports_staged, each.reports_applied)} of {each.reports_total}",
            f"{each.rate_per_s:.0f}/s" if each.HasField("rate_per_s") else "-",
            duration((_moment(each.eta) - _moment(each.begin_time)).total_seconds())
            if each.HasField("eta")
            else "-",
        )
        for each in told
    ]
    stage.display.table(("REPLAY", "REPORTS", "RATE", "EXPECTED TO TAKE"), rows)
    staged = [each.reports_staged for each in told if not each.reports_applied]
    expect(staged == sorted(staged), f"the replay went back: {staged}")
    last = told[-1]
    expect(
        any(0 < each < last.reports_total for each in staged),
        f"the replay was not seen under way: {staged} of {last.reports_total}",
    )
    expect(
        last.reports_applied >= last.reports_total,
        f"{last.reports_applied} of {last.reports_total} reports took effect",
    )


async def _check_command(client: Client, name: str, after: datetime) -> None:
    """The command must succeed, and not have been sent before the node was live."""
    async for _ in follow(client, name):
        pass
    reply = await client.call(
        command_service_pb2.GetCommandRequest(name=name), command_service_pb2.GetCommandResponse
    )
    [delivery] = reply.command.deliveries
    state = command_pb2.DeliveryState.Name(delivery.state)
    expect(delivery.state == command_pb2.DELIVERY_STATE_SUCCEEDED, f"the command ended {state}")
    sent = _moment(delivery.dispatch_time)
    expect(sent >= after, f"the command was sent at {sent}, before the node was live at {after}")


async def in_mode(
    client: Client, mode: connectivity_pb2.ConnectivityMode, node: str = FIELD_NODE
) -> Seen[connectivity_pb2.Connectivity]:
    """A node's connectivity once it is in a mode. Raises `Refused` until the node is known."""
    view = (await node_at(client, node)).connectivity
    debt = view.sync_debt
    done, left = debt.replayed_messages, debt.backlog.messages
    text, share = f"{node} is {_name(view.link.mode)}", None
    if view.link.mode in (RETURNING, REPLAYING):
        text += f", {done} of {done + left} reports replayed"
        share = done / (done + left) if done + left else None
    return Seen(text, view if view.link.mode == mode else None, share)


async def _backlog(stage: Stage, client: Client) -> Seen[bool]:
    """What waits at the node, as its own disk tells, and how far behind the zone is."""
    directory = stage.federation.directory / f"agent-{FIELD_NODE}"
    waiting = backlog_of(directory, FIELD_NODE).kept_back
    behind = (await node_at(client, FIELD_NODE)).connectivity.sync_debt.behind
    text = f"{waiting} reports wait at {FIELD_NODE}; {ZONE_A2} is {behind.ToMilliseconds() / 1000:.1f} s behind"
    done = True if waiting >= BACKLOG_REPORTS else None
    return Seen(text, done, waiting / BACKLOG_REPORTS)


async def _ledger(client: Client) -> list[connectivity_pb2.LinkState]:
    reply = await client.call(
        fleet_service_pb2.ListConnectivityHistoryRequest(name=f"nodes/{FIELD_NODE}"),
        fleet_service_pb2.ListConnectivityHistoryResponse,
    )
    return sorted(reply.ledger.history, key=lambda link: _moment(link.since))


def _name(mode: int) -> str:
    return connectivity_pb2.ConnectivityMode.Name(mode).removeprefix("CONNECTIVITY_MODE_")


def _moment(time: Timestamp) -> datetime:
    return time.ToDatetime(UTC)
