from __future__ import annotations

from nodeagent.dialling import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    LONGEST_RETRY_AFTER_S,
    NEXT_ADDRESS_PAUSE_S,
    RETRY_AFTER_JITTER,
    DialPlan,
)


def most() -> float:
    return 1.0


def fail(plan: DialPlan, now_s: float, retry_after_s: float | None = None) -> str:
    address = plan.next().address
    plan.ended(address, now_s, steady=False, retry_after_s=retry_after_s)
    return address


def test_the_first_dial_is_due_at_once() -> None:
    assert DialPlan(["a", "b"], most).next().not_before_s == 0


def test_walks_through_all_addresses_and_pauses_after_each_round() -> None:
    plan = DialPlan(["a", "b", "c"], most)
    walked, pauses = [], []
    for _ in range(7):
        walked.append(fail(plan, 10.0))
        pauses.append(plan.next().not_before_s - 10.0)
    assert walked == ["a", "b", "c", "a", "b", "c", "a"]
    short, first = NEXT_ADDRESS_PAUSE_S, FIRST_PAUSE_S
    expected = [short, short, first, short, short, 2 * first, short]
    assert [round(pause, 6) for pause in pauses] == expected


def test_the_pause_grows_to_a_bound_and_shrinks_after_a_steady_link() -> None:
    plan = DialPlan(["a"], most)
    for _ in range(40):
        fail(plan, 0.0)
    assert plan.next().not_before_s == LONGEST_PAUSE_S
    plan.ended("a", 0.0, steady=True, retry_after_s=None)
    assert plan.next().not_before_s == FIRST_PAUSE_S


def test_chance_spreads_the_pause_over_its_upper_half() -> None:
    plan = DialPlan(["a"], lambda: 0.0)
    fail(plan, 0.0)
    assert plan.next().not_before_s == FIRST_PAUSE_S / 2


def test_an_address_that_asked_for_patience_is_passed_over() -> None:
    plan = DialPlan(["a", "b"], lambda: 0.0)
    fail(plan, 0.0, retry_after_s=20.0)
    assert [fail(plan, 1.0) for _ in range(3)] == ["b", "b", "b"]


def test_retry_after_of_the_only_address_is_waited_for_with_jitter_and_bound() -> None:
    plan = DialPlan(["a"], most)
    fail(plan, 0.0, retry_after_s=20.0)
    assert plan.next().not_before_s == 20.0 * (1 + RETRY_AFTER_JITTER)
    fail(plan, 0.0, retry_after_s=1e9)
    assert plan.next().not_before_s == LONGEST_RETRY_AFTER_S * (1 + RETRY_AFTER_JITTER)
