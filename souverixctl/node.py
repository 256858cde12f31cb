"""One node in full: its twin, what it should be beside what it is, its timeline, its past, and why its values are so.

Owns how these are shown together. Never explains anything by itself: the controller does.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
from google.protobuf.json_format import MessageToDict

from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import history_pb2 as history
from souverix.fleet.v1 import node_pb2 as node
from souverixctl import options
from souverixctl.describe import field_word
from souverixctl.drift import FIELD_COLUMNS, field_rows
from souverixctl.errors import BadInput
from souverixctl.nodes import COLUMNS, follow_nodes, row
from souverixctl.output import Cell, as_document
from souverixctl.results import age, coloured, note_freshness, present, word
from souverixctl.session import Session, Verb, pass_session
from souverixctl.times import parse_time, show_exact

SIDE_COLUMNS = ("", "DESIRED", "ACTUAL", "")
EVENT_COLUMNS = ("RECEIVED", "TIME", "WHAT", "STANDING", "BY", "AT", "SAYS")
WHY_COLUMNS = ("ROLE", "SOURCE", "TIME", "BY", "AT", "SAYS", "NOTE")

#: What a timeline tells: everything but the node's own reports, which come all the time.
TIMELINE_ASPECTS = (
    "existence", "placement", "node_spec", "desired_state", "drift_waiver", "lifecycle", "link_state", "inventory",
    "agent_key", "return_incident",
)  # fmt: skip

#: Events of the timeline shown unless the operator says otherwise.
DEFAULT_EVENTS = 20

#: Characters shown of what an event says; all of it with -o json.
MAX_SAID = 60


@click.command("node", cls=Verb, short_help="One node: twin, desired beside actual, timeline, why.")
@click.argument("id", metavar="NODE")
@click.option(
    "--why",
    "field",
    default="",
    metavar="FIELD",
    help="The events behind one field, such as mode, target_version or drift.score.",
)
@options.as_of_option
@click.option(
    "--events",
    type=click.IntRange(min=0, max=1000),
    default=DEFAULT_EVENTS,
    metavar="N",
    help=f"Newest events of the timeline to show. Default: {DEFAULT_EVENTS}.",
)
@click.option("--reports", is_flag=True, help="With the node's own reports in the timeline.")
@click.option("--watch", is_flag=True, help="Follow the node, until interrupted.")
@pass_session
def node_verb(
    session: Session, id: str, field: str, as_of: str, events: int, reports: bool, watch: bool
) -> None:
    """Show one node: where it stands, what it should be beside what it is, and its newest events.

    \b
    souverixctl node a1-gw-1
    souverixctl node a1-gw-1 --why target_version
    souverixctl node a1-gw-1 --as-of 2h
    """  # fmt: skip
    if sum(map(bool, (field, as_of, watch))) > 1:
        raise BadInput("--why, --as-of and --watch exclude each other", "give one of them")
    name = options.resource_name("nodes", id)
    if field:
        _show_why(session, fleet.ExplainNodeRequest(name=name, field=field))
        return
    request = fleet.GetNodeRequest(name=name)
    if as_of:
        request.as_of_time.CopyFrom(parse_time(as_of, session.output.now))
    twin = session.connection.call(request, fleet.GetNodeResponse).node
    if watch:
        follow_nodes(session, {"domain": twin.domain, "filter": f"id = {twin.id}"})
        return
    aspects = () if reports else TIMELINE_ASPECTS
    query = fleet.ListNodeEventsRequest(name=name, page_size=max(1, events), aspects=aspects)
    if as_of:
        query.end_time.CopyFrom(request.as_of_time)
    timeline = session.connection.call(query, fleet.ListNodeEventsResponse)
    if not session.output.is_table:
        session.output.document({"node": as_document(twin), **as_document(timeline)})
        return
    if as_of:
        session.output.note(f"as known at {show_exact(request.as_of_time)}")
    _show_twin(session, twin)
    if events:
        _show_timeline(session, timeline)


def _show_twin(session: Session, twin: node.Node) -> None:
    output = session.output
    output.table(COLUMNS, [row(twin, output.now)], "")
    output.line()
    output.table(SIDE_COLUMNS, _side_by_side(twin), "")
    output.line()
    output.table(FIELD_COLUMNS, field_rows(twin.drift), "nothing differs")


def _side_by_side(twin: node.Node) -> list[list[Cell]]:
    """What governs the node beside what it reported."""
    desired, actual = twin.effective_desired_state.desired_state, twin.actual_state
    decided = twin.effective_desired_state.decided_by
    pairs = [
        ("version", desired.target_version, actual.reported_version, "target_version"),
        ("configuration", _digest(desired), _digest(actual), "configuration"),
    ]
    rows: list[list[Cell]] = []
    for what, wanted, found, governed in pairs:
        same = "" if not wanted or wanted == found else "differs"
        source = f"by {decided[governed]}" if governed in decided else ""
        rows.append([what, f"{wanted} {source}".strip(), found, coloured(same)])
    rows.append(_policies(twin))
    rows.append(["health", "", word(actual.runtime, "health"), actual.runtime.health_reason])
    return rows


def _policies(twin: node.Node) -> list[Cell]:
    """The policy to follow beside the one in force; its version is told where they differ."""
    actual, compared = twin.actual_state, twin.drift.policy_drift
    in_force = f"{actual.policy_bundle} {actual.policy_version}".strip()
    wanted = f"{compared.policy_bundle} {compared.policy_version}".strip()
    wanted = wanted or twin.effective_desired_state.desired_state.policy_bundle
    same = not wanted or not in_force or in_force in (wanted, f"{wanted} {actual.policy_version}")
    return ["policy", wanted, in_force, coloured("" if same else "differs")]


def _digest(state: Any) -> str:
    """A configuration by its name and the beginning of its hash."""
    digest = state.config_hash.removeprefix("sha256:")[:12]
    return f"{state.config_name} {digest}".strip()


def _show_timeline(session: Session, timeline: fleet.ListNodeEventsResponse) -> None:
    output = session.output
    output.line()
    rows = [_event_row(each, output.now) for each in timeline.events]
    output.table(EVENT_COLUMNS, rows, "no events in the log")
    if timeline.next_page_token:
        output.note(f"there are earlier events than these {len(rows)}: --events shows more")
    if timeline.earlier_events_missing:
        output.note("the log no longer reaches back to the first events")


def _event_row(event: history.NodeEvent, now: datetime) -> list[Cell]:
    standing = field_word(event, "standing").lower()
    return [
        age(event, "receive_time", now),
        age(event, "time", now),
        event.aspect,
        f"{standing}, optimistic" if event.optimistic else standing,
        event.principal,
        event.controller,
        _said(event),
    ]


def _show_why(session: Session, request: fleet.ExplainNodeRequest) -> None:
    reply = session.connection.call(request, fleet.ExplainNodeResponse)

    def show() -> None:
        value = MessageToDict(reply.value) if reply.HasField("value") else "not set"
        session.output.line(f"{reply.field}: {value}")
        session.output.line()
        now = session.output.now
        rows: list[list[Cell]] = [
            [
                field_word(each, "role").lower(),
                each.source,
                age(each.event, "time", now),
                each.event.principal,
                each.event.controller,
                _said(each.event),
                each.note,
            ]
            for each in reply.chain
        ]
        session.output.table(WHY_COLUMNS, rows, "nothing was ever written that bears on it")

    present(session, reply, show)
    note_freshness(session, reply)


def _said(event: history.NodeEvent) -> str:
    """What an event says, in short."""
    parts = []
    for name, value in MessageToDict(event.document).items():
        shown = (
            "{...}"
            if isinstance(value, dict)
            else f"[{len(value)}]"
            if isinstance(value, list)
            else value
        )
        parts.append(f"{name}={shown}")
    text = " ".join(parts)
    return text if len(text) <= MAX_SAID else f"{text[: MAX_SAID - 3]}..."
