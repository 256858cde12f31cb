"""When something is the matter with a node: each kind appears, is dated, and ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.attention.conditions import Condition, Judgement, Kind, Severity
from controller.attention.nodes import (
    NOT_IN_SERVICE,
    AttestationSignal,
    DriftSignal,
    NodeSignals,
    WaiverSignal,
    judge_node,
)
from controller.attention.rules import Limits
from controller.connectivity.spectrum import Mode
from controller.lifecycle.stages import Stage

NOW_MS = 1_800_000_000_000
LIMITS = Limits()
FINE = NodeSignals(
    "nodes/n1", "edge-a1", Mode.LIVE, stage=Stage.ACTIVE, report_ms=NOW_MS, node_clock_ms=NOW_MS
)
DRIFT = DriftSignal(
    Severity.HIGH, 9.0, 5.0, 5, ("target_version", "a", "b", "c", "d"), NOW_MS - 60_000
)


def judge(now_ms: int = NOW_MS, limits: Limits = LIMITS, **signals: Any) -> Judgement:
    return judge_node(replace(FINE, **signals), limits, now_ms)


def only(judged: Judgement, kind: Kind) -> Condition:
    (condition,) = judged.conditions
    assert condition.kind is kind
    assert (condition.domain, condition.subject) == ("edge-a1", "nodes/n1")
    assert condition.next_step.startswith("souverixctl ")
    return condition


def seconds(span_s: float) -> int:
    return int(span_s * 1000)


def test_nothing_is_the_matter_with_a_node_that_is_fine() -> None:
    assert judge() == Judgement()


@pytest.mark.parametrize(
    ("mode", "kind", "severity"),
    [
        (Mode.AUTONOMOUS, Kind.NODE_AUTONOMOUS, Severity.MEDIUM),
        (Mode.DISCONNECTED, Kind.NODE_DISCONNECTED, Severity.HIGH),
    ],
)
def test_a_node_that_is_cut_off(mode: Mode, kind: Kind, severity: Severity) -> None:
    found = only(judge(mode=mode, mode_since_ms=5, mode_words="connection_lost", backlog=7), kind)
    assert (found.severity, found.since_ms) == (severity, 5)
    assert "connection_lost" in found.words
    assert "7 reports" in found.words


@pytest.mark.parametrize("mode", [Mode.RETURNING, Mode.REPLAYING])
def test_a_return_is_stuck_after_a_while(mode: Mode) -> None:
    began_ms = NOW_MS - seconds(LIMITS.return_stuck_after_s)
    early = judge(mode=mode, mode_since_ms=began_ms + 1)
    assert early == Judgement((), NOW_MS + 1)
    stuck = only(judge(mode=mode, mode_since_ms=began_ms, backlog=50), Kind.NODE_RETURN_STUCK)
    assert (stuck.since_ms, stuck.extent) == (began_ms, 50.0)


def test_a_link_that_comes_and_goes_is_flapping_until_it_has_been_quiet() -> None:
    changes = [NOW_MS - seconds(60 * number) for number in range(LIMITS.flaps, 0, -1)]
    judged = judge(mode_changes_ms=changes)
    assert only(judged, Kind.NODE_FLAPPING).since_ms == changes[0]
    quiet_ms = changes[0] + seconds(LIMITS.flap_window_s)
    assert judged.look_again_ms == quiet_ms
    assert judge(quiet_ms, mode_changes_ms=changes) == Judgement()
    assert judge(mode_changes_ms=changes[1:]) == Judgement()


def test_health_by_report_and_by_lifecycle() -> None:
    degraded = only(judge(degraded=True, health_reason="hot"), Kind.NODE_UNHEALTHY)
    assert (degraded.severity, degraded.words) == (Severity.MEDIUM, "health DEGRADED: hot")
    assert only(judge(failed=True), Kind.NODE_UNHEALTHY).severity is Severity.HIGH
    declared = judge(stage=Stage.DEGRADED, stage_since_ms=7, stage_reason="fan")
    told = only(declared, Kind.NODE_UNHEALTHY)
    assert (told.since_ms, told.words) == (7, "health DEGRADED: fan")


def test_drift_names_fields_and_counts_the_rest() -> None:
    found = only(judge(drift=DRIFT), Kind.NODE_DRIFT)
    assert (found.severity, found.since_ms) == (Severity.HIGH, NOW_MS - 60_000)
    assert "target_version, a, b and 2 more" in found.words
    assert found.extent == pytest.approx(9 / 5)


def test_a_waiver_is_told_of_before_its_end() -> None:
    end_ms = NOW_MS + seconds(LIMITS.waiver_notice_s)
    waiver = WaiverSignal("target_version", end_ms, "no parts")
    judged = judge(waiver=waiver)
    found = only(judged, Kind.WAIVER_EXPIRING)
    assert (found.since_ms, judged.look_again_ms) == (NOW_MS, end_ms)
    assert judge(NOW_MS - 1, waiver=waiver) == Judgement((), NOW_MS)
    assert judge(end_ms, waiver=waiver) == Judgement()


def test_quarantine_says_why_and_how_to_leave_it_and_hides_drift_and_health() -> None:
    judged = judge(
        stage=Stage.QUARANTINED,
        stage_since_ms=3,
        stage_reason="firmware differs",
        exit_condition="firmware 2.1.3",
        drift=DRIFT,
        failed=True,
    )
    found = only(judged, Kind.NODE_QUARANTINED)
    assert found.since_ms == 3
    assert "firmware differs" in found.words
    assert "firmware 2.1.3" in found.words


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage in NOT_IN_SERVICE])
def test_a_node_that_somebody_works_on_is_no_news(stage: Stage) -> None:
    judged = judge(
        stage=stage,
        stage_since_ms=NOW_MS,
        mode=Mode.DISCONNECTED,
        failed=True,
        drift=DRIFT,
        mode_changes_ms=[NOW_MS] * 10,
    )
    assert judged.conditions == ()


def test_maintenance_beyond_its_end() -> None:
    stage = Stage.MAINTENANCE_SCHEDULED
    assert judge(stage=stage, stage_end_ms=NOW_MS + 5).look_again_ms == NOW_MS + 5
    over = judge(stage=stage, stage_end_ms=NOW_MS)
    assert only(over, Kind.MAINTENANCE_OVERDUE).since_ms == NOW_MS
    assert judge(stage=stage) == Judgement()


@pytest.mark.parametrize(
    ("stage", "kind", "limit_s"),
    [
        (Stage.UPDATE, Kind.UPDATE_STUCK, LIMITS.update_stuck_after_s),
        (
            Stage.DECOMMISSIONING_GRACEFUL,
            Kind.DECOMMISSION_STUCK,
            LIMITS.decommission_stuck_after_s,
        ),
    ],
)
def test_stages_that_last_too_long(stage: Stage, kind: Kind, limit_s: float) -> None:
    began_ms = NOW_MS - seconds(limit_s)
    assert judge(NOW_MS - 1, stage=stage, stage_since_ms=began_ms) == Judgement((), NOW_MS)
    assert only(judge(stage=stage, stage_since_ms=began_ms), kind).since_ms == began_ms


def test_a_node_claimed_by_two_domains() -> None:
    assert only(judge(claimed_twice_ms=9), Kind.NODE_CLAIMED_TWICE).since_ms == 9


def test_an_agent_that_was_refused_whatever_stage_its_node_is_in() -> None:
    refused: dict[str, Any] = {"refused_ms": 4, "refused_words": "WRONG_KEY, key ab"}
    found = only(judge(**refused), Kind.NODE_AGENT_REFUSED)
    assert (found.since_ms, found.severity) == (4, Severity.HIGH)
    assert "WRONG_KEY, key ab" in found.words
    assert only(judge(stage=Stage.RETIRED, **refused), Kind.NODE_AGENT_REFUSED)


@pytest.mark.parametrize(
    ("clock_ms", "off"),
    [
        (NOW_MS + seconds(LIMITS.node_clock_ahead_s), False),
        (NOW_MS + seconds(LIMITS.node_clock_ahead_s) + 1000, True),
        (NOW_MS - seconds(30 * 86_400), False),
        (0, True),
    ],
)
def test_a_clock_that_is_off_is_told_from_a_report_that_came_late(clock_ms: int, off: bool) -> None:
    kinds = [each.kind for each in judge(node_clock_ms=clock_ms).conditions]
    assert kinds == ([Kind.NODE_CLOCK_OFF] if off else [])


def test_a_failed_attestation_is_told_whoever_works_on_the_node() -> None:
    failed = AttestationSignal(True, 5, "agent.program NOT_AS_PINNED")
    for stage in (Stage.ACTIVE, Stage.MAINTENANCE_SCHEDULED, Stage.UPDATE):
        found = [
            each
            for each in judge(attestation=failed, stage=stage, stage_since_ms=NOW_MS).conditions
            if each.kind is Kind.ATTESTATION_FAILED
        ]
        assert [(each.severity, each.since_ms) for each in found] == [(Severity.HIGH, 5)]
        assert "agent.program NOT_AS_PINNED" in found[0].words
    assert not judge(attestation=failed, stage=Stage.RETIRED).conditions


def test_a_node_in_service_that_must_attest_and_is_not_verified() -> None:
    missing = AttestationSignal(False, 7, "EXPIRED")
    found = only(judge(attestation=missing), Kind.ATTESTATION_MISSING)
    assert (found.severity, found.since_ms) == (Severity.MEDIUM, 7)
    assert not judge(
        attestation=missing, stage=Stage.MAINTENANCE_SCHEDULED, stage_end_ms=NOW_MS + 1
    ).conditions
