"""Conflicts: concurrent writes of one thing, and how a losing value is restored.

Owns how conflicts are shown. Never picks a value: the operator does.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from souverix.federation.v1 import conflict_pb2 as record
from souverix.federation.v1 import federation_service_pb2 as service
from souverixctl import options, verbs
from souverixctl.follow import follow
from souverixctl.output import Cell, styled
from souverixctl.pages import fetch_pages
from souverixctl.results import age, present, present_details, present_write
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import clock_time, show_exact

COLUMNS = ("CONFLICT", "DOMAIN", "SUBJECT", "ASPECT", "SIBLINGS", "WINNER", "STATE", "RECORDED")

group = Verbs(
    "conflicts",
    help="Concurrent writes of one thing: all values are kept, one wins.\n\n"
    "\b\nsouverixctl conflicts list --open",
)


def row(conflict: service.Conflict, now: datetime) -> list[Cell]:
    """A conflict as a row of COLUMNS."""
    siblings = conflict.record.siblings
    winner = next((origin(each) for each in siblings if each.winner), "")
    return [
        conflict.record.conflict_id or conflict.name.removeprefix("conflicts/"),
        conflict.record.domain,
        conflict.record.subject,
        conflict.record.aspect,
        str(len(siblings)),
        winner,
        styled("open", "red") if conflict.open else styled("resolved", "green"),
        age(conflict, "record_time", now),
    ]


def origin(sibling: record.ConflictSibling) -> str:
    """Where a sibling was written: "region-a-control:17"."""
    return f"{sibling.controller}:{sibling.sequence}"


@group.command("list", short_help="List conflicts.")
@click.option("--domain", default="", metavar="DOMAIN", help="Only of this domain. Default: all.")
@click.option("--open", "only_open", is_flag=True, help="Only those that still stand.")
@options.limit_option
@pass_session
def list_conflicts(session: Session, domain: str, only_open: bool, limit: int) -> None:
    """List recorded conflicts, newest first.

    \b
    souverixctl conflicts list --open
    """
    request = service.ListConflictsRequest(domain=domain, only_open=only_open)
    reply = fetch_pages(session, request, service.ListConflictsResponse, "conflicts", limit)
    now = session.output.now
    rows = [row(each, now) for each in reply.conflicts]
    present(session, reply, lambda: session.output.table(COLUMNS, rows, "no conflicts"))


def _fetch(session: Session, id: str) -> service.GetConflictResponse:
    request = service.GetConflictRequest(name=options.resource_name("conflicts", id))
    return session.connection.call(request, service.GetConflictResponse)


@group.command("show", short_help="Show one conflict, sibling by sibling.")
@click.argument("id", metavar="CONFLICT")
@pass_session
def show_conflict(session: Session, id: str) -> None:
    """Show one conflict: who wrote what, where and when, and which value won.

    \b
    souverixctl conflicts show 51ab…
    """
    reply = _fetch(session, id)

    def show() -> None:
        session.output.table(COLUMNS, [row(reply.conflict, session.output.now)], "")
        session.output.line()
        siblings = reply.conflict.record.siblings
        rows: list[list[Cell]] = [
            [
                styled("winner", "green") if each.winner else "",
                each.controller,
                str(each.sequence),
                each.principal,
                show_exact(clock_time(each.effective_stamp)) if each.effective_stamp else "",
                ".".join(map(str, each.term)),
                styled("optimistic", "yellow") if each.optimistic else "",
            ]
            for each in siblings
        ]
        columns = ("", "CONTROLLER", "SEQUENCE", "BY", "EFFECTIVE", "TERM", "MARKS")
        session.output.table(columns, rows, "no siblings")
        session.output.note(
            f"the values: souverixctl describe conflict {id}; to bring a loser back:"
            f" souverixctl conflicts restore {id} --controller CONTROLLER"
        )

    present(session, reply, show)


@verbs.describe.command("conflict", short_help="Describe one conflict with its values.")
@click.argument("id", metavar="CONFLICT")
@pass_session
def describe_conflict(session: Session, id: str) -> None:
    """Show everything known of a conflict, with the siblings' values in the record's order.

    \b
    souverixctl describe conflict 51ab…
    """
    reply = _fetch(session, id)
    present_details(session, reply, reply.conflict)


@group.command("watch", short_help="Follow conflicts.")
@click.option("--domain", default="", metavar="DOMAIN", help="Only of this domain. Default: all.")
@pass_session
def watch_conflicts(session: Session, domain: str) -> None:
    """Show open conflicts, then each new or resolved one, until interrupted.

    \b
    souverixctl conflicts watch --domain edge-zone-a1
    """
    replies = follow(
        session,
        lambda _: service.WatchConflictsRequest(domain=domain),
        service.WatchConflictsResponse,
        None,
        "open conflicts are shown again; one resolved meanwhile is in `conflicts list`",
    )
    for reply in replies:
        if not session.output.is_table:
            session.output.step(reply)
            continue
        id, where, subject, aspect, siblings, winner, state, _ = row(
            reply.conflict, session.output.now
        )
        session.output.line(
            state, id, where, subject, aspect, f"{siblings} siblings", f"winner {winner or '-'}"
        )


@group.command("restore", short_help="Bring a losing value back.")
@click.argument("id", metavar="CONFLICT")
@click.option(
    "--controller",
    required=True,
    metavar="CONTROLLER",
    help="Controller that wrote the value to restore.",
)
@click.option(
    "--sequence",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Which of the controller's values, by SEQUENCE of `conflicts show`; needed if it wrote several.",
)
@options.etag_option
@options.write_options
@pass_session
def restore(
    session: Session, id: str, controller: str, sequence: int, etag: str, **given: Any
) -> None:
    """Write a losing value again, having seen all of them: it supersedes every sibling.

    With --etag it does so only if no further value has come since (exit code 4: one has).

    \b
    souverixctl conflicts restore 51ab… --controller edge-zone-a1-control
    """
    write = options.read_write_options(given)
    request = service.RestoreConflictValueRequest(
        name=options.resource_name("conflicts", id),
        controller=controller,
        sequence=sequence,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.RestoreConflictValueResponse)
    present_write(
        session, reply, f"value of {controller} restored in {reply.conflict.record.subject}"
    )


verbs.get.add_command(list_conflicts, "conflicts")
verbs.get.add_command(show_conflict, "conflict")
verbs.watch.add_command(watch_conflicts, "conflicts")
