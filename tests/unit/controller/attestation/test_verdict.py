"""What a statement proves: every combination of what is expected of a register and what it holds."""

from __future__ import annotations

import itertools
import random

import pytest

from controller.attestation.states import Evidence
from controller.attestation.verdict import Baseline, accepted, forbidden, judge
from souverix.trust.v1 import attestation_pb2
from tests.unit.controller.attestation.attestations import KEY, OTHER_KEY, expected, said, value

MISSING = attestation_pb2.FINDING_REASON_MISSING
NOT_ALLOWED = attestation_pb2.FINDING_REASON_NOT_ALLOWED
NOT_AS_PINNED = attestation_pb2.FINDING_REASON_NOT_AS_PINNED

#: (measured, allowed by a rule, pinned by the policy, in the baseline) -> what is wrong with the register.
MEASURED = (None, 1, 2)
ALLOWED = (None, {1}, {1, 2}, {2})
PINNED = (False, True)
BASELINE = (None, 1, 2)


def wrong_by_definition(
    measured: int | None, allowed: set[int] | None, *, pinned: bool, baseline: int | None
) -> int | None:
    if measured is None:
        return MISSING if allowed is not None or pinned else None
    if allowed is not None and measured not in allowed:
        return NOT_ALLOWED
    if pinned and baseline is not None and measured != baseline:
        return NOT_AS_PINNED
    return None


@pytest.mark.parametrize(
    ("measured", "allowed", "pinned", "baseline"),
    list(itertools.product(MEASURED, ALLOWED, PINNED, BASELINE)),
)
def test_one_register_is_judged_as_defined(
    measured: int | None, allowed: set[int] | None, pinned: bool, baseline: int | None
) -> None:
    registers = {"r": measured} if measured is not None else {}
    statement = said(KEY, **registers)
    demands = expected(
        *(["r"] if pinned else []), rules={"r": allowed} if allowed is not None else {}
    )
    held = Baseline({"r": value(baseline)} if baseline is not None else {}, KEY)
    verdict = judge(statement, demands, held)
    wrong = wrong_by_definition(measured, allowed, pinned=pinned, baseline=baseline)
    assert [finding.reason for finding in verdict.findings] == ([wrong] if wrong else [])
    if wrong:
        assert verdict.evidence is Evidence.CONTRADICTS
        assert verdict.believed is None
    elif allowed is None and not pinned:
        assert verdict.evidence is Evidence.NOT_JUDGED
    else:
        assert verdict.evidence is Evidence.HOLDS
        new = pinned and baseline is None
        assert (verdict.believed is not None) == new


def test_a_chance_fleet_fails_by_exactly_the_registers_that_differ() -> None:
    chance = random.Random(7)
    for _ in range(500):
        names = [f"r{number}" for number in range(chance.randrange(1, 8))]
        pinned = {name: chance.randrange(4) for name in names}
        measured = {name: chance.randrange(4) for name in names if chance.random() < 0.9}
        baseline = Baseline({name: value(number) for name, number in pinned.items()}, KEY)
        verdict = judge(said(KEY, **measured), expected(*names), baseline)
        differing = sorted(n for n in names if measured.get(n) != pinned[n])
        assert [finding.register for finding in verdict.findings] == differing
        assert (verdict.evidence is Evidence.HOLDS) == (not differing)


def test_every_level_of_rules_must_hold() -> None:
    demands = expected(rules={"r": {1, 2}})
    stricter = demands.__class__(
        (*demands.rules, ("r", frozenset({value(2)}))),
        demands.pinned,
        demands.interval_ms,
        demands.max_age_ms,
        demands.on_failure,
    )
    assert judge(said(r=1), demands, Baseline()).evidence is Evidence.HOLDS
    assert judge(said(r=1), stricter, Baseline()).evidence is Evidence.CONTRADICTS
    assert judge(said(r=2), stricter, Baseline()).evidence is Evidence.HOLDS


def test_the_first_key_is_believed_where_all_holds_and_another_contradicts() -> None:
    first = judge(said(r=1), expected("r"), Baseline())
    assert first.believed == Baseline({"r": value(1)}, KEY)
    failed = judge(said(r=2), expected(rules={"r": {1}}), Baseline())
    assert failed.believed is None
    other = judge(said(OTHER_KEY, r=1), expected("r"), Baseline({"r": value(1)}, KEY))
    assert [finding.words for finding in other.findings] == ["key OTHER_KEY"]


def test_a_key_that_was_given_up_is_believed_anew_and_the_rest_stays_pinned() -> None:
    held = Baseline({"r": value(1)}, b"")
    assert judge(said(OTHER_KEY, r=1), expected("r"), held).believed == Baseline(
        {"r": value(1)}, OTHER_KEY
    )
    assert judge(said(OTHER_KEY, r=2), expected("r"), held).evidence is Evidence.CONTRADICTS


def test_a_register_pinned_later_is_believed_at_the_next_statement() -> None:
    held = Baseline({"r": value(1)}, KEY)
    assert judge(said(r=1, s=5), expected("r", "s"), held).believed == Baseline(
        {"r": value(1), "s": value(5)}, KEY
    )


def test_what_is_accepted_is_what_is_pinned_and_no_rule_is_got_around() -> None:
    registers = {"r": value(2), "s": value(9)}
    held = Baseline({"r": value(1), "old": value(3)}, KEY)
    assert accepted(registers, OTHER_KEY, expected("r"), held) == Baseline(
        {"old": value(3), "r": value(2)}, OTHER_KEY
    )
    assert forbidden(registers, expected("r", rules={"s": {1}})) == ["s"]
    assert forbidden(registers, expected("absent")) == ["absent"]
    assert forbidden(registers, expected("r")) == []
