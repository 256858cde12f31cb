"""The table of stages, every stage by every transition."""

from __future__ import annotations

import pytest

from controller.lifecycle.stages import ISOLATED, TRANSITIONS, Stage, Transition, stage_of
from controller.lifecycle.transitions import ALLOWED_IN_ISOLATION, takes_command
from souverix.fleet.v1 import lifecycle_pb2

S, T = Stage, Transition

_SERVICE = {
    T.ENTER_MAINTENANCE: S.MAINTENANCE_SCHEDULED,
    T.ENTER_UNSCHEDULED_MAINTENANCE: S.MAINTENANCE_UNSCHEDULED,
    T.QUARANTINE: S.QUARANTINED,
}
_OUT = {
    T.BEGIN_DECOMMISSION: S.DECOMMISSIONING_GRACEFUL,
    T.BEGIN_EMERGENCY_DECOMMISSION: S.DECOMMISSIONING_EMERGENCY,
}
_BEFORE_SERVICE = {T.QUARANTINE: S.QUARANTINED, T.REPLACE_HARDWARE: S.PROVISIONING}
_MAINTENANCE = {
    T.LEAVE_MAINTENANCE: S.ACTIVE,
    T.QUARANTINE: S.QUARANTINED,
    T.REPLACE_HARDWARE: S.PROVISIONING,
    **_OUT,
}

#: Where transitions lead; what is not here is refused.
EXPECTED: dict[Stage, dict[Transition, Stage]] = {
    S.PROVISIONING: {T.ENROL: S.ENROLLED, **_BEFORE_SERVICE, **_OUT},
    S.ENROLLED: {T.ACTIVATE: S.ACTIVE, **_BEFORE_SERVICE, **_OUT},
    S.ACTIVE: {T.BEGIN_UPDATE: S.UPDATE, T.DEGRADE: S.DEGRADED, **_SERVICE, **_OUT},
    S.UPDATE: {
        T.COMPLETE_UPDATE: S.ACTIVE,
        T.FAIL_UPDATE: S.DEGRADED,
        T.QUARANTINE: S.QUARANTINED,
        T.BEGIN_EMERGENCY_DECOMMISSION: S.DECOMMISSIONING_EMERGENCY,
    },
    S.MAINTENANCE_SCHEDULED: _MAINTENANCE,
    S.MAINTENANCE_UNSCHEDULED: _MAINTENANCE,
    S.DEGRADED: {T.RECOVER: S.ACTIVE, **_SERVICE, **_OUT},
    S.QUARANTINED: {
        T.RELEASE_FROM_QUARANTINE: S.ACTIVE,
        T.REPLACE_HARDWARE: S.PROVISIONING,
        **_OUT,
    },
    S.DECOMMISSIONING_GRACEFUL: {
        T.CONFIRM_DECOMMISSION_STEP: S.DECOMMISSIONING_GRACEFUL,
        T.RETIRE: S.RETIRED,
        T.BEGIN_EMERGENCY_DECOMMISSION: S.DECOMMISSIONING_EMERGENCY,
    },
    S.DECOMMISSIONING_EMERGENCY: {T.RETIRE: S.RETIRED},
    S.RETIRED: {},
}


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("transition", Transition)
def test_every_stage_by_every_transition(stage: Stage, transition: Transition) -> None:
    edge = TRANSITIONS.get((stage, transition))
    assert (edge.to if edge else None) == EXPECTED[stage].get(transition)


def test_every_edge_says_why_and_nothing_leads_out_of_the_end() -> None:
    assert all(edge.because for edge in TRANSITIONS.values())
    assert {before for before, _ in TRANSITIONS} == set(Stage) - {Stage.RETIRED}


def test_transitions_and_phases_are_those_of_the_contract() -> None:
    values = lifecycle_pb2.LifecycleTransition.items()
    words = {v: n.removeprefix("LIFECYCLE_TRANSITION_") for n, v in values if v}
    assert words == {t.value: t.name for t in Transition}
    phases = {v for v in lifecycle_pb2.LifecyclePhase.values() if v}
    assert phases == {stage.phase for stage in Stage}


@pytest.mark.parametrize("stage", Stage)
def test_a_recorded_state_is_found_again(stage: Stage) -> None:
    recorded = lifecycle_pb2.LifecycleState(phase=stage.phase, state=stage.state)
    assert stage_of(recorded) is stage


def test_states_this_version_does_not_tell_apart_count_as_their_phase() -> None:
    assert stage_of(None) is Stage.PROVISIONING
    unheard = lifecycle_pb2.LifecycleState(
        phase=lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE, state="AUTONOMOUS_BUFFERING"
    )
    assert stage_of(unheard) is Stage.ACTIVE
    newer = lifecycle_pb2.LifecycleState(phase=99)  # type: ignore[arg-type]
    assert stage_of(newer) is Stage.QUARANTINED


@pytest.mark.parametrize("stage", Stage)
def test_isolated_nodes_take_only_commands_that_look(stage: Stage) -> None:
    recorded = lifecycle_pb2.LifecycleState(phase=stage.phase, state=stage.state)
    assert takes_command(recorded, "apply_config") == (stage not in ISOLATED)
    assert all(takes_command(recorded, action) for action in ALLOWED_IN_ISOLATION)
