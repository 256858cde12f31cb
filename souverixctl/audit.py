"""The audit log: list, watch, verify.

Owns how entries and verdicts are shown, and that a fault found by a verification ends the run with
its own exit code. The controller verifies its log; exports are verified here (`souverixctl.audit_file`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import click

from souverix.audit.v1 import audit_pb2 as audit
from souverix.audit.v1 import audit_service_pb2 as service
from souverix.bundle.v1 import bundle_service_pb2 as wire
from souverixctl import options, verbs
from souverixctl.audit_file import verify_file
from souverixctl.bundle import Incoming, fetch_export, read_public_key
from souverixctl.describe import field_word
from souverixctl.errors import BadInput, CtlError, NotIntact
from souverixctl.follow import follow
from souverixctl.output import Cell, as_document
from souverixctl.pages import fetch_pages
from souverixctl.results import age, coloured, optional_time, present
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import show_exact

COLUMNS = ("AGE", "WHO", "ACTION", "RESOURCE", "OUTCOME", "REASON", "FROM", "DOMAIN", "AT")
_OUTCOMES = [name.removeprefix("AUDIT_OUTCOME_") for name in audit.AuditOutcome.keys()[1:]]

group = Verbs(
    "audit",
    help="Who did what, from where, and how it ended; signed and chained.\n\n"
    "\b\nsouverixctl audit list --by user:alice --limit 20\nsouverixctl audit verify",
)


def row(entry: service.AuditEntry, now: datetime) -> list[Cell]:
    """An entry as a row of COLUMNS."""
    record = entry.record
    more = f" (x{record.suppressed_count})" if record.suppressed_count > 1 else ""
    return [
        age(entry, "time", now),
        record.principal,
        _short(record.action),
        record.resource,
        coloured(field_word(record, "outcome")),
        f"{record.reason}{more}",
        record.source,
        entry.domain,
        f"{entry.controller}:{entry.sequence}",
    ]


def _short(action: str) -> str:
    """A method without its package; a decision as it is."""
    service_name, slash, method = action.rpartition("/")
    return f"{service_name.rpartition('.')[2]}{slash}{method}"


@group.command("list", short_help="List audit entries.")
@click.option("--domain", default="", metavar="DOMAIN", help="Only of this domain. Default: all.")
@click.option(
    "--by",
    "principal",
    default="",
    metavar="KIND:NAME",
    help="Only of this principal, such as user:alice.",
)
@click.option(
    "--resource", default="", metavar="NAME", help="Only about this resource, such as nodes/n1."
)
@click.option(
    "--outcome", type=click.Choice(_OUTCOMES, case_sensitive=False), help="Only with this outcome."
)
@options.limit_option
@pass_session
def list_audit(
    session: Session, domain: str, principal: str, resource: str, outcome: str | None, limit: int
) -> None:
    """List audit entries, newest first.

    \b
    souverixctl audit list --outcome denied --limit 20
    souverixctl audit list --resource domains/edge-zone-a1/policies/base -o json
    """
    request = service.ListAuditEntriesRequest(
        domain=domain,
        principal=principal,
        resource=resource,
        outcome=f"AUDIT_OUTCOME_{outcome}" if outcome else None,
    )
    reply = fetch_pages(session, request, service.ListAuditEntriesResponse, "entries", limit)
    now = session.output.now
    rows = [row(each, now) for each in reply.entries]
    present(session, reply, lambda: session.output.table(COLUMNS, rows, "no audit entries"))


@group.command("watch", short_help="Follow the audit log.")
@click.option("--domain", default="", metavar="DOMAIN", help="Only of this domain. Default: all.")
@pass_session
def watch_audit(session: Session, domain: str) -> None:
    """Show entries as they are committed, from now on, until interrupted.

    \b
    souverixctl audit watch --domain edge-zone-a1 -o json
    """
    replies = follow(
        session,
        lambda _: service.WatchAuditEntriesRequest(domain=domain),
        service.WatchAuditEntriesResponse,
        None,
        "entries committed meanwhile are not shown: see `audit list`",
    )
    for reply in replies:
        if not session.output.is_table:
            session.output.step(reply)
            continue
        _, who, action, resource, outcome, *rest = row(reply.entry, session.output.now)
        time = optional_time(reply.entry, "time")
        session.output.line(
            show_exact(time) if time else "-", outcome, who, action, resource, *rest
        )


@group.command("export", short_help="Export the audit log to a file, to be verified offline.")
@click.option(
    "--out",
    "path",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; one that is there is not overwritten.",
)
@pass_session
def export(session: Session, path: Path) -> None:
    """Export every audit entry that the controller holds, of its own domain and below, with the facts that prove who
    may have written it: keys, grants, seals, the beginning of the federation.

    The file is signed by the controller, and verified by anybody who has the root's public key.

    \b
    souverixctl audit export --out audit.svxb
    souverixctl audit verify --file audit.svxb --root-key "$(cat root.pub)"
    """
    request = wire.ExportBundleRequest(for_auditors=True)
    summary, _ = fetch_export(session, request, Incoming(path.parent, path.name))
    present(session, summary, lambda: session.output.line(f"{path}: {summary.events} events"))


@group.command("verify", short_help="Verify the chains and seals of the log, or of an export.")
@click.option("--domain", default="", metavar="DOMAIN", help="Only of this domain. Default: all.")
@click.option("--all-lanes", is_flag=True, help="Every stream held, not the audit lane alone.")
@click.option(
    "--file",
    "path",
    default=None,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Verify an export here, and ask no controller.",
)
@click.option(
    "--root-key",
    default="",
    metavar="KEY",
    help="With --file: public key of the federation's root, 64 hexadecimal digits.",
)
@pass_session
def verify(
    session: Session, domain: str, all_lanes: bool, path: Path | None, root_key: str
) -> None:
    """Have the controller recompute every chain and check every seal, from the log itself; with --file, do it here,
    from an export and the root's key alone.

    Exit code 0: all intact; 8: a fault was found, or the verification did not end; 1: no stream
    matches, so nothing was verified.

    \b
    souverixctl audit verify --all-lanes
    souverixctl audit verify --file audit.svxb --root-key "$(cat root.pub)"
    """
    if path is not None:
        if domain or all_lanes or not root_key:
            raise BadInput(
                "--file takes --root-key, and verifies all that the file holds",
                "add --root-key KEY, and leave --domain and --all-lanes out",
            )
        verify_file(session, path, read_public_key(root_key))
        return
    if root_key:
        raise BadInput("--root-key is for an export", "add --file FILE")
    request = service.VerifyAuditRequest(domain=domain, all_lanes=all_lanes)
    verdicts: list[service.StreamVerdict] = []
    summary: service.VerifySummary | None = None
    with session.output.progress() as progress:
        task = progress.add_task("reading the log", total=None)
        for reply in session.connection.stream(request, service.VerifyAuditResponse):
            step = reply.WhichOneof("step")
            if step == "progress":
                seen = reply.progress
                progress.update(task, total=seen.commits_total or None, completed=seen.commits_read)
            elif step == "stream":
                verdicts.append(reply.stream)
            elif step == "summary":
                summary = reply.summary
    _present_verdicts(session, verdicts, summary)
    if summary is None:
        raise NotIntact("the verification ended without a summary", "run it again")
    faulty = max(summary.faulty_streams, sum(not each.intact for each in verdicts))
    if faulty:
        raise NotIntact(
            f"{faulty} of {summary.streams} streams are not intact",
            "keep this log as evidence; compare with the same streams at the parent controller",
        )
    if not summary.streams:
        raise CtlError("nothing was verified: no stream matches", "see `souverixctl get streams`")


def _present_verdicts(
    session: Session,
    verdicts: Iterable[service.StreamVerdict],
    summary: service.VerifySummary | None,
) -> None:
    if not session.output.is_table:
        document: dict[str, object] = {"streams": [as_document(each) for each in verdicts]}
        if summary is not None:
            document["summary"] = as_document(summary)
        session.output.document(document)
        return
    rows: list[list[Cell]] = [
        [
            coloured("intact" if each.intact else "faulty"),
            each.domain,
            f"{each.controller}#{each.incarnation}",
            each.lane,
            str(each.events),
            str(each.seals),
            each.fault,
        ]
        for each in verdicts
    ]
    columns = ("VERDICT", "DOMAIN", "ORIGIN", "LANE", "EVENTS", "SEALS", "FAULT")
    session.output.table(columns, rows, "no streams")
    if summary is not None:
        session.output.line(
            f"{summary.streams} streams, {summary.events} events,"
            f" {summary.faulty_streams} faulty; head {summary.head_hash or '-'}"
        )


verbs.get.add_command(list_audit, "audit")
verbs.watch.add_command(watch_audit, "audit")
