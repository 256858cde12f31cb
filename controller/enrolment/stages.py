"""The stages of an enrolment, from the moment a machine has come with a good token. Owns the table of transitions;
knows no certificate.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from souverix.trust.v1 import enrolment_pb2


class Stage(enum.IntEnum):
    """How far an enrolment got; numbers are the wire's (`EnrolmentStage`)."""

    PENDING = enrolment_pb2.ENROLMENT_STAGE_PENDING
    APPROVED = enrolment_pb2.ENROLMENT_STAGE_APPROVED
    REJECTED = enrolment_pb2.ENROLMENT_STAGE_REJECTED
    ISSUED = enrolment_pb2.ENROLMENT_STAGE_ISSUED
    LAPSED = enrolment_pb2.ENROLMENT_STAGE_LAPSED


class Step(enum.Enum):
    """What moves it on."""

    APPROVE = enum.auto()
    REJECT = enum.auto()
    FETCH = enum.auto()
    TIME_OVER = enum.auto()


class Edge(NamedTuple):
    """Where a step leads."""

    to: Stage
    because: str


TRANSITIONS: Final = {
    (Stage.PENDING, Step.APPROVE): Edge(
        Stage.APPROVED, "an operator knows the machine; without need of approval it begins here"
    ),
    (Stage.PENDING, Step.REJECT): Edge(Stage.REJECTED, "an operator does not know it"),
    (Stage.PENDING, Step.TIME_OVER): Edge(Stage.LAPSED, "nobody decided in time"),
    (Stage.APPROVED, Step.FETCH): Edge(
        Stage.ISSUED, "it asks again with the same key, and is given its certificate"
    ),
    (Stage.APPROVED, Step.REJECT): Edge(
        Stage.REJECTED, "an operator thought better of it before the certificate was there"
    ),
    (Stage.APPROVED, Step.TIME_OVER): Edge(
        Stage.LAPSED, "it did not come back for its certificate"
    ),
    (Stage.ISSUED, Step.FETCH): Edge(
        Stage.ISSUED, "the answer was lost: the same key is given the same certificate again"
    ),
}


def after(stage: Stage, step: Step) -> Stage | None:
    """Where a step leads from a stage; None: nowhere."""
    edge = TRANSITIONS.get((stage, step))
    return edge.to if edge is not None else None


def stage_at(record: enrolment_pb2.EnrolmentRecord, now_ms: int) -> Stage:
    """The stage of a recorded enrolment, its time considered."""
    stage = Stage(record.stage)
    if now_ms >= record.expire_time.ToMilliseconds():
        return after(stage, Step.TIME_OVER) or stage
    return stage
