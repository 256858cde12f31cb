"""Returns of nodes: what replays, how far it is, and keys that are given up.

Owns how they are asked for and shown. Never judges a return: the controller does.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.nodelink.v1 import replay_service_pb2 as wire
from souverixctl import options
from souverixctl.follow import follow
from souverixctl.output import Cell
from souverixctl.pages import fetch_pages
from souverixctl.results import age, present, present_write, word
from souverixctl.session import Session, Verb, pass_session
from souverixctl.times import seconds_of, show_duration

COLUMNS = (
    "NODE", "DOMAIN", "STATE", "CAME", "DONE", "OF", "PERCENT", "RATE", "LEFT", "TOOK", "DRIFT", "REASON"
)  # fmt: skip


@click.command("replay", cls=Verb, short_help="Returns of nodes, and how far they are.")
@click.argument("node", metavar="[NODE]", default="")
@click.option("--domain", default="", metavar="DOMAIN", help="Only this domain and those below.")
@click.option("--running", "running_only", is_flag=True, help="Leave out those that have ended.")
@click.option("--watch", is_flag=True, help="Follow them, until interrupted.")
@options.limit_option
@pass_session
def replay(
    session: Session, node: str, domain: str, running_only: bool, watch: bool, limit: int
) -> None:
    """Show nodes that return with a backlog: under way, and the newest that have ended.

    Only the controller that delivers to a node measures its return: ask that one. DONE counts
    reports that have arrived; nothing has effect before all are verified.

    \b
    souverixctl replay
    souverixctl replay a1-gw-1 --watch
    souverixctl replay --domain edge-zone-a1 --running
    """
    plain = node.removeprefix("nodes/")
    if watch:
        _watch(session, plain, domain)
        return
    request = wire.ListReplaysRequest(domain=domain, node=plain, running_only=running_only)
    reply = fetch_pages(session, request, wire.ListReplaysResponse, "replays", limit)
    now = session.output.now
    rows = [_row(each, now) for each in reply.replays]
    present(session, reply, lambda: session.output.table(COLUMNS, rows, "no node returns"))
    _note_deferred(session, reply.deferred_nodes)


def _watch(session: Session, node: str, domain: str) -> None:
    replies = follow(
        session,
        lambda token: wire.WatchReplaysRequest(domain=domain, node=node),
        wire.WatchReplaysResponse,
        None,
        "the returns are shown again from the beginning",
    )
    deferred = 0
    for reply in replies:
        if not session.output.is_table:
            session.output.step(reply)
            continue
        for each in reply.replays:
            session.output.line(*_step(each))
        if reply.deferred_nodes != deferred:
            deferred = reply.deferred_nodes
            _note_deferred(session, deferred)


def _note_deferred(session: Session, deferred: int) -> None:
    if deferred:
        session.output.note(f"{deferred} more wait for a time that is kept for them")


def _done(replay: wire.Replay) -> int:
    return max(replay.reports_staged, replay.reports_applied)


def _percent(replay: wire.Replay) -> str:
    total = replay.reports_total
    return f"{min(100, 100 * _done(replay) // total)} %" if total else ""


def _rate(replay: wire.Replay) -> str:
    return f"{replay.rate_per_s:.4g}/s" if replay.HasField("rate_per_s") else ""


def _left(replay: wire.Replay, now: datetime) -> str:
    if not replay.HasField("eta"):
        return ""
    return show_duration(max(0.0, replay.eta.ToDatetime(now.tzinfo).timestamp() - now.timestamp()))


def _row(replay: wire.Replay, now: datetime) -> list[Cell]:
    return [
        replay.node,
        replay.domain,
        word(replay, "state"),
        age(replay, "begin_time", now),
        str(_done(replay)),
        str(replay.reports_total),
        _percent(replay),
        _rate(replay),
        _left(replay, now),
        show_duration(seconds_of(replay.elapsed)),
        str(replay.drift_objects) if replay.HasField("drift_objects") else "",
        replay.reason,
    ]


def _step(replay: wire.Replay) -> list[Cell]:
    parts: list[Cell] = [
        f"{replay.node:24}",
        f"{replay.domain:16}",
        word(replay, "state"),
        f"{_done(replay)}/{replay.reports_total}",
        _percent(replay),
        _rate(replay),
    ]
    if replay.HasField("drift_objects"):
        parts.append(f"drift {replay.drift_objects}")
    if replay.reason:
        parts.append(replay.reason)
    return parts


@click.command("reset-key", cls=Verb, short_help="Give up the key of a node's agent.")
@click.argument("id", metavar="NODE")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the audit.")
@options.etag_option
@options.write_options
@pass_session
def reset_key(session: Session, id: str, reason: str, **given: Any) -> None:
    """Give up the key that a node's agent must prove to hold; the next one offered is pinned.

    For a node whose agent lost its state directory. Whoever greets next is the node: see that it is
    the right one.

    \b
    souverixctl reset-key a1-gw-1 --reason "disk replaced"
    """
    write = options.read_write_options(given)
    request = fleet.ResetAgentKeyRequest(
        name=options.resource_name("nodes", id),
        reason=reason,
        etag=given["etag"],
        **write.fields(),
    )
    reply = session.connection.call(request, fleet.ResetAgentKeyResponse)
    present_write(session, reply, f"the key of node {reply.node.id} is given up", reply.node.etag)
