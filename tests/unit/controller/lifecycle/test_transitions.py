"""What transitions must bring, the checklist, expiry, and what a transition keeps."""

from __future__ import annotations

from typing import Any

import pytest

from controller.lifecycle.stages import Stage, Transition
from controller.lifecycle.transitions import (
    CHECKLIST,
    MAX_MAINTENANCE_S,
    Asked,
    expired,
    transit,
)
from federation.errors import InvalidWrite, WrongState
from souverix.fleet.v1 import lifecycle_pb2, supply_chain_pb2

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
UNHEARD_STEP: Any = 99
T = Transition


def at(stage: Stage, **fields: Any) -> lifecycle_pb2.LifecycleState:
    return lifecycle_pb2.LifecycleState(phase=stage.phase, state=stage.state, **fields)


def test_a_transition_keeps_where_it_came_from_why_and_who() -> None:
    asked = Asked(T.QUARANTINE, "bad seal", exit_condition="new firmware", decided_by="user:a")
    entered = transit(at(Stage.MAINTENANCE_SCHEDULED), asked, NOW_MS)
    assert entered.phase == lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED
    assert entered.previous_phase == lifecycle_pb2.LIFECYCLE_PHASE_UPDATING
    assert entered.previous_state == "MAINTENANCE_SCHEDULED"
    assert (entered.reason, entered.exit_condition) == ("bad seal", "new firmware")
    assert entered.decided_by == "user:a"
    assert entered.last_transition_time.ToMilliseconds() == NOW_MS


def test_an_illegal_transition_names_the_legal_ones() -> None:
    with pytest.raises(WrongState, match="ENROL") as refused:
        transit(at(Stage.PROVISIONING), Asked(T.ACTIVATE), NOW_MS)
    assert refused.value.metadata["state"] == "PROVISIONING"
    assert refused.value.metadata["legal"].split(", ") == [
        "ENROL",
        "QUARANTINE",
        "BEGIN_DECOMMISSION",
        "BEGIN_EMERGENCY_DECOMMISSION",
        "REPLACE_HARDWARE",
    ]
    with pytest.raises(WrongState, match="legal there: none"):
        transit(at(Stage.RETIRED), Asked(T.ACTIVATE), NOW_MS)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Asked(T.QUARANTINE, exit_condition="x"), "reason"),
        (Asked(T.QUARANTINE, "why"), "exit_condition"),
        (Asked(T.RELEASE_FROM_QUARANTINE), "reason"),
        (Asked(T.BEGIN_EMERGENCY_DECOMMISSION), "reason"),
        (Asked(T.ENTER_MAINTENANCE), "expire_time"),
        (Asked(T.ENTER_MAINTENANCE, expire_ms=NOW_MS), "expire_time"),
        (
            Asked(T.ENTER_MAINTENANCE, expire_ms=NOW_MS + MAX_MAINTENANCE_S * 1000 + 1),
            "expire_time",
        ),
        (Asked(T.ENROL, expire_ms=NOW_MS + HOUR_MS), "expire_time"),
        (Asked(T.CONFIRM_DECOMMISSION_STEP), "step"),
        (Asked(T.CONFIRM_DECOMMISSION_STEP, step=UNHEARD_STEP), "step"),
        (Asked(T.REPLACE_HARDWARE), "hardware"),
    ],
)
def test_what_a_transition_must_bring_is_named(asked: Asked, field: str) -> None:
    with pytest.raises(InvalidWrite) as refused:
        transit(at(Stage.ACTIVE), asked, NOW_MS)
    assert refused.value.metadata["field"] == field


def test_a_graceful_decommissioning_goes_through_its_checklist() -> None:
    state = transit(at(Stage.ACTIVE), Asked(T.BEGIN_DECOMMISSION, "old"), NOW_MS)
    for number, step in enumerate(CHECKLIST):
        with pytest.raises(WrongState) as early:
            transit(state, Asked(T.RETIRE), NOW_MS)
        assert len(early.value.metadata["missing"].split(",")) == len(CHECKLIST) - number
        state = transit(state, Asked(T.CONFIRM_DECOMMISSION_STEP, step=step), NOW_MS)
        with pytest.raises(WrongState, match="already"):
            transit(state, Asked(T.CONFIRM_DECOMMISSION_STEP, step=step), NOW_MS)
    retired = transit(state, Asked(T.RETIRE), NOW_MS)
    assert retired.phase == lifecycle_pb2.LIFECYCLE_PHASE_RETIRED
    assert list(retired.completed_steps) == list(CHECKLIST)


def test_an_emergency_needs_no_checklist() -> None:
    state = transit(at(Stage.ACTIVE), Asked(T.BEGIN_EMERGENCY_DECOMMISSION, "stolen"), NOW_MS)
    assert transit(state, Asked(T.RETIRE), NOW_MS).phase == lifecycle_pb2.LIFECYCLE_PHASE_RETIRED


def test_maintenance_ends_by_itself_when_its_time_is_over() -> None:
    asked = Asked(T.ENTER_MAINTENANCE, expire_ms=NOW_MS + HOUR_MS)
    state = transit(at(Stage.DEGRADED), asked, NOW_MS)
    assert expired(state, NOW_MS + HOUR_MS - 1) is None
    ended = expired(state, NOW_MS + HOUR_MS)
    assert ended is not None
    assert ended.phase == lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE
    assert not ended.HasField("expire_time")
    assert "expired" in ended.reason
    assert expired(ended, NOW_MS + 2 * HOUR_MS) is None
    assert expired(None, NOW_MS) is None


def test_replaced_hardware_is_kept_in_the_history() -> None:
    old = supply_chain_pb2.HardwareIdentity(serial="HW-1")
    new = supply_chain_pb2.HardwareIdentity(serial="HW-2")
    asked = Asked(T.REPLACE_HARDWARE, "broken board", hardware=new, old_hardware=old)
    entered = transit(at(Stage.MAINTENANCE_UNSCHEDULED), asked, NOW_MS)
    assert entered.phase == lifecycle_pb2.LIFECYCLE_PHASE_PROVISIONING
    assert entered.replaced_hardware == old
