"""The fleet at a glance: nodes by connectivity, by phase, by health and drift, domain by domain.

Owns how the sums are shown. Never adds up by itself: the sums are the controller's.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import click
from rich.text import Text

from souverix.fleet.v1 import domain_pb2 as domain
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverixctl import options
from souverixctl.describe import field_word
from souverixctl.output import Cell, styled
from souverixctl.pages import fetch_pages
from souverixctl.results import age, coloured, note_freshness, present, word
from souverixctl.session import Session, Verb, pass_session

COLUMNS = (
    "DOMAIN", "CONTROLLER", "NODES", "CONNECTIVITY", "PHASES", "UNHEALTHY", "DRIFT", "AS OF"
)  # fmt: skip

#: What is shown of nodes of which nothing was ever heard, or whose controller cannot be reached.
UNKNOWN = "UNKNOWN"


@click.command("overview", cls=Verb, short_help="The fleet at a glance.")
@click.argument("domain", metavar="[DOMAIN]", default="")
@options.limit_option
@pass_session
def overview(session: Session, domain: str, limit: int) -> None:
    """Show nodes by connectivity, phase, health and drift, for a domain and all below it.

    Each line counts the nodes of its domain and of those below it. CONTROLLER is how the domain's
    controller is connected with the one that is asked; nodes of one that is cut off are UNKNOWN.
    Without DOMAIN, for the root.

    \b
    souverixctl overview region-a
    """
    request = fleet.ListDomainsRequest(domain=domain, include_subtree=True)
    reply = fetch_pages(session, request, fleet.ListDomainsResponse, "domains", limit)
    now = session.output.now
    rows = [_row(each, now) for each in reply.domains]
    present(session, reply, lambda: session.output.table(COLUMNS, rows, "no domains"))
    note_freshness(session, reply)


def _row(scope: domain.Domain, now: datetime) -> list[Cell]:
    summary = scope.summary
    return [
        scope.id,
        word(summary, "mode"),
        str(scope.subtree_node_count),
        _counts(summary.modes, "mode"),
        _counts(summary.phases, "phase"),
        str(summary.unhealthy_node_count or ""),
        str(summary.drift_objects) if summary.HasField("drift_objects") else "",
        age(scope, "as_of_time", now),
    ]


def _counts(counts: Iterable[Any], field: str) -> Text:
    """ "LIVE 48, DELAYED 2", each in its colour."""
    parts = [
        Text(" ").join([coloured(field_word(each, field) or UNKNOWN), Text(str(each.node_count))])
        for each in counts
    ]
    return Text(", ").join(parts) if parts else styled("")
