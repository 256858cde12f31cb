"""The fleet at a glance: nodes by connectivity, phase, health, version and drift, domain by domain.

Owns how the counts are shown. Never adds up by itself: the counts are the controller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click
from rich.text import Text

from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import overview_pb2 as overviews
from souverixctl import options
from souverixctl.describe import field_word
from souverixctl.errors import BadInput
from souverixctl.follow import follow
from souverixctl.output import Cell, styled
from souverixctl.pages import fetch_pages
from souverixctl.results import age, coloured, note_freshness, present, word
from souverixctl.session import Session, Verb, pass_session
from souverixctl.times import parse_time

COLUMNS = (
    "DOMAIN", "CONTROLLER", "NODES", "CONNECTIVITY", "PHASES", "HEALTH", "VERSIONS", "DRIFTING", "OBJECTS",
    "SEVERITY", "CONFLICTS", "AS OF",
)  # fmt: skip

#: What is shown of nodes of which nothing was ever heard, or whose controller cannot be reached.
UNKNOWN = "UNKNOWN"

#: Versions shown of a domain: those most nodes run.
SHOWN_VERSIONS = 3


@click.command("overview", cls=Verb, short_help="The fleet at a glance.")
@click.argument("domain", metavar="[DOMAIN]", default="")
@click.option("--watch", is_flag=True, help="Show it again whenever it changes, until interrupted.")
@options.as_of_option
@options.limit_option
@pass_session
def overview(session: Session, domain: str, watch: bool, as_of: str, limit: int) -> None:
    """Show nodes by connectivity, phase, health, version and drift, for a domain and all below it.

    Each line counts the nodes of its domain and of those below it. CONTROLLER is how the domain's
    controller is connected with the one that is asked; nodes of one that is cut off are UNKNOWN.
    Without DOMAIN, for the root.

    \b
    souverixctl overview region-a
    souverixctl overview --watch
    souverixctl overview edge-zone-a1 --as-of 2h
    """
    if watch and as_of:
        raise BadInput("--as-of and --watch exclude each other", "give one of them")
    if watch:
        _watch(session, domain)
        return
    request = fleet.ListDomainOverviewsRequest(domain=domain, include_subtree=True)
    if as_of:
        request.as_of_time.CopyFrom(parse_time(as_of, session.output.now))
    reply = fetch_pages(session, request, fleet.ListDomainOverviewsResponse, "overviews", limit)
    present(session, reply, lambda: _table(session, reply.overviews))
    note_freshness(session, reply)
    pending = reply.read_model.pending_node_count
    if pending:
        session.output.note(f"{pending} nodes have changed and are counted as they were")


def _watch(session: Session, domain: str) -> None:
    request = fleet.WatchDomainOverviewsRequest(domain=domain, include_subtree=True)
    replies = follow(
        session,
        lambda _: request,
        fleet.WatchDomainOverviewsResponse,
        None,
        "the overview is shown anew",
    )
    for reply in replies:
        if session.output.is_table:
            _table(session, reply.overviews)
            session.output.line()
        else:
            session.output.step(reply)


def _table(session: Session, shown: Sequence[overviews.DomainOverview]) -> None:
    now = session.output.now
    session.output.table(COLUMNS, [_row(each, now) for each in shown], "no domains")


def _row(scope: overviews.DomainOverview, now: datetime) -> list[Cell]:
    versions = [f"{each.value} {each.node_count}" for each in scope.versions.values]
    more = ["..."] if len(versions) > SHOWN_VERSIONS else []
    return [
        scope.domain,
        word(scope, "mode"),
        str(scope.subtree_node_count),
        _counts(scope.modes, "mode"),
        _counts(scope.phases, "phase"),
        _counts((each for each in scope.healths if each.health), "health"),
        ", ".join([*versions[:SHOWN_VERSIONS], *more]),
        str(scope.drift.drifting_node_count or ""),
        str(scope.drift.objects_out_of_spec or ""),
        word(scope.drift, "severity"),
        str(scope.open_conflict_count or ""),
        age(scope, "as_of_time", now),
    ]


def _counts(counts: Iterable[Any], field: str) -> Text:
    """ "LIVE 48, DELAYED 2", each in its colour."""
    parts = [
        Text(" ").join([coloured(field_word(each, field) or UNKNOWN), Text(str(each.node_count))])
        for each in counts
    ]
    return Text(", ").join(parts) if parts else styled("")
