"""Drift: how nodes differ from what is desired of them, and the waivers that accept it.

Owns how drift is shown, of domains and of nodes. Never judges a difference: the controller does.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import click
import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from souverix.fleet.v1 import drift_pb2 as drift
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import node_pb2 as node
from souverixctl import options
from souverixctl.describe import field_word
from souverixctl.errors import BadInput, Refused
from souverixctl.follow import follow
from souverixctl.nodes import fetch_node
from souverixctl.output import Cell, as_document
from souverixctl.pages import fetch_pages
from souverixctl.results import (
    age,
    coloured,
    note_freshness,
    present,
    present_write,
    word,
)
from souverixctl.session import SHOW, Session, ShowingVerbs, pass_session
from souverixctl.times import parse_duration, seconds_of, show_duration, show_exact

DOMAIN_COLUMNS = (
    "DOMAIN", "NODES", "DRIFTING", "UNKNOWN", "OBJECTS", "WAIVED", "SEVERITY", "SCORE", "HIGHEST",
    "STALE BY", "AS OF",
)  # fmt: skip
NODE_COLUMNS = ("NODE", "DOMAIN", "STATE", "SCORE", "OBJECTS", "WAIVED", "SEVERITY", "STALE BY")
FIELD_COLUMNS = ("FIELD", "DESIRED", "ACTUAL", "SEVERITY", "NOTE")

# What is shown of nodes: those that want somebody's eyes.
SHOWN_STATES = (drift.DRIFT_STATE_DRIFTING, drift.DRIFT_STATE_UNKNOWN)
NODE_FIELDS = FieldMask(paths=["id", "domain", "drift"])


group = ShowingVerbs(
    "drift",
    help="How domains and nodes differ from what is desired of them.\n\n"
    "souverixctl drift [DOMAIN|NODE] shows it; a target called like a verb below needs `show`.\n\n"
    "\b\nsouverixctl drift region-a --subtree\nsouverixctl drift a1-gw-1",
)


@group.command(SHOW, short_help="Show the drift of a domain or a node (the default).")
@click.argument("target", metavar="[DOMAIN|NODE]", default="")
@click.option("--subtree", is_flag=True, help="Everything below the domain.")
@click.option(
    "--watch", is_flag=True, help="Follow nodes that drift or are unknown, until interrupted."
)
@options.limit_option
@pass_session
def show(session: Session, target: str, subtree: bool, watch: bool, limit: int) -> None:
    """Show the drift of domains and of the nodes in them that drift, or of one node field by field.

    A name is looked for among the domains first; domains/NAME and nodes/NAME say which is meant.

    \b
    souverixctl drift
    souverixctl drift region-a --subtree
    souverixctl drift a1-gw-1
    souverixctl drift edge-zone-a1 --watch
    """
    heat = None if target.startswith("nodes/") else _domains(session, target, subtree, limit)
    if heat is None:
        _show_node(session, target.removeprefix("nodes/"), watch)
    elif watch:
        _watch(session, heat.domains[0].domain, subtree)
    else:
        _show_domains(session, heat, subtree, limit)


def _domains(
    session: Session, target: str, subtree: bool, limit: int
) -> fleet.ListDomainDriftsResponse | None:
    """The drift of domains; None when the controller knows no domain of this name."""
    request = fleet.ListDomainDriftsRequest(
        domain=target.removeprefix("domains/"), include_subtree=subtree
    )
    try:
        return fetch_pages(session, request, fleet.ListDomainDriftsResponse, "domains", limit)
    except Refused as refused:
        unknown = refused.code is grpc.StatusCode.NOT_FOUND
        if not unknown or not target or target.startswith("domains/"):
            raise
        return None


def _show_domains(
    session: Session, heat: fleet.ListDomainDriftsResponse, subtree: bool, limit: int
) -> None:
    top = heat.domains[0].domain if heat.domains else ""
    request = fleet.ListNodesRequest(
        domain=top, include_subtree=subtree, drift_states=SHOWN_STATES, read_mask=NODE_FIELDS
    )
    found = fetch_pages(session, request, fleet.ListNodesResponse, "nodes", limit)
    if not session.output.is_table:
        session.output.document(as_document(heat) | {"nodes": as_document(found).get("nodes", [])})
        return
    now = session.output.now
    rows = [_domain_row(each, age(each, "as_of_time", now)) for each in heat.domains]
    session.output.table(DOMAIN_COLUMNS, rows, "no domains")
    session.output.line()
    worst_first = sorted(found.nodes, key=lambda each: (-each.drift.score, each.id))
    where = f"in {top} or below" if subtree else f"in {top} itself"
    session.output.table(
        NODE_COLUMNS, [_node_row(each) for each in worst_first], f"no node drifts {where}"
    )
    note_freshness(session, heat)


def _show_node(session: Session, id: str, watch: bool) -> None:
    reply = fetch_node(session, id)

    def show_parts() -> None:
        session.output.table(NODE_COLUMNS, [_node_row(reply.node)], "")
        session.output.line()
        session.output.table(FIELD_COLUMNS, field_rows(reply.node.drift), "nothing differs")
        config = reply.node.drift.config_drift
        if config.objects > len(config.details):
            session.output.note(f"{config.objects - len(config.details)} more fields differ")

    if watch:
        _watch(session, reply.node.domain, False, id)
    else:
        present(session, reply, show_parts)


def _watch(session: Session, domain: str, subtree: bool, only: str = "") -> None:
    """Follow the nodes of a domain, or one of them, with their drift."""
    replies = follow(
        session,
        lambda token: fleet.WatchNodesRequest(
            domain=domain,
            include_subtree=subtree,
            drift_states=() if only else SHOWN_STATES,
            read_mask=NODE_FIELDS,
            resume_token=token,
        ),
        fleet.WatchNodesResponse,
        lambda reply: reply.bookmark.resume_token,
        "the nodes are shown again from the beginning",
    )
    for reply in replies:
        step = reply.WhichOneof("event")
        shown = getattr(reply, step) if step else None
        if only and isinstance(shown, node.Node) and shown.id != only:
            continue
        if only and step == "removed" and reply.removed.name != f"nodes/{only}":
            continue
        if not session.output.is_table:
            session.output.step(reply)
        elif step == "removed":
            cause = field_word(reply.removed, "cause")
            healed = cause == "NO_LONGER_MATCHES"
            text = "in spec" if healed else cause.lower()
            session.output.line("removed ", reply.removed.name.removeprefix("nodes/"), text)
        elif step == "bookmark":
            if reply.bookmark.initial_state_complete:
                session.output.note("that is the drift as it is; changes follow")
        elif isinstance(shown, node.Node):
            _watch_line(session, str(step), shown)


def _watch_line(session: Session, step: str, shown: node.Node) -> None:
    found = shown.drift
    session.output.line(
        f"{step:8}",
        f"{shown.id:24}",
        f"{shown.domain:16}",
        word(found, "state"),
        f"score {found.score:g}",
        f"{found.objects_out_of_spec} objects",
        word(found, "severity"),
        f"stale by {_stale(found)}",
    )


@group.command("waive", short_help="Accept a drift for a time.")
@click.argument("id", metavar="NODE")
@click.argument("field", metavar="FIELD")
@click.option("--reason", required=True, metavar="TEXT", help="Why it is accepted.")
@click.option(
    "--for", "period", required=True, metavar="DURATION", help="How long, such as 12h or 30d."
)
@click.option("--any-value", is_flag=True, help="Whatever the node has; else only what it has now.")
@options.etag_option
@options.write_options
@pass_session
def waive(
    session: Session,
    id: str,
    field: str,
    reason: str,
    period: str,
    any_value: bool,
    etag: str,
    **given: Any,
) -> None:
    """Accept one drift of a node. FIELD is as `drift NODE` shows it.

    With --any-value FIELD may be an object of the configuration, or all of it.

    \b
    souverixctl drift waive a1-gw-1 target_version --reason "1.4.7 fails on rev B" --for 30d
    souverixctl drift waive a1-gw-1 configuration.log --any-value --reason "debugging" --for 12h
    """
    write = options.read_write_options(given)
    seconds = seconds_of(parse_duration(period))
    if seconds <= 0:
        raise BadInput("--for is zero", "write a duration such as 30d")
    end = Timestamp()
    end.FromDatetime(session.output.now + timedelta(seconds=seconds))
    request = fleet.WaiveDriftRequest(
        name=options.resource_name("nodes", id),
        field=field,
        reason=reason,
        expire_time=end,
        any_value=any_value,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, fleet.WaiveDriftResponse)
    done = f"{field} of {reply.node.id} waived until {show_exact(end)}"
    present_write(session, reply, done, reply.node.etag)


@group.command("revoke", short_help="Take a waiver back.")
@click.argument("id", metavar="NODE")
@click.argument("field", metavar="FIELD")
@options.etag_option
@options.write_options
@pass_session
def revoke(session: Session, id: str, field: str, etag: str, **given: Any) -> None:
    """Take the waiver of a field back: it counts as drift again.

    \b
    souverixctl drift revoke a1-gw-1 target_version
    """
    write = options.read_write_options(given)
    request = fleet.RevokeDriftWaiverRequest(
        name=options.resource_name("nodes", id),
        field=field,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, fleet.RevokeDriftWaiverResponse)
    present_write(session, reply, f"waiver of {field} of {reply.node.id} revoked", reply.node.etag)


def _domain_row(cell: drift.DomainDrift, known: str) -> list[Cell]:
    sums = cell.subtree
    return [
        cell.domain,
        str(sums.node_count),
        str(sums.drifting_node_count),
        str(sums.unknown_node_count),
        str(sums.objects_out_of_spec),
        str(sums.waived_objects),
        word(sums, "severity"),
        f"{sums.score:g}",
        f"{sums.highest_score:g}",
        _stale(sums),
        known,
    ]


def _node_row(twin: node.Node) -> list[Cell]:
    found = twin.drift
    return [
        twin.id,
        twin.domain,
        word(found, "state"),
        f"{found.score:g}",
        str(found.objects_out_of_spec),
        str(found.waived_objects),
        word(found, "severity"),
        _stale(found),
    ]


def field_rows(found: drift.Drift) -> list[list[Cell]]:
    """What differs, is unknown or is waived, as rows of FIELD_COLUMNS."""
    rows = [_version_row(each, each.impact) for each in found.version_drifts]
    rows += [_difference_row(each, "") for each in found.config_drift.details]
    if found.HasField("policy_drift"):
        rows.append(_policy_row(found.policy_drift, _policy_note(found.policy_drift)))
    rows += [[name, "", "", "", coloured("UNKNOWN")] for name in found.unknown_fields]
    for each in found.waived:
        waiver = each.waiver
        note = (
            f"waived until {show_exact(waiver.expire_time)} by {waiver.principal}: {waiver.reason}"
        )
        kind = each.WhichOneof("difference")
        if kind == "version":
            rows.append(_version_row(each.version, note))
        elif kind == "policy":
            rows.append(_policy_row(each.policy, note))
        else:
            rows.append(_difference_row(each.configuration, note))
    return rows


def _version_row(each: drift.VersionDrift, note: str) -> list[Cell]:
    return ["target_version", each.desired, each.actual, word(each, "severity"), note]


def _difference_row(each: drift.ConfigDifference, note: str) -> list[Cell]:
    return [
        f"configuration.{each.field}",
        _value(each.desired) if each.HasField("desired") else "",
        _value(each.actual) if each.HasField("actual") else "",
        word(each, "severity"),
        note,
    ]


def _policy_row(each: drift.PolicyDrift, note: str) -> list[Cell]:
    desired = f"{each.policy_bundle} {each.policy_version}".strip()
    actual = f"{each.actual_policy_bundle} {each.actual_version}".strip()
    return ["policy_version", desired, actual, word(each, "severity"), note]


def _policy_note(each: drift.PolicyDrift) -> str:
    parts = []
    if each.HasField("compliance_score"):
        parts.append(f"compliance {each.compliance_score:.0%}, {each.violations} violations")
    if each.HasField("stale_by"):
        parts.append(f"declared {show_duration(seconds_of(each.stale_by))} ago")
    return "; ".join(parts)


def _value(value: Value) -> str:
    """A value as people wrote it: 3 for 3.0."""
    plain: Any = MessageToDict(value)
    if isinstance(plain, float) and plain.is_integer():
        plain = int(plain)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _stale(message: drift.Drift | drift.DriftSums) -> str:
    """The age of what was compared, in whole seconds."""
    if not message.HasField("stale_by"):
        return ""
    return show_duration(float(int(seconds_of(message.stale_by))))
