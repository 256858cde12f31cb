"""Moves that evidence makes without anyone asking: which one a node's facts speak for, and in which words. Owns these
rules; that a move is legal is the table's to say (`controller/lifecycle/stages.py`), when it is looked for the duty's.

A fact counts when it is newer than the state it moves the node on from. So what was known when an operator decided
does not undo the decision, and nothing of replaced hardware speaks for what came in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from controller.connectivity.spectrum import Mode
from controller.lifecycle.stages import Stage, Transition, stage_of
from controller.lifecycle.transitions import Asked
from souverix.fleet.v1 import connectivity_pb2, lifecycle_pb2, node_pb2

#: Health must be bad for so long: longer than a restart of what runs there, or a replay that has not come to its end.
DEGRADE_AFTER_S = 30.0

#: Health must be good for so long before the node counts as recovered: what fails again within it has not recovered.
RECOVER_AFTER_S = 60.0

#: A node's own words in a reason, in characters: the report has them all.
MAX_WORDS = 200

#: Modes in which an agent has been welcomed.
ADMITTED: Final[frozenset[int]] = frozenset(
    {Mode.LIVE, Mode.DELAYED, Mode.EDGE_CACHED, Mode.RETURNING, Mode.REPLAYING}
)

#: Modes in which the last report tells of now: one that returns may still replay what was, of one that is away nothing
#: is known.
CURRENT: Final[frozenset[int]] = frozenset({Mode.LIVE, Mode.DELAYED, Mode.EDGE_CACHED})

_BAD: Final = frozenset({node_pb2.RUNTIME_HEALTH_DEGRADED, node_pb2.RUNTIME_HEALTH_FAILED})

#: With it a node is taken into service: a node that does not judge itself says nothing against it.
_ACCEPTABLE: Final = frozenset({node_pb2.RUNTIME_HEALTH_OK, node_pb2.RUNTIME_HEALTH_UNSPECIFIED})


@dataclass(frozen=True, slots=True)
class Automation:
    """Which moves need nobody, and how long health must last to make one."""

    enrolment: bool = True
    activation: bool = True
    health: bool = True
    degrade_after_s: float = DEGRADE_AFTER_S
    recover_after_s: float = RECOVER_AFTER_S


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is known of one node. Stamps are the hybrid clock's, 0 where there is no fact."""

    recorded: lifecycle_pb2.LifecycleState | None
    recorded_stamp: int = 0
    #: When it was last registered, or its hardware replaced; asked of an ENROLLED node only.
    provisioned_stamp: int = 0
    link: connectivity_pb2.LinkState | None = None
    link_stamp: int = 0
    report: node_pb2.ActualState | None = None
    report_stamp: int = 0


class Leaning(NamedTuple):
    """A move that is due once its evidence has lasted."""

    transition: Transition
    after_s: float
    reason: str


def moves_at_once(facts: NodeFacts, automation: Automation) -> list[Asked]:
    """The moves that are due now, one after the other: enrolment, activation."""
    moves: list[Asked] = []
    stage = stage_of(facts.recorded)
    provisioned = facts.provisioned_stamp
    if stage is Stage.PROVISIONING:
        provisioned = facts.recorded_stamp
        if not automation.enrolment or not _admitted_since(facts, provisioned):
            return moves
        moves.append(Asked(Transition.ENROL, f"its agent was admitted: {_link_words(facts)}"))
        stage = Stage.ENROLLED
    if stage is Stage.ENROLLED and automation.activation and _serves_since(facts, provisioned):
        moves.append(Asked(Transition.ACTIVATE, f"its agent reports: {_report_words(facts)}"))
    return moves


def leaning(facts: NodeFacts, automation: Automation) -> Leaning | None:
    """The move that the node's health speaks for.

    Only what health decided is undone by it: not a failed update, and not what an operator declared degraded.
    """
    if not automation.health or not _reports_now(facts, facts.recorded_stamp):
        return None
    stage, health = stage_of(facts.recorded), _health(facts)
    if stage is Stage.ACTIVE and health in _BAD:
        after_s = automation.degrade_after_s
        return Leaning(Transition.DEGRADE, after_s, _lasting(facts, after_s))
    if (
        stage is Stage.DEGRADED
        and health == node_pb2.RUNTIME_HEALTH_OK
        and _was_decided_by_health(facts.recorded)
    ):
        after_s = automation.recover_after_s
        return Leaning(Transition.RECOVER, after_s, _lasting(facts, after_s))
    return None


def _admitted_since(facts: NodeFacts, stamp: int) -> bool:
    return facts.link is not None and facts.link_stamp > stamp and facts.link.mode in ADMITTED


def _reports_now(facts: NodeFacts, stamp: int) -> bool:
    """Tells whether a report newer than `stamp` stands, and tells of now."""
    is_current = facts.link is not None and facts.link.mode in CURRENT
    return is_current and facts.report is not None and facts.report_stamp > stamp


def _serves_since(facts: NodeFacts, stamp: int) -> bool:
    return _reports_now(facts, stamp) and _health(facts) in _ACCEPTABLE


def _health(facts: NodeFacts) -> node_pb2.RuntimeHealth:
    if facts.report is None:
        return node_pb2.RUNTIME_HEALTH_UNSPECIFIED
    return facts.report.runtime.health


def _was_decided_by_health(recorded: lifecycle_pb2.LifecycleState | None) -> bool:
    return (
        recorded is not None
        and recorded.decided_by.startswith("controller:")
        and recorded.previous_phase == Stage.ACTIVE.phase
    )


def _link_words(facts: NodeFacts) -> str:
    if facts.link is None:
        return ""
    told = facts.link.reason or "no reason was recorded"
    return f"{Mode(facts.link.mode).name}, {told}"[:MAX_WORDS]


def _report_words(facts: NodeFacts) -> str:
    if facts.report is None:
        return ""
    version = facts.report.reported_version
    return f"health {_health_word(facts)}" + (f", version {version}"[:MAX_WORDS] if version else "")


def _lasting(facts: NodeFacts, after_s: float) -> str:
    told = facts.report.runtime.health_reason[:MAX_WORDS] if facts.report is not None else ""
    words = f"health {_health_word(facts)} for {after_s:g} s"
    return f"{words}: {told}" if told else words


def _health_word(facts: NodeFacts) -> str:
    health = _health(facts)
    if health not in node_pb2.RuntimeHealth.values():
        return str(int(health))
    if health == node_pb2.RUNTIME_HEALTH_UNSPECIFIED:
        return "not told"
    return node_pb2.RuntimeHealth.Name(health).removeprefix("RUNTIME_HEALTH_")
