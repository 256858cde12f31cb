"""What an operator's mark means for an item. Owns when a mark counts, and what a new one may be; never writes one.

A mark names the occurrence it was made for. It counts until it is taken back, until what it put aside is due, until the
item has become worse or touches twice as many nodes, or until all that it was made for is over.
"""

from __future__ import annotations

import enum
from typing import Final

from controller.attention.conditions import UNDATED
from controller.attention.queue import Item
from controller.twin.facts import timestamp
from federation.errors import InvalidWrite, WrongState
from souverix.attention.v1 import attention_pb2

#: Growth after which a mark on it does not speak for an item any more.
GROWN_FACTOR = 2

#: Longest time an item is put aside: what nobody wants to see for longer is no matter for the queue.
MAX_SNOOZE_S = 30 * 86_400

#: Why a controller takes a mark back.
CAUSE_ENDED = "its cause has ended"


class MarkState(enum.IntEnum):
    """Where an item stands with the operators; numbers are the wire's (`AttentionState`)."""

    OPEN = 1
    ACKNOWLEDGED = 2
    SNOOZED = 3


#: States of a mark that says something; OPEN takes an earlier one back.
STANDING: Final = (
    attention_pb2.ATTENTION_STATE_ACKNOWLEDGED,
    attention_pb2.ATTENTION_STATE_SNOOZED,
)


def counts(mark: attention_pb2.AttentionMark, item: Item) -> bool:
    """Tells whether a mark speaks for an item as it is."""
    if mark.state not in STANDING:
        return False
    if mark.severity and item.severity > mark.severity:
        return False
    if mark.node_count and item.nodes >= GROWN_FACTOR * mark.node_count:
        return False
    if item.kind in UNDATED or not mark.HasField("occurrence_time"):
        return True
    return item.since_ms <= mark.occurrence_time.ToMilliseconds()


def state_of(mark: attention_pb2.AttentionMark | None, item: Item, now_ms: int) -> MarkState:
    """Where an item stands now."""
    if mark is None or not counts(mark, item):
        return MarkState.OPEN
    if (
        mark.state == attention_pb2.ATTENTION_STATE_SNOOZED
        and now_ms >= mark.snooze_until.ToMilliseconds()
    ):
        return MarkState.OPEN
    return MarkState(mark.state)


def check_reason(reason: str) -> None:
    """Raises `InvalidWrite` for a mark that does not say why."""
    if not reason:
        raise InvalidWrite(
            "reason is required: say what is known, or being done, or why it can wait",
            field="reason",
        )


def check_snooze(snooze_ms: int) -> int:
    """How long an item may be put aside. Raises `InvalidWrite`."""
    if not 0 < snooze_ms <= MAX_SNOOZE_S * 1000:
        raise InvalidWrite(
            f"snooze must be longer than nothing and at most {MAX_SNOOZE_S // 86_400} days",
            field="snooze",
        )
    return snooze_ms


def acknowledgement(item: Item, reason: str, now_ms: int) -> attention_pb2.AttentionMark:
    """A mark that somebody knows of an item."""
    return _mark(item, MarkState.ACKNOWLEDGED, reason, now_ms)


def snooze(item: Item, reason: str, snooze_ms: int, now_ms: int) -> attention_pb2.AttentionMark:
    """A mark that puts an item aside."""
    mark = _mark(item, MarkState.SNOOZED, reason, now_ms)
    mark.snooze_until.CopyFrom(timestamp(now_ms + snooze_ms))
    return mark


def reopening(
    item: Item, held: attention_pb2.AttentionMark | None, reason: str, now_ms: int
) -> attention_pb2.AttentionMark:
    """Takes a mark back. Raises `WrongState` where there is none."""
    if held is None or held.state not in STANDING:
        raise WrongState(
            f"attention/{item.id} is neither acknowledged nor snoozed; there is nothing to take back",
            subject=f"attention/{item.id}",
            domain=item.domain,
        )
    return _mark(item, MarkState.OPEN, reason, now_ms)


def ending(held: attention_pb2.AttentionMark) -> attention_pb2.AttentionMark:
    """Takes back the mark of an item whose cause has ended, so that it does not speak for the next occurrence."""
    return attention_pb2.AttentionMark(
        state=attention_pb2.ATTENTION_STATE_OPEN,
        reason=CAUSE_ENDED,
        kind=held.kind,
        subject=held.subject,
    )


def _mark(item: Item, state: MarkState, reason: str, now_ms: int) -> attention_pb2.AttentionMark:
    mark = attention_pb2.AttentionMark(
        state=int(state),  # type: ignore[arg-type]
        reason=reason,
        node_count=item.nodes,
        severity=int(item.severity),  # type: ignore[arg-type]
        kind=int(item.kind),  # type: ignore[arg-type]
        subject=item.subject,
    )
    # Of many taken together some come and go: the mark speaks for all that were there when it was made.
    mark.occurrence_time.CopyFrom(timestamp(now_ms if item.is_group else item.since_ms))
    return mark
