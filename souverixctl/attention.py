"""The attention queue: what to look at first, and the marks that say that somebody does.

Owns how items are shown. Never scores anything: the controller does.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import click

from souverix.attention.v1 import attention_pb2 as attention
from souverix.attention.v1 import attention_service_pb2 as service
from souverixctl import options
from souverixctl.describe import field_word
from souverixctl.errors import BadInput
from souverixctl.follow import follow
from souverixctl.output import Cell
from souverixctl.pages import fetch_pages
from souverixctl.results import age, coloured, present, present_details, present_write, word
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import parse_duration, seconds_of, show_exact

COLUMNS = (
    "SCORE", "SEVERITY", "KIND", "DOMAIN", "SUBJECT", "NODES", "AGE", "STATE", "ITEM", "CAUSE",
    "NEXT STEP",
)  # fmt: skip

KINDS = [
    name.removeprefix("ATTENTION_KIND_").lower().replace("_", "-")
    for name, number in attention.AttentionKind.items()
    if number
]
STATES = ["open", "acknowledged", "snoozed"]
DEFAULT_VERB = "list"

#: Items shown unless the operator says otherwise: what fits a screen.
DEFAULT_LIMIT = 20


class AttentionVerbs(Verbs):
    """The group `attention`: without one of its verbs it lists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the default verb before an option."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = [DEFAULT_VERB, *args]
        return super().parse_args(ctx, args)


group = AttentionVerbs(
    "attention",
    help="What to look at first: drift, lost nodes and controllers, conflicts, failed commands.\n\n"
    "souverixctl attention lists the items, highest score first, as `attention list` does. An item is"
    " gone when its cause is. A mark says that somebody knows of it.\n\n"
    "\b\nsouverixctl attention --domain region-a --subtree\n"
    'souverixctl attention ack 0123456789abcdef --reason "technician is on the way"',
)


@group.command(DEFAULT_VERB, short_help="List items, highest score first (the default).")
@options.scope_options
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only this kind. Repeatable."
)
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES),
    help="Items in this state. Repeatable. Default: open.",
)  # fmt: skip
@click.option(
    "--min-score", type=click.FloatRange(min=0), metavar="SCORE", default=0.0, help="Least score."
)
@click.option("--watch", is_flag=True, help="Show the items, then every change, until interrupted.")
@click.option(
    "--limit", type=click.IntRange(min=0), metavar="N", default=DEFAULT_LIMIT, show_default=True,
    help="Most items to fetch; 0 for all.",
)  # fmt: skip
@pass_session
def list_items(
    session: Session,
    domain: str,
    subtree: bool,
    kinds: tuple[str, ...],
    states: tuple[str, ...],
    min_score: float,
    watch: bool,
    limit: int,
) -> None:
    """List what to look at, highest score first; without --domain everything the controller knows.

    NEXT STEP is a line to run. What a controller sees of its peers belongs to its own domain.

    \b
    souverixctl attention
    souverixctl attention --domain region-a --subtree --kind node-drift
    souverixctl attention list --state acknowledged --state snoozed
    souverixctl attention --watch -o json
    """
    asked: dict[str, Any] = {
        "domain": domain,
        "include_subtree": subtree,
        "kinds": [_number("KIND", each) for each in kinds],
        "states": [_number("STATE", each) for each in states],
        "min_score": min_score,
    }
    if watch:
        _watch(session, asked)
        return
    reply = fetch_pages(
        session, service.ListItemsRequest(**asked), service.ListItemsResponse, "items", limit
    )
    now = session.output.now
    rows = [_row(each, now) for each in reply.items]
    present(session, reply, lambda: session.output.table(COLUMNS, rows, "nothing to look at"))
    if session.output.is_table:
        if reply.left_out_count:
            session.output.note(f"{reply.left_out_count} items of lower score are left out")
        if not reply.complete:
            session.output.note("the controller has just started: not everything is looked at yet")


@group.command("show", short_help="Show one item in full.")
@click.argument("id", metavar="ITEM")
@pass_session
def show(session: Session, id: str) -> None:
    """Show everything known of an item: cause, examples, the parts of its score, its mark.

    \b
    souverixctl attention show 0123456789abcdef
    """
    request = service.GetItemRequest(name=_name(id))
    reply = session.connection.call(request, service.GetItemResponse)
    present_details(session, reply, reply.item)


@group.command("ack", short_help="Say that somebody knows of an item.")
@click.argument("id", metavar="ITEM")
@click.option("--reason", required=True, metavar="TEXT", help="What is known, or being done.")
@options.etag_option
@options.write_options
@pass_session
def acknowledge(session: Session, id: str, reason: str, etag: str, **given: Any) -> None:
    """Acknowledge an item: it is listed no more until it gets worse, grows, or its cause begins anew.

    \b
    souverixctl attention ack 0123456789abcdef --reason "technician is on the way"
    """
    write = options.read_write_options(given)
    request = service.AcknowledgeItemRequest(
        name=_name(id),
        reason=reason,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.AcknowledgeItemResponse)
    present_write(session, reply, f"{_told(reply.item)} acknowledged", reply.item.etag)


@group.command("snooze", short_help="Put an item aside for a time.")
@click.argument("id", metavar="ITEM")
@click.option(
    "--for", "period", required=True, metavar="DURATION", help="How long, such as 2h; at most 30d."
)
@click.option("--reason", required=True, metavar="TEXT", help="Why it can wait.")
@options.etag_option
@options.write_options
@pass_session
def snooze(session: Session, id: str, period: str, reason: str, etag: str, **given: Any) -> None:
    """Put an item aside: it is listed again when the time is over, if its cause still stands.

    \b
    souverixctl attention snooze 0123456789abcdef --for 2h --reason "planned work at the site"
    """
    write = options.read_write_options(given)
    length = parse_duration(period)
    if seconds_of(length) <= 0:
        raise BadInput("--for is zero", "write a duration such as 2h")
    request = service.SnoozeItemRequest(
        name=_name(id),
        reason=reason,
        snooze=length,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.SnoozeItemResponse)
    until = show_exact(reply.item.mark.snooze_until)
    present_write(session, reply, f"{_told(reply.item)} snoozed until {until}", reply.item.etag)


@group.command("reopen", short_help="Take a mark back.")
@click.argument("id", metavar="ITEM")
@click.option("--reason", default="", metavar="TEXT", help="Why.")
@options.etag_option
@options.write_options
@pass_session
def reopen(session: Session, id: str, reason: str, etag: str, **given: Any) -> None:
    """Take the mark of an item back: it is listed again.

    \b
    souverixctl attention reopen 0123456789abcdef
    """
    write = options.read_write_options(given)
    request = service.ReopenItemRequest(
        name=_name(id),
        reason=reason,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.ReopenItemResponse)
    present_write(session, reply, f"{_told(reply.item)} reopened", reply.item.etag)


def _watch(session: Session, asked: dict[str, Any]) -> None:
    replies = follow(
        session,
        lambda token: service.WatchItemsRequest(**asked, resume_token=token),
        service.WatchItemsResponse,
        lambda reply: reply.bookmark.resume_token,
        "the items are shown again from the beginning",
    )
    for reply in replies:
        step = reply.WhichOneof("event")
        if not session.output.is_table:
            session.output.step(reply)
        elif step == "removed":
            why = "ended" if reply.removed.ended else "not listed any more"
            session.output.line("removed ", reply.removed.name.removeprefix("attention/"), why)
        elif step == "bookmark":
            if reply.bookmark.initial_state_complete:
                session.output.note("that is what there is to look at; changes follow")
        elif step is not None:
            _line(session, step, getattr(reply, step))


def _line(session: Session, step: str, item: attention.AttentionItem) -> None:
    session.output.line(
        f"{step:8}",
        item.id,
        f"score {item.score:.4g}",
        word(item, "severity"),
        _kind(item),
        f"{item.domain} {item.subject}",
        word(item, "state"),
        item.cause,
        f"next: {item.next_step}",
    )


def _row(item: attention.AttentionItem, now: datetime) -> list[Cell]:
    return [
        f"{item.score:.4g}",
        word(item, "severity"),
        _kind(item),
        item.domain,
        item.subject,
        str(item.node_count or ""),
        age(item, "since", now),
        coloured(" ".join(_state(item))),
        item.id,
        item.cause,
        item.next_step,
    ]


def _state(item: attention.AttentionItem) -> Iterable[str]:
    """ "ACKNOWLEDGED by user:alice"; "UNKNOWN" too, where the item may be over."""
    yield field_word(item, "state")
    if item.mark_principal:
        yield f"by {item.mark_principal}"
    if item.HasField("unknown_since"):
        yield "(as last known)"


def _kind(item: attention.AttentionItem) -> str:
    return field_word(item, "kind").lower().replace("_", "-")


def _told(item: attention.AttentionItem) -> str:
    return f"{_kind(item)} of {item.subject}"


def _name(id: str) -> str:
    return options.resource_name("attention", id)


def _number(enum: str, chosen: str) -> int:
    name = f"ATTENTION_{enum}_{chosen.upper().replace('-', '_')}"
    kinds, states = attention.AttentionKind, attention.AttentionState
    return kinds.Value(name) if enum == "KIND" else states.Value(name)
