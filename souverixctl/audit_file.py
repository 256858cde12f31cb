"""Verifying an export of the audit log, without a controller.

Owns how what is proved is shown, and what is not covered; judges nothing: `airgap.audit` does.
"""

from __future__ import annotations

from pathlib import Path

from airgap.audit import AuditReport, Standing, StreamReport, verify_audit
from airgap.errors import BundleRefused
from souverixctl.bundle import not_intact, open_file
from souverixctl.errors import CtlError, NotIntact
from souverixctl.output import Cell
from souverixctl.results import coloured
from souverixctl.session import Session

COLUMNS = ("VERDICT", "DOMAIN", "ORIGIN", "LANE", "PROVED", "EVENTS", "SEALS", "REASON")

_WORDS = {
    Standing.PROVED: "intact",
    Standing.VOID_AT_END: "void at end",
    Standing.UNPROVED: "unproved",
    Standing.BROKEN: "faulty",
}


def verify_file(session: Session, path: Path, root_key: bytes) -> None:
    """Verifies an export and shows what it proves. Raises NotIntact, CtlError."""
    with open_file(path) as file, session.output.progress() as progress:
        task = progress.add_task("audit events", total=None)
        try:
            report = verify_audit(file, root_key, lambda n: progress.advance(task, n))
        except BundleRefused as error:
            raise not_intact(path, error) from error
    if session.output.is_table:
        _show(session, path, report)
    else:
        session.output.document(_document(report))
    fault = report.first_fault
    if fault is not None:
        raise NotIntact(
            f"{path}: {_named(fault)}: {fault.reason}, {fault.where}",
            "keep the file as evidence; export again, here and at the parent, and compare",
        )
    if not any(each.stream.lane.name == "AUDIT" for each in report.streams):
        raise CtlError(f"{path} holds no audit events", "export from another controller")


def _show(session: Session, path: Path, report: AuditReport) -> None:
    rows: list[list[Cell]] = [
        [
            coloured(_WORDS[each.standing]),
            each.stream.domain,
            f"{each.stream.origin.controller}#{each.stream.origin.incarnation}",
            each.stream.lane.name.lower(),
            f"1 to {each.proved}" if each.proved else "nothing",
            str(each.events),
            str(each.seals),
            f"{each.reason}, {each.where}" if each.reason else "",
        ]
        for each in report.streams
    ]
    session.output.table(COLUMNS, rows, "no streams")
    made = report.manifest.create_time.ToDatetime().isoformat(sep=" ", timespec="seconds")
    session.output.line(
        f"{path}: made by {report.manifest.exporter} ({report.manifest.exporter_domain}) at {made} UTC, as far as it"
        " held the log then"
    )
    if report.uncovered:
        session.output.line(f"not covered, no audit events of: {', '.join(report.uncovered)}")


def _document(report: AuditReport) -> dict[str, object]:
    return {
        "exporter": report.manifest.exporter,
        "exporterDomain": report.manifest.exporter_domain,
        "createTime": report.manifest.create_time.ToJsonString(),
        "streams": [
            {
                "domain": each.stream.domain,
                "controller": each.stream.origin.controller,
                "incarnation": each.stream.origin.incarnation,
                "lane": each.stream.lane.name.lower(),
                "standing": each.standing.value,
                "firstSequence": 1,
                "provedSequence": each.proved,
                "events": each.events,
                "seals": each.seals,
                "reason": each.reason,
                "where": each.where,
            }
            for each in report.streams
        ],
        "uncoveredDomains": report.uncovered,
    }


def _named(report: StreamReport) -> str:
    stream = report.stream
    return (
        f"{stream.lane.name.lower()} of {stream.domain} by {stream.origin.controller}"
        f"#{stream.origin.incarnation}"
    )
