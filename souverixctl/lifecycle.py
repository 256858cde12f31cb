"""A node's life: its transitions, and the histories of its lifecycle and its connectivity.

Owns how they are asked for and shown. Never judges a transition: the controller does.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click

from souverix.fleet.v1 import connectivity_pb2 as connectivity
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import lifecycle_pb2 as lifecycle
from souverixctl import options
from souverixctl.describe import enum_word, field_word
from souverixctl.output import Cell, as_document
from souverixctl.results import age, note_freshness, present, present_write, word
from souverixctl.session import Session, Verb, pass_session
from souverixctl.times import parse_duration, seconds_of, show_age, show_duration

CONNECTIVITY_COLUMNS = ("SINCE", "FROM", "TO", "REASON", "RTT", "INTERVAL", "BACKLOG", "EVIDENCE")
LIFECYCLE_COLUMNS = ("SINCE", "FROM", "TO", "STATE", "REASON", "BY", "UNTIL", "DONE")


def _words(enum: Any) -> list[str]:
    """The values of an enum as they are typed: "begin-update"."""
    numbers = enum.DESCRIPTOR.values_by_number
    return [enum_word(enum.DESCRIPTOR, each).lower().replace("_", "-") for each in numbers if each]


def _value(prefix: str, typed: str) -> str:
    return prefix + typed.upper().replace("-", "_")


@click.command("lifecycle", cls=Verb, short_help="Move a node on in its life.")
@click.argument("id", metavar="NODE")
@click.argument(
    "transition",
    metavar="TRANSITION",
    type=click.Choice(_words(lifecycle.LifecycleTransition), case_sensitive=False),
)
@click.option("--reason", default="", metavar="TEXT", help="Why, for the timeline and the audit.")
@click.option(
    "--until",
    metavar="DURATION",
    help="Maintenance: it ends by itself after this, such as 4h; needed to enter.",
)
@click.option(
    "--exit-condition",
    default="",
    metavar="TEXT",
    help="Quarantine: what must hold before it ends.",
)
@click.option(
    "--step",
    type=click.Choice(_words(lifecycle.DecommissionStep), case_sensitive=False),
    help="Decommissioning: the step of the checklist that is done.",
)
@click.option("--serial", metavar="NUMBER", help="New hardware: its serial number.")
@click.option("--manufacturer", default="", metavar="NAME", help="New hardware: who made it.")
@click.option("--model", default="", metavar="NAME", help="New hardware: its model.")
@click.option(
    "--override-attestation",
    is_flag=True,
    help="Release, new hardware: though the node's attestation failed and it was not verified since; give the reason.",
)
@options.etag_option
@options.write_options
@pass_session
def transition(session: Session, id: str, transition: str, **given: Any) -> None:
    """Move a node on in its life. Exit code 4: not legal now; the controller names those that are.

    \b
    TRANSITION: enrol, activate, begin-update, complete-update, fail-update, enter-maintenance,
    enter-unscheduled-maintenance, leave-maintenance, degrade, recover, quarantine,
    release-from-quarantine, begin-decommission, begin-emergency-decommission,
    confirm-decommission-step, retire, replace-hardware

    \b
    souverixctl lifecycle a1-gw-1 enter-maintenance --until 4h --reason "new fan"
    souverixctl lifecycle a1-gw-1 quarantine --reason "bad seal" --exit-condition "firmware 2.1.3"
    souverixctl lifecycle a1-gw-1 confirm-decommission-step --step data-exported
    """
    write = options.read_write_options(given)
    request = fleet.TransitionNodeRequest(
        name=options.resource_name("nodes", id),
        transition=_value("LIFECYCLE_TRANSITION_", transition),
        reason=given["reason"],
        exit_condition=given["exit_condition"],
        override_attestation=given["override_attestation"],
        etag=given["etag"],
        **write.fields(),
    )
    if given["until"]:
        seconds = seconds_of(parse_duration(given["until"]))
        request.expire_time.FromDatetime(session.output.now + timedelta(seconds=seconds))
    if given["step"]:
        step = fleet.TransitionNodeRequest(step=_value("DECOMMISSION_STEP_", given["step"]))
        request.MergeFrom(step)
    if given["serial"]:
        request.hardware.serial = given["serial"]
        request.hardware.manufacturer = given["manufacturer"]
        request.hardware.model = given["model"]
    reply = session.connection.call(request, fleet.TransitionNodeResponse)
    entered = reply.node.lifecycle
    state = f" ({entered.state})" if entered.state else ""
    done = f"node {reply.node.id} is {field_word(entered, 'phase')}{state}"
    present_write(session, reply, done, reply.node.etag)


@click.command("history", cls=Verb, short_help="What a node went through.")
@click.argument("id", metavar="NODE")
@click.option("--connectivity", "which", flag_value="connectivity", help="Only its connectivity.")
@click.option("--lifecycle", "which", flag_value="lifecycle", help="Only its lifecycle.")
@pass_session
def history(session: Session, id: str, which: str | None) -> None:
    """Show a node's newest transitions, oldest first: its lifecycle and its connectivity ledger.

    In JSON and YAML one document: both replies under "lifecycle" and "connectivity", or the one that was asked for.

    \b
    souverixctl history a1-gw-1 --connectivity
    """
    name = options.resource_name("nodes", id)
    lived, linked = None, None
    if which != "connectivity":
        asked = fleet.ListLifecycleHistoryRequest(name=name)
        lived = session.connection.call(asked, fleet.ListLifecycleHistoryResponse)
    if which != "lifecycle":
        asked_links = fleet.ListConnectivityHistoryRequest(name=name)
        linked = session.connection.call(asked_links, fleet.ListConnectivityHistoryResponse)
    if lived is not None and linked is not None and not session.output.is_table:
        both = {"lifecycle": as_document(lived), "connectivity": as_document(linked)}
        session.output.document(both)
        return
    if lived is not None:
        _show_lifecycle(session, lived)
    if linked is not None:
        _show_connectivity(session, linked)


def _show_lifecycle(session: Session, reply: fleet.ListLifecycleHistoryResponse) -> None:
    now = session.output.now
    rows = [_lifecycle_row(each, now) for each in reply.timeline.transitions]
    none = "no lifecycle transition is known here"
    present(session, reply, lambda: session.output.table(LIFECYCLE_COLUMNS, rows, none))
    note_freshness(session, reply)


def _show_connectivity(session: Session, reply: fleet.ListConnectivityHistoryResponse) -> None:
    now = session.output.now
    rows = [_connectivity_row(each, now) for each in reply.ledger.history]
    none = "no connectivity transition is known here"
    present(session, reply, lambda: session.output.table(CONNECTIVITY_COLUMNS, rows, none))
    note_freshness(session, reply)


def _lifecycle_row(entered: lifecycle.LifecycleState, now: datetime) -> list[Cell]:
    until = ""
    if entered.HasField("expire_time"):
        until = f"{entered.expire_time.ToDatetime():%Y-%m-%d %H:%M:%S}Z"
    return [
        age(entered, "last_transition_time", now),
        field_word(entered, "previous_phase"),
        word(entered, "phase"),
        entered.state,
        entered.reason,
        entered.decided_by,
        until,
        f"{len(entered.completed_steps)}/{len(_words(lifecycle.DecommissionStep))}"
        if entered.completed_steps
        else "",
    ]


def _connectivity_row(link: connectivity.LinkState, now: datetime) -> list[Cell]:
    rtt = link.quality.rtt if link.quality.HasField("rtt") else None
    interval = link.sync_interval if link.HasField("sync_interval") else None
    return [
        show_age(link.since, now),
        field_word(link, "previous_mode"),
        word(link, "mode"),
        link.reason,
        show_duration(seconds_of(rtt)) if rtt is not None else "",
        show_duration(seconds_of(interval)) if interval is not None else "",
        str(link.backlog_messages) if link.HasField("backlog_messages") else "",
        link.evidence,
    ]
