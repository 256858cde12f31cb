"""The table of deliveries, state by state and trigger by trigger."""

from __future__ import annotations

import itertools

import pytest
from google.protobuf.struct_pb2 import Struct

from controller.command.delivery import (
    ANSWERS,
    TERMINAL,
    TRANSITIONS,
    Answer,
    Delivery,
    DeliveryState,
    Target,
    Trigger,
    advance,
)
from controller.command.messages import delivery_from_message, delivery_to_message
from souverix.command.v1 import command_pb2

TARGET = Target("edge-zone-a1", "c1", "n1")
NOW_MS = 1_700_000_000_000
S, T = DeliveryState, Trigger
WAITING = (S.PENDING, S.DISPATCHED)

#: What the contract says follows what, written down anew: None where nothing may change.
EXPECTED: dict[tuple[DeliveryState, Trigger], DeliveryState | None] = {
    (S.PENDING, T.DISPATCH): S.DISPATCHED,
    (S.PENDING, T.EXPIRY): S.EXPIRED,
    (S.PENDING, T.CANCEL): S.CANCELLED,
    (S.PENDING, T.NODE_BARRED): S.REJECTED,
    (S.PENDING, T.DISPATCH_UNCONFIRMED): S.INDETERMINATE,
    (S.DISPATCHED, T.RESEND): S.DISPATCHED,
    (S.DISPATCHED, T.EXPIRY): S.EXPIRED,
    (S.DISPATCHED, T.DISPATCH_UNCONFIRMED): S.INDETERMINATE,
    **{(w, t): s for w in WAITING for s, t in ANSWERS.items()},
    **{(e, t): e for e in TERMINAL for t in ANSWERS.values()},
}


def answer_for(trigger: Trigger) -> Answer | None:
    return next((Answer(state) for state, known in ANSWERS.items() if known is trigger), None)


@pytest.mark.parametrize(("state", "trigger"), list(itertools.product(S, T)))
def test_every_trigger_in_every_state_does_what_the_contract_says(
    state: DeliveryState, trigger: Trigger
) -> None:
    before = Delivery(TARGET, state)
    after = advance(before, trigger, NOW_MS, fencing_token=7, answer=answer_for(trigger))
    assert (after.state if after else None) == EXPECTED.get((state, trigger))


def test_every_edge_says_why() -> None:
    assert all(edge.because for edge in TRANSITIONS.values())
    assert all(edge.reason == edge.reason.upper() for edge in TRANSITIONS.values())


def test_a_terminal_state_never_changes() -> None:
    assert all(edge.to is state for (state, _), edge in TRANSITIONS.items() if state in TERMINAL)


def test_dispatch_counts_attempts_and_keeps_the_first_time() -> None:
    first = advance(Delivery(TARGET), T.DISPATCH, NOW_MS, fencing_token=7)
    assert first is not None
    again = advance(first, T.RESEND, NOW_MS + 5, fencing_token=9)
    assert again is not None
    assert (again.attempts, again.dispatch_ms, again.update_ms) == (2, NOW_MS, NOW_MS + 5)
    assert (first.fencing_token, again.fencing_token) == (7, 9)


def test_a_late_answer_is_kept_and_the_state_stands() -> None:
    output = Struct()
    output.update({"pong": True})
    expired = advance(Delivery(TARGET, S.DISPATCHED), T.EXPIRY, NOW_MS)
    assert expired is not None
    late = advance(expired, T.NODE_SUCCEEDED, NOW_MS + 9, answer=Answer(S.SUCCEEDED, output))
    assert late is not None
    assert (late.state, late.late, late.update_ms) == (S.EXPIRED, True, NOW_MS)
    assert late.reason == "NO_ANSWER_THEN_SUCCEEDED"
    assert late.answer is not None
    assert late.answer.output == output


def test_the_first_answer_is_the_record() -> None:
    done = advance(
        Delivery(TARGET, S.DISPATCHED), T.NODE_SUCCEEDED, NOW_MS, answer=Answer(S.SUCCEEDED)
    )
    assert done is not None
    assert advance(done, T.NODE_FAILED, NOW_MS, answer=Answer(S.FAILED)) is None


@pytest.mark.parametrize("state", list(S))
def test_a_delivery_survives_its_message(state: DeliveryState) -> None:
    output = Struct()
    output.update({"uptime": 4.0})
    answered = state in TERMINAL and state is not S.INDETERMINATE
    delivery = Delivery(
        TARGET,
        state,
        "" if answered else "SOME_REASON",
        3,
        NOW_MS,
        NOW_MS + 1,
        Answer(state, output, "text") if answered else None,
        False,
        42,
    )
    assert delivery_from_message(TARGET.domain, delivery_to_message(delivery)) == delivery


def test_a_late_answer_survives_its_message() -> None:
    delivery = Delivery(
        TARGET, S.EXPIRED, "NO_ANSWER_THEN_FAILED", 1, 1, 2, Answer(S.EXPIRED, None, "x"), True, 1
    )
    assert delivery_from_message(TARGET.domain, delivery_to_message(delivery)) == delivery


def test_a_state_of_a_later_version_is_not_taken_for_one_of_ours() -> None:
    assert delivery_from_message("d", command_pb2.Delivery(state=99)) is None  # type: ignore[arg-type]
