"""What an item weighs, and from when on something is worth an item. Owns the defaults with their reasons, and the
score; never looks at facts.

    score = kind x severity x age x nodes x extent x domain
    age    = 1 + age / age_doubles_after, at most age_cap
    nodes  = 1 + log10(nodes)
    extent = 1 + log10(extent)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from controller.attention.conditions import Kind, Severity

#: Weights of kinds: 10 is usual. What endangers the fleet's command comes before a node, a node that cannot be trusted
#: before one that is merely wrong, and what only announces itself last.
KIND_WEIGHTS: Final[Mapping[Kind, float]] = MappingProxyType(
    {
        Kind.AUTHORITY_MISMATCH: 30.0,
        Kind.STREAM_QUARANTINED: 25.0,
        Kind.CONTROLLER_CUT_OFF: 20.0,
        Kind.NODE_QUARANTINED: 15.0,
        Kind.NODE_AGENT_REFUSED: 15.0,
        Kind.NODE_CLAIMED_TWICE: 15.0,
        Kind.REVOKED_CALLER: 15.0,
        Kind.CONFLICT_OPEN: 12.0,
        Kind.NODE_UNHEALTHY: 12.0,
        Kind.SUPPLY_CHAIN_VIOLATION: 12.0,
        Kind.ATTESTATION_FAILED: 15.0,
        Kind.ATTESTATION_MISSING: 8.0,
        Kind.COMMAND_UNSUCCESSFUL: 10.0,
        Kind.CONTROLLER_CLOCK_OFF: 10.0,
        Kind.CONTROLLER_SYNC_DEBT: 10.0,
        Kind.STREAM_WAITING: 10.0,
        Kind.NODE_DISCONNECTED: 10.0,
        Kind.NODE_DRIFT: 10.0,
        Kind.NODE_RETURN_STUCK: 10.0,
        Kind.UPDATE_STUCK: 10.0,
        Kind.NODE_SYNC_DEBT: 8.0,
        Kind.NODE_AUTONOMOUS: 5.0,
        Kind.NODE_FLAPPING: 8.0,
        Kind.AUTHORITY_TRANSFER_PENDING: 8.0,
        Kind.MAINTENANCE_OVERDUE: 8.0,
        Kind.ENROLMENT_PENDING: 8.0,
        Kind.NODE_CLOCK_OFF: 6.0,
        Kind.DECOMMISSION_STUCK: 4.0,
        Kind.WAIVER_EXPIRING: 3.0,
    }
)

#: As the weights of drift: one grave matter comes before two middling ones.
SEVERITY_FACTORS: Final[Mapping[Severity, float]] = MappingProxyType(
    {Severity.LOW: 1.0, Severity.MEDIUM: 2.0, Severity.HIGH: 5.0, Severity.CRITICAL: 10.0}
)

#: Four hours, half a shift: what nobody took up in it weighs twice as much.
AGE_DOUBLES_AFTER_S = 4 * 3600.0

#: Old matters rise, but never above what is two and a half times worse.
AGE_CAP = 3.0

#: Items of one kind in one domain that are shown one by one: more are one matter with one cause.
GROUP_ABOVE = 20

#: A backlog of a minute at the pace of a busy node is replayed in seconds; this is a quarter of an hour.
RETURN_STUCK_AFTER_S = 900.0

#: An update that runs for two hours hangs.
UPDATE_STUCK_AFTER_S = 2 * 3600.0

#: A week: a checklist that waits for people.
DECOMMISSION_STUCK_AFTER_S = 7 * 86_400.0

#: A day before a waiver ends somebody must act or extend it.
WAIVER_NOTICE_S = 86_400.0

#: Changes of connectivity within the window that make a link flap: three times away and back in half an hour.
FLAPS = 6
FLAP_WINDOW_S = 1800.0

#: Reports waiting at a linked node: three days of one every five minutes.
NODE_BACKLOG = 1000

#: Events a linked controller has not acknowledged, and the age of the oldest: beyond what a session replays at once.
CONTROLLER_BACKLOG = 10_000
CONTROLLER_BEHIND_S = 900.0

#: A grant that is on its way arrives with the control lane, within seconds of a session.
STREAM_WAITS_AFTER_S = 600.0

#: A planned transfer takes two sessions.
TRANSFER_PENDING_AFTER_S = 600.0

#: A node's clock that is ahead of its controller's by more than a slow report explains.
NODE_CLOCK_AHEAD_S = 120.0

#: How old by its own clock a report may be: the longest outage, and no clock that began at 1970.
NODE_CLOCK_BEHIND_S = 366 * 86_400.0

#: As far as a remote stamp may push a controller's clock (design §5).
CONTROLLER_CLOCK_OFF_S = 0.5

#: What ended badly is shown for a day, since nothing else ends it.
OUTCOME_SHOWN_FOR_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on something is worth an item."""

    return_stuck_after_s: float = RETURN_STUCK_AFTER_S
    update_stuck_after_s: float = UPDATE_STUCK_AFTER_S
    decommission_stuck_after_s: float = DECOMMISSION_STUCK_AFTER_S
    waiver_notice_s: float = WAIVER_NOTICE_S
    flaps: int = FLAPS
    flap_window_s: float = FLAP_WINDOW_S
    node_backlog: int = NODE_BACKLOG
    node_clock_ahead_s: float = NODE_CLOCK_AHEAD_S
    node_clock_behind_s: float = NODE_CLOCK_BEHIND_S
    controller_backlog: int = CONTROLLER_BACKLOG
    controller_behind_s: float = CONTROLLER_BEHIND_S
    controller_clock_off_s: float = CONTROLLER_CLOCK_OFF_S
    stream_waits_after_s: float = STREAM_WAITS_AFTER_S
    transfer_pending_after_s: float = TRANSFER_PENDING_AFTER_S
    outcome_shown_for_s: float = OUTCOME_SHOWN_FOR_S


@dataclass(frozen=True, slots=True)
class Weights:
    """What an item weighs. A kind of weight 0 makes no items."""

    kinds: Mapping[Kind, float] = field(default_factory=lambda: KIND_WEIGHTS)
    severities: Mapping[Severity, float] = field(default_factory=lambda: SEVERITY_FACTORS)
    #: Domains that count more or less, with all below them unless these have their own.
    domains: Mapping[str, float] = field(default_factory=dict)
    age_doubles_after_s: float = AGE_DOUBLES_AFTER_S
    age_cap: float = AGE_CAP


class Score(NamedTuple):
    """The factors of a score."""

    kind: float
    severity: float
    age: float
    nodes: float
    extent: float
    domain: float

    @property
    def value(self) -> float:
        """Their product."""
        return math.prod(self)


def score_of(
    weights: Weights,
    kind: Kind,
    severity: Severity,
    age_s: float,
    nodes: int,
    extent: float,
    path: Sequence[str],
) -> Score:
    """What an item weighs. `path` are the domains from the root to the item's own."""
    return Score(
        weights.kinds[kind],
        weights.severities[severity],
        min(weights.age_cap, 1.0 + max(0.0, age_s) / weights.age_doubles_after_s),
        1.0 + math.log10(max(1, nodes)),
        1.0 + math.log10(max(1.0, extent)),
        next((weights.domains[d] for d in reversed(path) if d in weights.domains), 1.0),
    )
