"""Nodes: get, describe, watch.

Owns how nodes are asked for and shown. Writing them is node_writes.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
from rich.text import Text

from souverix.fleet.v1 import connectivity_pb2 as connectivity
from souverix.fleet.v1 import drift_pb2 as drift
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import lifecycle_pb2 as lifecycle
from souverix.fleet.v1 import node_pb2 as node
from souverixctl import options, verbs
from souverixctl.describe import enum_word, field_word
from souverixctl.errors import BadInput
from souverixctl.follow import follow
from souverixctl.output import Cell, styled
from souverixctl.pages import fetch_pages
from souverixctl.results import (
    age,
    marks,
    note_freshness,
    present,
    present_details,
    present_rows,
    word,
)
from souverixctl.session import Session, Verb, pass_session
from souverixctl.times import parse_time

COLUMNS = (
    "ID", "DOMAIN", "KIND", "MODE", "PHASE", "DESIRED", "ACTUAL", "DRIFT", "HEALTH", "SEEN",
    "AS OF", "MARKS",
)  # fmt: skip


def row(twin: node.Node, now: datetime) -> list[Cell]:
    """A node as a row of COLUMNS."""
    return [
        twin.id,
        twin.domain,
        field_word(twin.spec, "kind"),
        mode(twin, now),
        word(twin.lifecycle, "phase"),
        twin.desired_state.target_version,
        twin.actual_state.reported_version,
        drift_score(twin),
        word(twin.actual_state.runtime, "health"),
        last_seen(twin, now),
        age(twin, "as_of_time", now),
        node_marks(twin),
    ]


def mode(twin: node.Node, now: datetime) -> Text:
    """How a node is connected; of one whose controller cannot be reached, since when that is not known."""
    known = twin.connectivity
    if not known.HasField("unknown_since"):
        return word(known.link, "mode")
    since = age(known, "unknown_since", now)
    return styled(f"unknown {since} (was {field_word(known.last_known, 'mode')})", "magenta")


def last_seen(twin: node.Node, now: datetime) -> str:
    """When a node was last heard: as measured where that is known, else as recorded."""
    known = twin.connectivity
    if known.HasField("last_seen_time"):
        return age(known, "last_seen_time", now)
    return age(
        known.last_known if known.HasField("last_known") else known.link, "last_seen_time", now
    )


def drift_score(twin: node.Node) -> str:
    """The score of a node's drift; "?" where it is not known."""
    unknown = twin.drift.state == drift.DRIFT_STATE_UNKNOWN
    return "?" if unknown else f"{twin.drift.score:g}" if twin.HasField("drift") else ""


def node_marks(twin: node.Node) -> Text:
    """What a reader of a node must not overlook."""
    return marks(optimistic=twin.optimistic, conflicts=twin.conflicted_aspects)


def enum_choice(enum: Any) -> click.Choice[str]:
    """The words of an enum."""
    words = [enum_word(enum.DESCRIPTOR, value) for value in enum.DESCRIPTOR.values_by_number]
    return click.Choice([each for each in words if each], case_sensitive=False)


def _values(enum: Any, prefix: str, words: Sequence[str]) -> list[Any]:
    return [enum.Value(f"{prefix}_{each}") for each in words]


def _filter_options(function: options.Function) -> options.Function:
    for decorate in (
        click.option(
            "--filter", "filter", default="", metavar="FILTER",
            help="Only those that fit, such as 'mode = AUTONOMOUS AND version < 1.4.7' (docs/queries.md).",
        ),
        click.option(
            "--min-drift", "min_drift_score", type=click.FloatRange(min=0), default=0.0, metavar="SCORE",
            help="Only with at least this drift score; the score is 0 without drift, and has no upper bound.",
        ),
        click.option(
            "--drift", "drift_states", multiple=True, type=enum_choice(drift.DriftState),
            help="Only whose drift came to this. Repeatable.",
        ),
        click.option(
            "--policy", "policy_bundle", default="", metavar="ID",
            help="Only whose desired state names this policy bundle.",
        ),
        click.option(
            "--phase", "phases", multiple=True, type=enum_choice(lifecycle.LifecyclePhase),
            help="Only in this lifecycle phase. Repeatable.",
        ),
        click.option(
            "--mode", "modes", multiple=True, type=enum_choice(connectivity.ConnectivityMode),
            help="Only in this connectivity mode. Repeatable.",
        ),
        options.with_tags_option,
        options.scope_options,
    ):  # fmt: skip
        function = decorate(function)
    return function


def _filters(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "domain": given["domain"],
        "include_subtree": given["subtree"],
        "tags": given["tags"],
        "modes": _values(connectivity.ConnectivityMode, "CONNECTIVITY_MODE", given["modes"]),
        "phases": _values(lifecycle.LifecyclePhase, "LIFECYCLE_PHASE", given["phases"]),
        "policy_bundle": given["policy_bundle"],
        "min_drift_score": given["min_drift_score"],
        "drift_states": _values(drift.DriftState, "DRIFT_STATE", given["drift_states"]),
        "filter": given["filter"],
    }


def _list_options(function: options.Function) -> options.Function:
    for decorate in (
        options.limit_option,
        options.as_of_option,
        click.option("--watch", is_flag=True, help="Show every change after that, until interrupted."),
        click.option(
            "--order-by", default="", metavar="FIELDS",
            help="Fields to order by, such as 'score desc, version'. Default: by id.",
        ),
        _filter_options,
    ):  # fmt: skip
        function = decorate(function)
    return function


@click.command("nodes", cls=Verb, short_help="List nodes, by filters and in any order.")
@_list_options
@pass_session
def nodes_verb(
    session: Session, limit: int, order_by: str, watch: bool, as_of: str, **given: Any
) -> None:
    """List the nodes of a domain; without --domain, of the controller's own. The same as `get nodes`.

    \b
    souverixctl nodes --subtree --filter "mode = AUTONOMOUS AND tags:lab"
    souverixctl nodes --subtree --order-by "score desc" --limit 20
    souverixctl nodes --subtree --filter "phase = QUARANTINED" --watch
    souverixctl nodes --domain edge-zone-a1 --filter "mode = AUTONOMOUS" --as-of 2h
    """
    _show_nodes(session, limit, order_by, watch, as_of, given)


@verbs.get.command("nodes", short_help="List nodes.")
@_list_options
@pass_session
def get_nodes(
    session: Session, limit: int, order_by: str, watch: bool, as_of: str, **given: Any
) -> None:
    """List the nodes of a domain; without --domain, of the controller's own.

    \b
    souverixctl get nodes --domain region-a --subtree
    souverixctl get nodes --mode disconnected --mode autonomous -o json
    """
    _show_nodes(session, limit, order_by, watch, as_of, given)


def _show_nodes(
    session: Session, limit: int, order_by: str, watch: bool, as_of: str, given: dict[str, Any]
) -> None:
    if watch and as_of:
        raise BadInput("--as-of and --watch exclude each other", "give one of them")
    if watch:
        follow_nodes(session, _filters(given))
        return
    request = fleet.ListNodesRequest(**_filters(given), order_by=order_by)
    if as_of:
        request.as_of_time.CopyFrom(parse_time(as_of, session.output.now))
    reply = fetch_pages(session, request, fleet.ListNodesResponse, "nodes", limit)
    now = session.output.now
    rows = [row(each, now) for each in reply.nodes]
    none = (
        "no nodes" if given["subtree"] else "no nodes; --subtree lists those of domains below too"
    )
    present(session, reply, lambda: session.output.table(COLUMNS, rows, none))
    note_freshness(session, reply)
    pending = reply.read_model.pending_node_count
    if pending and session.output.is_table:
        session.output.note(f"{pending} nodes have changed and are found as they were")


def fetch_node(session: Session, id: str) -> fleet.GetNodeResponse:
    """Read one node. Raises Refused."""
    request = fleet.GetNodeRequest(name=options.resource_name("nodes", id))
    return session.connection.call(request, fleet.GetNodeResponse)


@verbs.get.command("node", short_help="Show one node.")
@click.argument("id", metavar="NODE")
@pass_session
def get_node(session: Session, id: str) -> None:
    """Show one node in a line, or whole with -o json or -o yaml.

    \b
    souverixctl get node a1-gw-1 -o yaml
    """
    reply = fetch_node(session, id)
    present_rows(session, reply, COLUMNS, row, [reply.node])


@verbs.describe.command("node", short_help="Describe one node.")
@click.argument("id", metavar="NODE")
@pass_session
def describe_node(session: Session, id: str) -> None:
    """Show everything known of a node: declared, reported, observed, computed.

    \b
    souverixctl describe node a1-gw-1
    """
    reply = fetch_node(session, id)
    present_details(session, reply, reply.node)


@verbs.watch.command("nodes", short_help="Follow nodes.")
@_filter_options
@pass_session
def watch_nodes(session: Session, **given: Any) -> None:
    """Show the nodes of a domain, then every change, until interrupted. Without --domain, of the
    controller's own.

    \b
    souverixctl watch nodes --domain edge-zone-a1
    """
    follow_nodes(session, _filters(given))


def follow_nodes(session: Session, query: dict[str, Any]) -> None:
    """Show the nodes a query means, then every change, until interrupted. Raises Refused."""
    replies = follow(
        session,
        lambda token: fleet.WatchNodesRequest(**query, resume_token=token),
        fleet.WatchNodesResponse,
        lambda reply: reply.bookmark.resume_token,
        "the nodes are shown again from the beginning",
    )
    for reply in replies:
        if not session.output.is_table:
            session.output.step(reply)
            continue
        step = reply.WhichOneof("event")
        if step == "removed":
            cause = field_word(reply.removed, "cause").lower().replace("_", " ")
            where = f"to {reply.removed.moved_to_domain}" if reply.removed.moved_to_domain else ""
            session.output.line("removed ", reply.removed.name, cause, where)
        elif step == "bookmark":
            if reply.bookmark.initial_state_complete:
                session.output.note("that is the state as it is; changes follow")
        elif step is not None:
            twin = getattr(reply, step)
            session.output.line(
                f"{step:8}",
                f"{twin.id:24}",
                f"{twin.domain:16}",
                mode(twin, session.output.now),
                word(twin.lifecycle, "phase"),
                f"desired {twin.desired_state.target_version or '-'}",
                f"actual {twin.actual_state.reported_version or '-'}",
                node_marks(twin),
            )
