"""Which moves a node's facts speak for: every stage by every health and mode, what is too old, what people decided."""

from __future__ import annotations

from typing import Any

import pytest

from controller.connectivity.spectrum import Mode
from controller.lifecycle.evidence import (
    ADMITTED,
    CURRENT,
    Automation,
    NodeFacts,
    leaning,
    moves_at_once,
)
from controller.lifecycle.stages import TRANSITIONS, Stage, Transition, stage_of
from souverix.fleet.v1 import connectivity_pb2, lifecycle_pb2, node_pb2

T = Transition
OK = node_pb2.RUNTIME_HEALTH_OK
DEGRADED = node_pb2.RUNTIME_HEALTH_DEGRADED
FAILED = node_pb2.RUNTIME_HEALTH_FAILED
HEALTHS: list[Any] = [None, *node_pb2.RuntimeHealth.values(), 99]
BY_HEALTH: dict[str, Any] = {"decided_by": "controller:c", "previous_phase": Stage.ACTIVE.phase}


def known(
    stage: Stage,
    mode: Any = Mode.LIVE,
    health: Any = OK,
    stamps: tuple[int, int, int] = (1, 2, 3),
    **recorded: Any,
) -> NodeFacts:
    """Facts by stage, mode and health; `stamps` are those of stage, link and report."""
    link = connectivity_pb2.LinkState(mode=mode, reason="first_contact") if mode else None
    report = None
    if health is not None:
        runtime = node_pb2.RuntimeState(health=health, health_reason="disk full")
        report = node_pb2.ActualState(reported_version="1.2.3", runtime=runtime)
    state = lifecycle_pb2.LifecycleState(phase=stage.phase, state=stage.state, **recorded)
    return NodeFacts(state, stamps[0], 1, link, stamps[1], report, stamps[2])


def at_once(facts: NodeFacts, **automation: Any) -> list[Transition]:
    return [asked.transition for asked in moves_at_once(facts, Automation(**automation))]


def lean(facts: NodeFacts, **automation: Any) -> Transition | None:
    towards = leaning(facts, Automation(**automation))
    return towards.transition if towards is not None else None


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("mode", [None, *Mode])
@pytest.mark.parametrize("health", HEALTHS)
def test_every_stage_by_every_evidence(stage: Stage, mode: Any, health: Any) -> None:
    facts = known(stage, mode, health, **BY_HEALTH)
    serves = mode in CURRENT and health in (OK, node_pb2.RUNTIME_HEALTH_UNSPECIFIED)
    expected = []
    if stage is Stage.PROVISIONING and mode in ADMITTED:
        expected = [T.ENROL, T.ACTIVATE] if serves else [T.ENROL]
    elif stage is Stage.ENROLLED and serves:
        expected = [T.ACTIVATE]
    assert at_once(facts) == expected
    towards = None
    if stage is Stage.ACTIVE and mode in CURRENT and health in (DEGRADED, FAILED):
        towards = T.DEGRADE
    elif stage is Stage.DEGRADED and mode in CURRENT and health == OK:
        towards = T.RECOVER
    assert lean(facts) == towards


def test_every_move_is_one_of_the_table() -> None:
    at = stage_of(known(Stage.PROVISIONING).recorded)
    for asked in moves_at_once(known(Stage.PROVISIONING), Automation()):
        at = TRANSITIONS[at, asked.transition].to
    assert at is Stage.ACTIVE
    assert (Stage.ACTIVE, T.DEGRADE) in TRANSITIONS
    assert (Stage.DEGRADED, T.RECOVER) in TRANSITIONS


def test_reasons_tell_the_evidence() -> None:
    enrol, activate = moves_at_once(known(Stage.PROVISIONING), Automation())
    assert enrol.reason == "its agent was admitted: LIVE, first_contact"
    assert activate.reason == "its agent reports: health OK, version 1.2.3"
    towards = leaning(known(Stage.ACTIVE, health=FAILED), Automation(degrade_after_s=5))
    assert towards is not None
    assert (towards.after_s, towards.reason) == (5, "health FAILED for 5 s: disk full")


def test_what_is_older_than_the_stage_speaks_for_nothing() -> None:
    assert at_once(known(Stage.PROVISIONING, stamps=(5, 2, 3))) == []
    assert at_once(known(Stage.PROVISIONING, stamps=(5, 6, 3))) == [T.ENROL]
    assert lean(known(Stage.ACTIVE, health=DEGRADED, stamps=(5, 2, 3))) is None
    assert lean(known(Stage.DEGRADED, stamps=(5, 2, 3), **BY_HEALTH)) is None


def test_a_node_enrolled_by_hand_is_activated_by_a_report_since_it_was_provisioned() -> None:
    assert at_once(known(Stage.ENROLLED, stamps=(5, 2, 3))) == [T.ACTIVATE]
    assert at_once(known(Stage.ENROLLED, stamps=(5, 2, 1))) == []


@pytest.mark.parametrize(
    "decided",
    [
        {"decided_by": "user:alice", "previous_phase": Stage.ACTIVE.phase},
        {"decided_by": "controller:c", "previous_phase": Stage.UPDATE.phase},
        {},
    ],
)
def test_only_what_health_decided_is_undone_by_health(decided: dict[str, Any]) -> None:
    assert lean(known(Stage.DEGRADED, **decided)) is None


def test_what_is_left_to_operators_is_not_moved() -> None:
    facts = known(Stage.PROVISIONING)
    assert at_once(facts, enrolment=False) == []
    assert at_once(facts, activation=False) == [T.ENROL]
    assert at_once(known(Stage.ENROLLED), enrolment=False) == [T.ACTIVATE]
    assert lean(known(Stage.ACTIVE, health=DEGRADED), health=False) is None
