"""What nodes are made of: who runs a component, how a node's SBOMs changed, which hardware is of a batch.

Owns how these are asked for and shown. Never shows an answer without what it leaves open.
"""

from __future__ import annotations

import click

from souverix.supply.v1 import supply_service_pb2 as service
from souverixctl import options
from souverixctl.describe import field_word
from souverixctl.output import Cell
from souverixctl.pages import fetch_pages
from souverixctl.results import age, coloured, note_freshness, optional_time, present
from souverixctl.session import Session, Verb, Verbs, pass_session
from souverixctl.times import show_age

AFFECTED_COLUMNS = ("NODE", "DOMAIN", "EXPOSURE", "RUNS", "SBOM AGE", "SBOM")
VERSION_COLUMNS = ("SBOM", "STATE", "COMPONENTS", "UNIDENTIFIED", "SOFTWARE", "OBSERVED")
CHANGE_COLUMNS = ("COMPONENT", "BEFORE", "AFTER")
UNIT_COLUMNS = ("NODE", "DOMAIN", "SERIAL", "BATCH", "ORIGIN", "MADE", "MODEL")

sbom_group = Verbs(
    "sbom",
    help="SBOMs of nodes: what their hosts are made of, as their agents saw it (CycloneDX).\n\n"
    "The document itself is a large value: souverixctl values download NODE --name sbom.\n\n"
    "\b\nsouverixctl sbom lineage a1-gw-1",
)


@click.command("who-runs", cls=Verb, short_help="Find the nodes that run a component.")
@click.argument("purl", metavar="PURL")
@click.argument("version_range", metavar="[RANGE]", default="")
@options.scope_options
@click.option("--unknown", is_flag=True, help="Also nodes of which it cannot be told.")
@options.limit_option
@pass_session
def who_runs(
    session: Session,
    purl: str,
    version_range: str,
    domain: str,
    subtree: bool,
    unknown: bool,
    limit: int,
) -> None:
    """Find the nodes whose SBOM holds a component in a range of versions; without RANGE, in any version.

    PURL is a package URL without a version, such as pkg:deb/debian/openssl. RANGE is written in the scheme of its type:
    '<3.0.11-1', '>=1.0|<1.2.3', or a whole vers URI. Nodes without an SBOM, and versions that cannot be compared, are
    counted as unknown, never as safe. Exit code 0 whether nodes are found or not.

    \b
    souverixctl who-runs pkg:deb/debian/openssl '<3.0.11-1~deb12u2' --domain region-a --subtree
    souverixctl who-runs pkg:pypi/cryptography '<42' --unknown -o json
    """
    request = service.FindAffectedNodesRequest(
        purl=purl,
        version_range=version_range,
        domain=domain,
        include_subtree=subtree or not domain,
        include_unknown=unknown,
    )
    reply = fetch_pages(session, request, service.FindAffectedNodesResponse, "nodes", limit)
    now = session.output.now
    rows: list[list[Cell]] = [
        [
            each.node,
            each.domain,
            field_word(each, "exposure"),
            ", ".join(each.purls),
            age(each, "sbom_time", now),
            each.sbom_digest[:19],
        ]
        for each in reply.nodes
    ]
    present(
        session, reply, lambda: session.output.table(AFFECTED_COLUMNS, rows, "no node is known to")
    )
    if session.output.is_table:
        _tell(session, reply)
    note_freshness(session, reply)


def _tell(session: Session, reply: service.FindAffectedNodesResponse) -> None:
    """What the answer leaves open."""
    counts = reply.counts
    open_ = {
        "without an SBOM": counts.unknown_no_sbom,
        "with one that is not read yet": counts.unknown_not_read,
        "with one that was refused": counts.unknown_invalid_sbom,
        "in a version that cannot be compared": counts.unknown_version,
    }
    told = ", ".join(f"{number} {words}" for words, number in open_.items() if number)
    session.output.line(
        f"{counts.affected} of {counts.nodes} nodes affected, {counts.not_affected} not; unknown: {told or 'none'}"
    )
    oldest = optional_time(reply, "oldest_sbom_time")
    if oldest is not None:
        session.output.note(f"the oldest SBOM is {show_age(oldest, session.output.now)} old")


@sbom_group.command("lineage", short_help="Show the SBOMs a node had, and what changed.")
@click.argument("node", metavar="NODE")
@click.option(
    "--compare-with",
    default="",
    metavar="DIGEST",
    help="Compare the newest with this one. Default: with the one before it.",
)
@pass_session
def lineage(session: Session, node: str, compare_with: str) -> None:
    """Show the SBOMs a node had, newest first, and what changed between two of them.

    \b
    souverixctl sbom lineage a1-gw-1
    """
    request = service.GetSbomLineageRequest(
        node=node.removeprefix("nodes/"), compare_with=compare_with
    )
    reply = session.connection.call(request, service.GetSbomLineageResponse)
    now = session.output.now

    def show() -> None:
        versions: list[list[Cell]] = [
            [
                each.digest[:19],
                coloured(field_word(each, "state")) if not each.reason else each.reason,
                str(each.component_count),
                str(each.unidentified_count),
                each.software_version,
                age(each, "observe_time", now),
            ]
            for each in reply.versions
        ]
        session.output.table(VERSION_COLUMNS, versions, "no SBOM of this node was judged yet")
        changes: list[list[Cell]] = [
            [each.purl, ", ".join(each.versions_before), ", ".join(each.versions_after)]
            for each in reply.changes
        ]
        if reply.compared:
            session.output.table(CHANGE_COLUMNS, changes, "no component changed")
        elif len(reply.versions) > 1:
            session.output.note("the two are not compared: one of them is not held here any more")

    present(session, reply, show)


@click.command("hardware", cls=Verb, short_help="Find hardware by its serial number or batch.")
@click.option("--serial", default="", metavar="SERIAL", help="The unit with this serial number.")
@click.option("--batch", default="", metavar="BATCH", help="All units of this production batch.")
@options.scope_options
@options.limit_option
@pass_session
def hardware(
    session: Session, serial: str, batch: str, domain: str, subtree: bool, limit: int
) -> None:
    """Find hardware as it was registered: which batch a serial is of, and which nodes are of a batch.

    \b
    souverixctl hardware --serial HW-2024-Q3-0042
    souverixctl hardware --batch BATCH-2024-Q3-001 --domain region-a --subtree
    """
    request = service.FindHardwareRequest(
        serial=serial, batch_id=batch, domain=domain, include_subtree=subtree
    )
    reply = fetch_pages(session, request, service.FindHardwareResponse, "units", limit)
    rows: list[list[Cell]] = [
        [
            each.node,
            each.domain,
            each.hardware.serial,
            each.hardware.batch_id,
            each.hardware.manufacturing_origin,
            each.hardware.manufacture_date,
            f"{each.hardware.manufacturer} {each.hardware.model}".strip(),
        ]
        for each in reply.units
    ]
    present(session, reply, lambda: session.output.table(UNIT_COLUMNS, rows, "none is registered"))
