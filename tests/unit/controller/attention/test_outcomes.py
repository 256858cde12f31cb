"""Commands that ended badly: counted by outcome, shown for a time, and gone when an answer turns out well."""

from __future__ import annotations

from controller.attention.conditions import Judgement, Severity
from controller.attention.outcomes import CommandAt, CommandOutcomes
from controller.attention.rules import Limits
from controller.twin.facts import timestamp
from souverix.command.v1 import command_pb2

NOW_MS = 1_800_000_000_000
AT = CommandAt("edge-a1", "c1")
LIMITS = Limits()
FAILED = command_pb2.DELIVERY_STATE_FAILED
EXPIRED = command_pb2.DELIVERY_STATE_EXPIRED
INDETERMINATE = command_pb2.DELIVERY_STATE_INDETERMINATE
SUCCEEDED = command_pb2.DELIVERY_STATE_SUCCEEDED


def delivery(state: command_pb2.DeliveryState, ended_ms: int = NOW_MS) -> command_pb2.Delivery:
    return command_pb2.Delivery(state=state, update_time=timestamp(ended_ms))


def test_a_command_that_failed_at_some_nodes_is_one_condition() -> None:
    outcomes = CommandOutcomes()
    for number in range(4):
        outcomes.take_note(AT, f"n{number}", delivery(FAILED, NOW_MS - number), 0)
    outcomes.take_note(AT, "n9", delivery(INDETERMINATE, NOW_MS), 0)
    outcomes.take_note(AT, "fine", delivery(SUCCEEDED), 0)
    judged = outcomes.judge(AT, LIMITS, NOW_MS)
    (found,) = judged.conditions
    assert (found.subject, found.nodes, found.severity) == ("commands/c1", 5, Severity.HIGH)
    assert found.since_ms == NOW_MS - 3
    assert found.words == "INDETERMINATE at 1, FAILED at 4 of its nodes: n0, n1, n2 and 2 more"
    assert judged.look_again_ms == NOW_MS + int(LIMITS.outcome_shown_for_s * 1000)


def test_it_is_shown_for_a_time() -> None:
    outcomes = CommandOutcomes()
    outcomes.take_note(AT, "n1", delivery(EXPIRED), 0)
    end_ms = NOW_MS + int(LIMITS.outcome_shown_for_s * 1000)
    assert outcomes.judge(AT, LIMITS, end_ms - 1).conditions
    assert outcomes.judge(AT, LIMITS, end_ms) == Judgement()
    assert outcomes.judge(AT, LIMITS, NOW_MS) == Judgement()


def test_a_delivery_without_a_time_is_dated_by_its_event_and_a_good_end_takes_it_off() -> None:
    outcomes = CommandOutcomes()
    outcomes.take_note(AT, "n1", command_pb2.Delivery(state=FAILED), NOW_MS - 7)
    assert outcomes.judge(AT, LIMITS, NOW_MS).conditions[0].since_ms == NOW_MS - 7
    outcomes.take_note(AT, "n1", delivery(SUCCEEDED), 0)
    assert outcomes.judge(AT, LIMITS, NOW_MS) == Judgement()
