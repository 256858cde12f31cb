"""The stages of a node's life and the transitions between them. Owns the table; never decides who may ask for one, and
never writes.

A stage is a phase of seed 1's diagram, or where seeds 0 and 2 tell more apart (scheduled and unscheduled maintenance,
graceful and emergency decommissioning) a state within one. Connectivity is no part of it: it has a table of its own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple, cast

from souverix.fleet.v1 import lifecycle_pb2


class Stage(enum.Enum):
    """Where a node stands: the value is the phase, and the state within it ("" where the phase says all)."""

    PROVISIONING = ("PROVISIONING", "")
    ENROLLED = ("ENROLLED", "")
    ACTIVE = ("ACTIVE", "")
    UPDATE = ("UPDATING", "UPDATE")
    MAINTENANCE_SCHEDULED = ("UPDATING", "MAINTENANCE_SCHEDULED")
    MAINTENANCE_UNSCHEDULED = ("UPDATING", "MAINTENANCE_UNSCHEDULED")
    DEGRADED = ("DEGRADED", "")
    QUARANTINED = ("QUARANTINED", "")
    DECOMMISSIONING_GRACEFUL = ("DECOMMISSIONING", "DECOMMISSIONING_GRACEFUL")
    DECOMMISSIONING_EMERGENCY = ("DECOMMISSIONING", "DECOMMISSIONING_EMERGENCY")
    RETIRED = ("RETIRED", "")

    @property
    def phase(self) -> lifecycle_pb2.LifecyclePhase:
        """The phase as messages hold it."""
        number = lifecycle_pb2.LifecyclePhase.Value(f"LIFECYCLE_PHASE_{self.value[0]}")
        return cast(lifecycle_pb2.LifecyclePhase, number)

    @property
    def state(self) -> str:
        """The state within the phase; empty where none is told apart."""
        return self.value[1]


class Transition(enum.IntEnum):
    """What moves a node on; numbers are the wire's."""

    ENROL = 1
    ACTIVATE = 2
    BEGIN_UPDATE = 3
    COMPLETE_UPDATE = 4
    FAIL_UPDATE = 5
    ENTER_MAINTENANCE = 6
    ENTER_UNSCHEDULED_MAINTENANCE = 7
    LEAVE_MAINTENANCE = 8
    DEGRADE = 9
    RECOVER = 10
    QUARANTINE = 11
    RELEASE_FROM_QUARANTINE = 12
    BEGIN_DECOMMISSION = 13
    BEGIN_EMERGENCY_DECOMMISSION = 14
    CONFIRM_DECOMMISSION_STEP = 15
    RETIRE = 16
    REPLACE_HARDWARE = 17


class Edge(NamedTuple):
    """Where a transition leads, and why it is there."""

    to: Stage
    because: str


_S, _T = Stage, Transition

MAINTENANCE: Final = (_S.MAINTENANCE_SCHEDULED, _S.MAINTENANCE_UNSCHEDULED)

#: Stages whose node is isolated: it takes no command but those that look.
ISOLATED: Final = frozenset({_S.QUARANTINED, _S.DECOMMISSIONING_EMERGENCY, _S.RETIRED})

#: Every move there is. A transition without an edge at a stage is refused.
TRANSITIONS: Final[Mapping[tuple[Stage, Transition], Edge]] = {
    (_S.PROVISIONING, _T.ENROL): Edge(_S.ENROLLED, "enrolment is complete"),
    (_S.ENROLLED, _T.ACTIVATE): Edge(_S.ACTIVE, "it goes into service"),
    (_S.ACTIVE, _T.BEGIN_UPDATE): Edge(_S.UPDATE, "an update is initiated"),
    (_S.UPDATE, _T.COMPLETE_UPDATE): Edge(_S.ACTIVE, "the update is complete"),
    (_S.UPDATE, _T.FAIL_UPDATE): Edge(_S.DEGRADED, "the update failed, and the node serves on"),
    (_S.ACTIVE, _T.DEGRADE): Edge(_S.DEGRADED, "its health has become worse than it should be"),
    (_S.DEGRADED, _T.RECOVER): Edge(_S.ACTIVE, "it works as it should again"),
    **{
        (stage, transition): Edge(to, "it is taken out for work on it, until a stated time")
        for stage in (_S.ACTIVE, _S.DEGRADED)
        for transition, to in (
            (_T.ENTER_MAINTENANCE, _S.MAINTENANCE_SCHEDULED),
            (_T.ENTER_UNSCHEDULED_MAINTENANCE, _S.MAINTENANCE_UNSCHEDULED),
        )
    },
    **{
        (stage, _T.LEAVE_MAINTENANCE): Edge(_S.ACTIVE, "the work is done, or its time is over")
        for stage in MAINTENANCE
    },
    **{
        (stage, _T.QUARANTINE): Edge(_S.QUARANTINED, "it cannot be trusted or has failed badly")
        for stage in (
            _S.PROVISIONING,
            _S.ENROLLED,
            _S.ACTIVE,
            _S.DEGRADED,
            _S.UPDATE,
            *MAINTENANCE,
        )
    },
    (_S.QUARANTINED, _T.RELEASE_FROM_QUARANTINE): Edge(_S.ACTIVE, "the remediation is complete"),
    **{
        (stage, _T.BEGIN_DECOMMISSION): Edge(
            _S.DECOMMISSIONING_GRACEFUL, "it is taken out of service in order"
        )
        for stage in (
            _S.PROVISIONING,
            _S.ENROLLED,
            _S.ACTIVE,
            _S.DEGRADED,
            _S.QUARANTINED,
            *MAINTENANCE,
        )
    },
    **{
        (stage, _T.BEGIN_EMERGENCY_DECOMMISSION): Edge(
            _S.DECOMMISSIONING_EMERGENCY, "it is isolated now; order comes later"
        )
        for stage in _S
        if stage not in (_S.DECOMMISSIONING_EMERGENCY, _S.RETIRED)
    },
    (_S.DECOMMISSIONING_GRACEFUL, _T.CONFIRM_DECOMMISSION_STEP): Edge(
        _S.DECOMMISSIONING_GRACEFUL, "a step of the checklist is done"
    ),
    (_S.DECOMMISSIONING_GRACEFUL, _T.RETIRE): Edge(_S.RETIRED, "the whole checklist is done"),
    (_S.DECOMMISSIONING_EMERGENCY, _T.RETIRE): Edge(
        _S.RETIRED, "isolated already; nothing is owed"
    ),
    **{
        (stage, _T.REPLACE_HARDWARE): Edge(
            _S.PROVISIONING, "other hardware must be provisioned and enrolled anew; the twin stays"
        )
        for stage in (_S.PROVISIONING, _S.ENROLLED, _S.QUARANTINED, *MAINTENANCE)
    },
}


def stage_of(recorded: lifecycle_pb2.LifecycleState | None) -> Stage:
    """The stage a recorded state stands for; a node of which none is recorded has only been registered.

    A state that this version does not tell apart counts as the phase's first stage.
    """
    if recorded is None or not recorded.phase:
        return Stage.PROVISIONING
    known = recorded.phase in lifecycle_pb2.LifecyclePhase.values()
    of_phase = [stage for stage in Stage if known and stage.phase == recorded.phase]
    exact = [stage for stage in of_phase if stage.state == recorded.state]
    return (*exact, *of_phase, Stage.QUARANTINED)[0]


def legal_from(stage: Stage) -> list[Transition]:
    """The transitions that lead on from a stage."""
    return [transition for transition in Transition if (stage, transition) in TRANSITIONS]
