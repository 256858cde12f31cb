"""How far a command got at one node: the states, the transitions between them, and the reason of each. Owns what may
follow what; never decides when, and never sends.

At most once rests on two edges that are absent here: nothing leads from DISPATCHED back to PENDING, and RESEND is
triggered for commands that may be repeated only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from google.protobuf.struct_pb2 import Struct


class DeliveryState(enum.IntEnum):
    """How far a command got at one node; numbers are the wire's."""

    PENDING = 1
    DISPATCHED = 2
    SUCCEEDED = 3
    FAILED = 4
    EXPIRED = 5
    CANCELLED = 6
    REJECTED = 7
    INDETERMINATE = 8


class Semantics(enum.IntEnum):
    """How often a command may reach a node; numbers are the wire's."""

    AT_MOST_ONCE = 1
    AT_LEAST_ONCE = 2


class Trigger(enum.Enum):
    """What moves a delivery."""

    DISPATCH = "the node can be reached"
    RESEND = "no answer to a command that may be repeated"
    NODE_SUCCEEDED = "the node did it"
    NODE_FAILED = "the node tried and failed"
    NODE_EXPIRED = "the node found it expired"
    NODE_CANCELLED = "the node stopped it"
    NODE_REJECTED = "the node refused it"
    EXPIRY = "its time is over"
    CANCEL = "a cancel was asked for"
    NODE_BARRED = "the node is isolated, and the command would do more than look"
    DISPATCH_UNCONFIRMED = (
        "the record of an at-most-once dispatch is of an earlier master, or was lost with the log"
    )


class Edge(NamedTuple):
    """Where a trigger leads, the reason that is recorded (UPPER_SNAKE; empty where the state says all), and why."""

    to: DeliveryState
    reason: str
    because: str


_S, _T = DeliveryState, Trigger

#: States that never change. A node's answer in one of them is kept as late.
TERMINAL: Final = frozenset(_S) - {_S.PENDING, _S.DISPATCHED}

#: The node's answers, by the state it reports.
ANSWERS: Final[dict[DeliveryState, Trigger]] = {
    _S.SUCCEEDED: _T.NODE_SUCCEEDED,
    _S.FAILED: _T.NODE_FAILED,
    _S.EXPIRED: _T.NODE_EXPIRED,
    _S.CANCELLED: _T.NODE_CANCELLED,
    _S.REJECTED: _T.NODE_REJECTED,
}

#: Every move there is. A trigger without an edge in a state changes nothing.
TRANSITIONS: Final[dict[tuple[DeliveryState, Trigger], Edge]] = {
    (_S.PENDING, _T.DISPATCH): Edge(
        _S.DISPATCHED, "", "recorded before the frame leaves, so that no crash can hide a sending"
    ),
    (_S.PENDING, _T.EXPIRY): Edge(_S.EXPIRED, "NOT_SENT", "an expired command is not begun"),
    (_S.PENDING, _T.CANCEL): Edge(
        _S.CANCELLED, "CANCELLED_BEFORE_DISPATCH", "the node never heard of it"
    ),
    (_S.PENDING, _T.NODE_BARRED): Edge(
        _S.REJECTED, "NODE_ISOLATED", "a node in quarantine or out of service is not worked on"
    ),
    (_S.PENDING, _T.DISPATCH_UNCONFIRMED): Edge(
        _S.INDETERMINATE,
        "LOG_REWOUND",
        "it is older than the rewind of the log, which may have lost the record of its dispatch",
    ),
    (_S.DISPATCHED, _T.RESEND): Edge(
        _S.DISPATCHED, "RESENT", "the node's ledger drops repeats, so asking again does no harm"
    ),
    (_S.DISPATCHED, _T.EXPIRY): Edge(
        _S.EXPIRED, "NO_ANSWER", "after its expiry nobody waits for an answer"
    ),
    (_S.DISPATCHED, _T.DISPATCH_UNCONFIRMED): Edge(
        _S.INDETERMINATE,
        "MASTER_CHANGED",
        "nothing tells whether the frame left before the master ended, and it may not leave twice",
    ),
    **{
        (waiting, answer): Edge(state, "", "the node's word on its own doing is the outcome")
        for waiting in (_S.PENDING, _S.DISPATCHED)
        for state, answer in ANSWERS.items()
    },
    **{
        (ended, answer): Edge(ended, "", "the outcome was told; the answer is kept beside it")
        for ended in sorted(TERMINAL)
        for answer in ANSWERS.values()
    },
}


class Target(NamedTuple):
    """One command at one node of one domain."""

    domain: str
    command_id: str
    node: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node said became of a command."""

    state: DeliveryState
    output: Struct | None = None
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How far a command got at one node. Times are milliseconds since the epoch by the delivering controller."""

    target: Target
    state: DeliveryState = DeliveryState.PENDING
    reason: str = ""
    attempts: int = 0
    dispatch_ms: int | None = None
    update_ms: int = 0
    answer: Answer | None = None
    #: The answer came after the terminal state.
    late: bool = False
    #: Mastership under which it was last sent; 0: not sent.
    fencing_token: int = 0

    @property
    def is_terminal(self) -> bool:
        """Tells whether the state never changes any more."""
        return self.state in TERMINAL


def advance(
    delivery: Delivery,
    trigger: Trigger,
    now_ms: int,
    *,
    fencing_token: int = 0,
    answer: Answer | None = None,
) -> Delivery | None:
    """The delivery after a trigger; None when it changes nothing.

    `fencing_token` comes with DISPATCH and RESEND, `answer` with the node's answers. A second answer to a delivery
    that has one changes nothing: the first is the record.
    """
    edge = TRANSITIONS.get((delivery.state, trigger))
    if edge is None:
        return None
    if answer is not None:
        if delivery.answer is not None:
            return None
        if delivery.is_terminal:
            reason = f"{delivery.reason}_THEN_{answer.state.name}".lstrip("_")
            return replace(delivery, reason=reason, answer=answer, late=True)
        return replace(delivery, state=edge.to, reason=edge.reason, update_ms=now_ms, answer=answer)
    if edge.to is not DeliveryState.DISPATCHED:
        return replace(delivery, state=edge.to, reason=edge.reason, update_ms=now_ms)
    return replace(
        delivery,
        state=edge.to,
        reason=edge.reason,
        update_ms=now_ms,
        attempts=delivery.attempts + 1,
        dispatch_ms=now_ms if delivery.dispatch_ms is None else delivery.dispatch_ms,
        fencing_token=fencing_token,
    )
