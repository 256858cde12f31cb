"""When a machine waits to be let in: enrolments that somebody must approve or reject. Owns this judgement over the
state of one log.
"""

from __future__ import annotations

from controller.attention.conditions import Condition, Judgement, Kind, Severity
from controller.enrolment.enrolments import ASPECT, Record
from controller.enrolment.stages import Stage, stage_at
from controller.twin.facts import body_of
from federation.identifiers import Key
from federation.state import State


def judge_enrolment(state: State, name: str, now_ms: int) -> Judgement:
    """Whether an enrolment, "{domain}/enrolments/{node}", waits for a decision; until its time is over."""
    domain, _, subject = name.partition("/")
    record: Record | None = body_of(state, Key(domain, subject, ASPECT))
    if record is None or stage_at(record, now_ms) is not Stage.PENDING:
        return Judgement()
    node = subject.partition("/")[2]
    condition = Condition(
        Kind.ENROLMENT_PENDING,
        domain,
        subject,
        Severity.MEDIUM,
        record.request_time.ToMilliseconds(),
        f"{node} came from {record.source} with token {record.token}, and waits to be let in",
        f"souverixctl enrolment show {domain}/{node}",
        nodes=1,
    )
    return Judgement((condition,), record.expire_time.ToMilliseconds())
