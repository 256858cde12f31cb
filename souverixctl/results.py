"""How results of every noun are shown: the marks, the freshness, and what became of a write.

Owns words and styles that all tables share. Never prints a value without saying that it is
optimistic, conflicted or old where the reply says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from souverix.receipt.v1.receipt_pb2 import WriteReceipt
from souverixctl.describe import describe as describe_lines
from souverixctl.describe import field_word
from souverixctl.output import Cell, styled
from souverixctl.session import Session
from souverixctl.times import show_age

# Words that mean the same wherever they stand.
_STYLES = {
    "green": {"LIVE", "ACTIVE", "OK", "SUCCEEDED", "ALLOWED", "intact", "IN_SPEC", "VERIFIED"},
    "yellow": {
        "DELAYED", "EDGE_CACHED", "AUTONOMOUS", "RETURNING", "REPLAYING", "CATCHING_UP", "GREETING",
        "ADMITTED", "RECONCILING",
        "DRIFTING", "MEDIUM", "UPDATING", "DEGRADED", "PENDING", "DISPATCHED", "OBSERVED", "PROVISIONING", "ENROLLED",
    },
    "red": {
        "DISCONNECTED", "FAILED", "QUARANTINED", "EXPIRED", "REJECTED", "INDETERMINATE", "DENIED",
        "CANCELLED", "UNSIGNED", "UNVERIFIABLE", "faulty", "HIGH", "CRITICAL",
    },
}  # fmt: skip
_STYLE_OF = {word: style for style, words in _STYLES.items() for word in words}


def word(message: Message, field: str) -> Text:
    """A cell with the word of an enum field, coloured by what it means."""
    return coloured(field_word(message, field))


def coloured(text: str) -> Text:
    """A cell with a word that means the same everywhere."""
    return styled(text, _STYLE_OF.get(text, ""))


def marks(*, optimistic: bool, conflicts: Iterable[str]) -> Text:
    """A cell with what a reader must not overlook: "optimistic", "conflict: policy"."""
    parts = [styled("optimistic", "yellow")] if optimistic else []
    conflicted = list(conflicts)
    if conflicted:
        parts.append(styled(f"conflict: {', '.join(conflicted)}", "red"))
    return Text(" ").join(parts) if parts else styled("")


def term_path(path: Sequence[int]) -> str:
    """A term path as "1.3.2"."""
    return ".".join(map(str, path))


def optional_time(message: Message, field: str) -> Timestamp | None:
    """The time in a field, None when it is absent."""
    if not message.HasField(field):
        return None
    time: Timestamp = getattr(message, field)
    return time


def age(message: Message, field: str, now: datetime) -> str:
    """A cell with the age of a time field."""
    return show_age(optional_time(message, field), now)


def present(session: Session, reply: Message, show: Callable[[], None]) -> None:
    """The reply in JSON or YAML, or shown for people by `show`."""
    if session.output.is_table:
        show()
    else:
        session.output.message(reply)


def present_rows(
    session: Session,
    reply: Message,
    columns: Sequence[str],
    row: Callable[[Any, datetime], list[Cell]],
    items: Iterable[Any],
    none: str = "",
) -> None:
    """The reply in JSON or YAML, or a table with a row for each item; `none` says that there are none."""
    rows = [row(each, session.output.now) for each in items]
    present(session, reply, lambda: session.output.table(columns, rows, none))


def present_details(session: Session, reply: Message, subject: Message) -> None:
    """The reply in JSON or YAML, or its subject in the long form."""

    def show() -> None:
        for line in describe_lines(subject, session.output.now):
            session.output.line(Text(line))

    present(session, reply, show)


def present_write(session: Session, reply: Message, done: str, etag: str = "") -> None:
    """What became of a write: `done` says what was written, such as "policy a1/p1 set"."""
    receipt: WriteReceipt = getattr(reply, "receipt", WriteReceipt())

    def show() -> None:
        if not receipt.domain and not receipt.repeated_request:
            session.output.line("valid: nothing was written (--validate-only)")
            return
        parts = [done]
        if etag:
            parts.append(f"etag {etag}")
        parts.append(f"by {receipt.controller}")
        if receipt.durable_at:
            parts.append(f"durable at {', '.join(receipt.durable_at)}")
        session.output.line(*parts)

    present(session, reply, show)
    if receipt.optimistic:
        session.output.warn(
            f"written by {receipt.controller} under its autonomy: optimistic until the"
            " master-of-record has seen it"
        )
    if receipt.repeated_request:
        session.output.note("this request id was carried out before: this is the first outcome")


def note_freshness(session: Session, reply: Message) -> None:
    """Say how old what the controller knows is; nothing known is said too."""
    if session.output.is_table:
        as_of = optional_time(reply, "as_of_time")
        if as_of is None:
            session.output.note("as of: nothing has arrived here yet")
        else:
            session.output.note(f"as of {show_age(as_of, session.output.now)} ago")
