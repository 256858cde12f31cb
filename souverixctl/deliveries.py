"""How a command and what became of it at each node are shown.

Owns the tables of commands and of their deliveries. Never calls a controller.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from souverix.command.v1 import command_pb2 as command
from souverixctl.describe import field_word, time_text
from souverixctl.output import Cell
from souverixctl.results import age, coloured
from souverixctl.session import Session

COLUMNS = ("COMMAND", "ACTION", "SEMANTICS", "BY", "ISSUED", "EXPIRES", "DONE", "STATES")


def states(issued: command.Command) -> str:
    """How many targets are in which state: "2 SUCCEEDED, 1 PENDING"."""
    counts = Counter(field_word(each, "state") or "UNKNOWN" for each in issued.deliveries)
    missing = issued.total_targets - len(issued.deliveries)
    if missing > 0:
        counts["not known here"] = missing
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def row(issued: command.Command, now: datetime) -> list[Cell]:
    """A command as a row of COLUMNS."""
    done = f"{issued.finished_targets}/{issued.total_targets}"
    return [
        issued.id,
        (issued.action.WhichOneof("action") or "").replace("_", "-"),
        field_word(issued, "semantics"),
        issued.principal,
        age(issued, "issue_time", now),
        age(issued, "expire_time", now),
        f"{done} cancel requested" if issued.cancel_requested and not issued.done else done,
        states(issued),
    ]


def show_cancel(session: Session, issued: command.Command) -> None:
    """Who asked to stop it, when and why; nothing where nobody did."""
    if issued.HasField("cancel_time"):
        asked = time_text(issued.cancel_time, session.output.now)
        why = issued.cancel_reason or "no reason given"
        session.output.line(f"cancel requested {asked} by {issued.cancel_principal}: {why}")


def show_deliveries(session: Session, issued: command.Command) -> None:
    """A line for each target known to the controller."""
    now = session.output.now
    rows: list[list[Cell]] = [
        [
            each.node,
            coloured(field_word(each, "state")),
            each.reason,
            str(each.attempts),
            age(each, "update_time", now),
            each.error_message or one_line(each),
            "late result" if each.late_result else "",
        ]
        for each in issued.deliveries
    ]
    columns = ("NODE", "STATE", "REASON", "SENT", "AGE", "ANSWER", "MARKS")
    session.output.table(columns, rows, "no target is known here yet")


def one_line(delivery: command.Delivery) -> str:
    """A node's answer as "key=value" pairs, cut to a line."""
    answers = sorted((key, _value(value)) for key, value in delivery.output.items())
    shown = ", ".join(f"{key}={value}" for key, value in answers if value)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def _value(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
