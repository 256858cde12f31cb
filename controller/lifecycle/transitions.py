"""A transition of one node: whether it may be, what it must bring, and the state it leads to. Owns these rules; which
stage follows which is the table's in `controller/lifecycle/stages.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from controller.lifecycle.stages import (
    ISOLATED,
    MAINTENANCE,
    TRANSITIONS,
    Stage,
    Transition,
    legal_from,
    stage_of,
)
from federation.errors import InvalidWrite, WrongState
from souverix.fleet.v1 import lifecycle_pb2, supply_chain_pb2

_T = Transition

#: Longest maintenance: longer is another phase of life.
MAX_MAINTENANCE_S = 90 * 24 * 3600

#: Transitions that must say why: others read it when they decide what follows.
NEEDS_REASON: Final = frozenset(
    {
        _T.QUARANTINE,
        _T.RELEASE_FROM_QUARANTINE,
        _T.BEGIN_DECOMMISSION,
        _T.BEGIN_EMERGENCY_DECOMMISSION,
    }
)

_ENTERS_MAINTENANCE = frozenset({_T.ENTER_MAINTENANCE, _T.ENTER_UNSCHEDULED_MAINTENANCE})

#: What only some transitions bring, and must: field -> transitions.
BRINGS: Final = {
    "expire_time": _ENTERS_MAINTENANCE,
    "exit_condition": frozenset({_T.QUARANTINE}),
    "step": frozenset({_T.CONFIRM_DECOMMISSION_STEP}),
    "hardware": frozenset({_T.REPLACE_HARDWARE}),
}

#: The checklist of a graceful decommissioning (seed 2), in the order in which it is usually done.
CHECKLIST: Final[tuple[lifecycle_pb2.DecommissionStep, ...]] = (
    lifecycle_pb2.DECOMMISSION_STEP_WORKLOAD_MOVED,
    lifecycle_pb2.DECOMMISSION_STEP_DATA_EXPORTED,
    lifecycle_pb2.DECOMMISSION_STEP_CERTIFICATES_REVOKED,
    lifecycle_pb2.DECOMMISSION_STEP_AUDIT_CLOSED,
)

#: Actions that an isolated node still takes: they look, and change nothing.
ALLOWED_IN_ISOLATION: Final = frozenset({"ping", "refresh_inventory"})

#: By these a node goes back towards service: by other hardware it is enrolled and activated anew.
_ENDS_QUARANTINE: Final = frozenset({_T.RELEASE_FROM_QUARANTINE, _T.REPLACE_HARDWARE})


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for."""

    transition: Transition
    reason: str = ""
    expire_ms: int | None = None
    exit_condition: str = ""
    step: lifecycle_pb2.DecommissionStep = lifecycle_pb2.DECOMMISSION_STEP_UNSPECIFIED
    hardware: supply_chain_pb2.HardwareIdentity | None = None
    decided_by: str = ""
    #: The hardware the node stands on.
    old_hardware: supply_chain_pb2.HardwareIdentity | None = field(default=None)
    #: Of a quarantine: it ends with a verification only.
    requires_attestation: bool = False
    #: Of what ends a quarantine: when the node was last verified, as far as that counts now; and that it need not be.
    verified_ms: int | None = None
    overrides_attestation: bool = False


def transit(
    recorded: lifecycle_pb2.LifecycleState | None, asked: Asked, now_ms: int
) -> lifecycle_pb2.LifecycleState:
    """The state after a transition. Raises `InvalidWrite` for what it brings, `WrongState` where it may not be."""
    _check_brought(asked, now_ms)
    before = stage_of(recorded)
    edge = TRANSITIONS.get((before, asked.transition))
    if edge is None:
        legal = ", ".join(t.name for t in legal_from(before)) or "none"
        raise WrongState(
            f"{asked.transition.name} does not lead on from {before.name}; legal there: {legal}",
            phase=before.value[0],
            state=before.name,
            legal=legal,
        )
    if asked.transition in _ENDS_QUARANTINE:
        _check_attested(recorded, asked)
    entered = lifecycle_pb2.LifecycleState(
        phase=edge.to.phase,
        state=edge.to.state,
        last_transition_time=_timestamp(now_ms),
        reason=asked.reason,
        decided_by=asked.decided_by,
    )
    if recorded is not None:
        entered.previous_phase = recorded.phase
        entered.previous_state = recorded.state
    if asked.expire_ms is not None:
        entered.expire_time.CopyFrom(_timestamp(asked.expire_ms))
    entered.exit_condition = asked.exit_condition
    entered.requires_attestation = asked.requires_attestation
    if asked.transition is _T.REPLACE_HARDWARE and asked.old_hardware is not None:
        entered.replaced_hardware.CopyFrom(asked.old_hardware)
    if recorded is not None and before is Stage.DECOMMISSIONING_GRACEFUL:
        _go_through_checklist(entered, recorded, asked)
    return entered


def expired(
    recorded: lifecycle_pb2.LifecycleState | None, now_ms: int
) -> lifecycle_pb2.LifecycleState | None:
    """The state after maintenance whose time is over; None while it is not, or where there is none."""
    if recorded is None or stage_of(recorded) not in MAINTENANCE:
        return None
    if not recorded.HasField("expire_time") or now_ms < recorded.expire_time.ToMilliseconds():
        return None
    reason = "maintenance expired: nobody ended or extended it"
    return transit(recorded, Asked(_T.LEAVE_MAINTENANCE, reason), now_ms)


def takes_command(recorded: lifecycle_pb2.LifecycleState | None, action: str) -> bool:
    """Tells whether a node may be sent a new command; `action` is the name of the action's kind."""
    return stage_of(recorded) not in ISOLATED or action in ALLOWED_IN_ISOLATION


def _check_brought(asked: Asked, now_ms: int) -> None:
    if not asked.reason and asked.transition in NEEDS_REASON:
        raise InvalidWrite(f"{asked.transition.name} needs a reason", field="reason")
    brought = {
        "expire_time": asked.expire_ms is not None,
        "exit_condition": bool(asked.exit_condition),
        "step": bool(asked.step),
        "hardware": asked.hardware is not None,
    }
    for name, transitions in BRINGS.items():
        needed = asked.transition in transitions
        if needed and not brought[name]:
            raise InvalidWrite(f"{asked.transition.name} needs {name}", field=name)
        if brought[name] and not needed:
            raise InvalidWrite(f"{asked.transition.name} takes no {name}; leave it out", field=name)
    if asked.overrides_attestation and asked.transition not in _ENDS_QUARANTINE:
        raise InvalidWrite(
            f"{asked.transition.name} takes no override_attestation; leave it out",
            field="override_attestation",
        )
    if asked.overrides_attestation and not asked.reason:
        raise InvalidWrite("override_attestation needs a reason", field="reason")
    if asked.step and asked.step not in CHECKLIST:
        raise InvalidWrite(f"step {asked.step} is none of the checklist", field="step")
    if asked.expire_ms is None:
        return
    if not now_ms < asked.expire_ms <= now_ms + MAX_MAINTENANCE_S * 1000:
        days = MAX_MAINTENANCE_S // 86_400
        raise InvalidWrite(
            f"expire_time must be ahead, by at most {days} days", field="expire_time"
        )


def _check_attested(recorded: lifecycle_pb2.LifecycleState | None, asked: Asked) -> None:
    """A node whose attestation failed is released once it was verified since, unless somebody says it need not be."""
    if recorded is None or not recorded.requires_attestation or asked.overrides_attestation:
        return
    since_ms = recorded.last_transition_time.ToMilliseconds()
    if asked.verified_ms is None or asked.verified_ms <= since_ms:
        raise WrongState(
            "its attestation failed, and it was not verified since: put right what is wrong, have it attest with "
            "'souverixctl attestation attest NODE --wait', and release it then; or override that "
            "(override_attestation) with a reason",
            phase="QUARANTINED",
            state="",
            missing="attestation",
        )


def _go_through_checklist(
    entered: lifecycle_pb2.LifecycleState,
    recorded: lifecycle_pb2.LifecycleState,
    asked: Asked,
) -> None:
    """Keeps what is done; nothing is confirmed twice, and nothing is retired with steps left."""
    done = list(recorded.completed_steps)
    names = lifecycle_pb2.DecommissionStep
    if asked.step:
        if asked.step in done:
            raise WrongState(
                f"{names.Name(asked.step)} is confirmed already", step=names.Name(asked.step)
            )
        done.append(asked.step)
    left = [names.Name(step) for step in CHECKLIST if step not in done]
    if asked.transition is _T.RETIRE and left:
        raise WrongState(
            f"steps are left before it may be retired: {', '.join(left)}; confirm them with "
            "CONFIRM_DECOMMISSION_STEP",
            phase="DECOMMISSIONING",
            state=Stage.DECOMMISSIONING_GRACEFUL.name,
            missing=",".join(left),
        )
    entered.completed_steps.extend(done)


def _timestamp(wall_ms: int) -> Timestamp:
    return Timestamp(seconds=wall_ms // 1000, nanos=wall_ms % 1000 * 1_000_000)
