"""What is recorded when: changes always, successes now and then, ages honestly."""

from __future__ import annotations

from typing import Any

import pytest

from controller.attestation.policy import Expected
from controller.attestation.record import (
    MAX_PARTS_SHOWN,
    Came,
    next_record,
    quarantine,
    state_at,
    state_in,
    verified_ms,
)
from controller.attestation.statement import Measurements
from controller.attestation.states import Evidence, Integrity
from controller.attestation.verdict import Baseline, judge
from controller.lifecycle.stages import Stage, Transition
from controller.lifecycle.transitions import Asked, transit
from federation.errors import InvalidWrite, WrongState
from souverix.fleet.v1 import lifecycle_pb2
from souverix.trust.v1 import attestation_pb2
from tests.unit.controller.attestation.attestations import (
    KEY,
    MAX_AGE_MS,
    NOW_MS,
    expected,
    said,
    value,
)

PINNED = Baseline({"r": value(1)}, KEY)
ATTENTION = attestation_pb2.FAILURE_ACTION_ATTENTION
QUARANTINE = attestation_pb2.FAILURE_ACTION_QUARANTINE


def came(number: int, demands: Expected | None = None) -> Came:
    statement = said(r=number)
    verdict = judge(statement, demands or expected("r"), PINNED)
    return Came(verdict.evidence, statement, verdict.findings)


def record(before: Any, evidence: Came, now_ms: int = NOW_MS, demand_ms: int | None = None) -> Any:
    return next_record(before, evidence, expected("r"), now_ms, "c", demand_ms)


def verified(now_ms: int = NOW_MS) -> attestation_pb2.NodeAttestation:
    made = record(None, came(1), now_ms)
    assert made is not None
    entry: attestation_pb2.NodeAttestation = made.attestation
    return entry


def test_a_success_is_recorded_at_first_and_then_when_half_its_time_is_over() -> None:
    entry = verified()
    assert state_in(entry) is Integrity.VERIFIED
    assert entry.reason == "AS_EXPECTED"
    assert entry.expire_time.ToMilliseconds() == NOW_MS + MAX_AGE_MS
    half_ms = NOW_MS + MAX_AGE_MS // 2
    assert record(entry, came(1), half_ms - 1) is None
    renewed = record(entry, came(1), half_ms)
    assert renewed is not None
    assert (renewed.is_news, renewed.attestation.renewal) == (False, True)
    assert renewed.attestation.last_verified_time.ToMilliseconds() == half_ms
    assert renewed.attestation.initial_time == entry.initial_time
    assert renewed.attestation.since == entry.since


def test_what_is_recorded_is_never_newer_than_the_truth_and_at_most_half_its_time_older() -> None:
    entry: Any = None
    truth_ms = 0
    for step in range(60):
        now_ms = NOW_MS + step * 600_000
        truth_ms = now_ms
        made = record(entry, came(1), now_ms)
        entry = made.attestation if made is not None else entry
        recorded_ms = entry.last_verified_time.ToMilliseconds()
        assert 0 <= truth_ms - recorded_ms < MAX_AGE_MS / 2
        assert state_at(entry, now_ms) is Integrity.VERIFIED


def test_a_policy_that_counts_shorter_is_recorded_at_once() -> None:
    entry = verified()
    shorter = Expected((), frozenset({"r"}), 10_000, 60_000, ATTENTION)
    made = next_record(entry, came(1), shorter, NOW_MS + 1_000, "c", None)
    assert made is not None
    assert made.attestation.expire_time.ToMilliseconds() == NOW_MS + 61_000


def test_a_verification_runs_out_whether_or_not_that_is_recorded() -> None:
    entry = verified()
    end_ms = NOW_MS + MAX_AGE_MS
    assert state_at(entry, end_ms - 1) is Integrity.VERIFIED
    assert verified_ms(entry, end_ms - 1) == NOW_MS
    assert state_at(entry, end_ms) is Integrity.EXPIRED
    assert verified_ms(entry, end_ms) is None
    assert record(entry, Came(Evidence.AGED), end_ms - 1) is None
    aged = record(entry, Came(Evidence.AGED), end_ms)
    assert aged.attestation.state == Integrity.EXPIRED
    assert aged.attestation.previous_state == Integrity.VERIFIED
    assert record(aged.attestation, Came(Evidence.AGED), end_ms + 1) is None
    # Verified again before it was recorded: it had expired all the same.
    again = record(entry, came(1), end_ms)
    assert again.is_news
    assert again.attestation.previous_state == Integrity.EXPIRED


def test_a_failure_is_recorded_once_and_again_when_something_else_is_wrong() -> None:
    failed = record(verified(), came(2), NOW_MS + 1)
    assert (failed.is_news, failed.attestation.state) == (True, Integrity.FAILED)
    assert failed.attestation.previous_state == Integrity.VERIFIED
    assert failed.attestation.findings[0].parts[0].name == "r.file"
    assert record(failed.attestation, came(2), NOW_MS + 2) is None
    other = record(failed.attestation, came(3), NOW_MS + 3)
    assert other.is_news
    assert other.attestation.since == failed.attestation.since
    # The last verification stands as it was.
    assert other.attestation.last_verified_time.ToMilliseconds() == NOW_MS


def test_a_demanded_statement_is_recorded_whatever_it_says() -> None:
    answered = record(verified(), came(1), NOW_MS + 5, demand_ms=NOW_MS + 4)
    assert answered.attestation.demand_time.ToMilliseconds() == NOW_MS + 4
    assert not answered.is_news


def test_what_is_measured_anew_is_recorded_though_nothing_is_expected_of_it() -> None:
    statement = said(r=1, other=8)
    verdict = judge(statement, expected("r"), PINNED)
    made = record(verified(), Came(verdict.evidence, statement, ()), NOW_MS + 1)
    assert {each.register for each in made.attestation.registers} == {"r", "other"}
    assert made.attestation.renewal


def test_silence_is_recorded_of_a_node_that_never_attested() -> None:
    silent = record(None, Came(Evidence.SILENT))
    assert (silent.attestation.state, silent.attestation.reason) == (
        Integrity.UNKNOWN,
        "NO_ANSWER",
    )
    assert record(verified(), Came(Evidence.SILENT), NOW_MS + 1) is None


@pytest.mark.parametrize(
    ("on_failure", "is_fresh", "stage", "isolates"),
    [
        (QUARANTINE, True, Stage.ACTIVE, True),
        (QUARANTINE, True, Stage.PROVISIONING, True),
        (QUARANTINE, False, Stage.ACTIVE, False),
        (ATTENTION, True, Stage.ACTIVE, False),
        (QUARANTINE, True, Stage.QUARANTINED, False),
        (QUARANTINE, True, Stage.RETIRED, False),
    ],
)
def test_a_failure_quarantines_where_the_domain_has_it_so(
    on_failure: int, is_fresh: bool, stage: Stage, isolates: bool
) -> None:
    entry = record(verified(), came(2), NOW_MS + 1).attestation
    lived = lifecycle_pb2.LifecycleState(phase=stage.phase, state=stage.state)
    asked = quarantine(
        entry, lived, expected("r", on_failure=on_failure), is_fresh=is_fresh, principal="c"
    )
    assert (asked is not None) == isolates


def test_a_verified_node_is_not_quarantined() -> None:
    demands = expected("r", on_failure=QUARANTINE)
    assert quarantine(verified(), None, demands, is_fresh=True, principal="c") is None


def quarantined() -> lifecycle_pb2.LifecycleState:
    entry = record(verified(), came(2), NOW_MS + 1).attestation
    asked = quarantine(
        entry, None, expected("r", on_failure=QUARANTINE), is_fresh=True, principal="c"
    )
    assert asked is not None
    return transit(None, asked, NOW_MS + 1)


def release(**fields: Any) -> Asked:
    return Asked(Transition.RELEASE_FROM_QUARANTINE, "mended", **fields)


def test_release_needs_a_verification_since_or_an_override() -> None:
    held = quarantined()
    for too_early_ms in (None, NOW_MS, NOW_MS + 1):
        with pytest.raises(WrongState, match="not verified since"):
            transit(held, release(verified_ms=too_early_ms), NOW_MS + 9)
    freed = transit(held, release(verified_ms=NOW_MS + 2), NOW_MS + 9)
    assert (freed.phase, freed.requires_attestation) == (Stage.ACTIVE.phase, False)
    assert transit(held, release(overrides_attestation=True), NOW_MS + 9).phase == freed.phase


def test_release_from_another_quarantine_asks_for_no_attestation() -> None:
    asked = Asked(Transition.QUARANTINE, "bad seal", exit_condition="a new one")
    held = transit(None, asked, NOW_MS)
    assert transit(held, release(), NOW_MS + 1).phase == Stage.ACTIVE.phase


def test_an_override_belongs_to_a_release() -> None:
    with pytest.raises(InvalidWrite, match="override_attestation"):
        transit(None, Asked(Transition.ENROL, overrides_attestation=True), NOW_MS)


def test_what_a_node_measured_fills_no_log() -> None:
    names = [f"r{n}" for n in range(20)]
    parts = [(f"part-{n}", value(n)) for n in range(40)]
    registers = {name: value(9) for name in names}
    statement = Measurements(registers, "ed25519", KEY, "run", NOW_MS, lambda name: parts)
    demands = expected(*names)
    baseline = Baseline({name: value(1) for name in names}, KEY)
    verdict = judge(statement, demands, baseline)
    made = next_record(
        None, Came(verdict.evidence, statement, verdict.findings), demands, NOW_MS, "c", None
    )
    assert made is not None
    assert len(made.attestation.findings) == 20
    assert sum(len(each.parts) for each in made.attestation.findings) == MAX_PARTS_SHOWN
