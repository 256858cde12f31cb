"""What can be the matter, as values: kinds, severities, conditions. Owns these shapes and the id of an item; never
decides whether a condition stands.

Times are milliseconds since the epoch.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import Final, NamedTuple

#: Length of an item's id in hexadecimal digits: 64 bits, as many items as nobody will ever look at.
ID_DIGITS = 16


class Kind(enum.IntEnum):
    """The cause of an item; numbers are the wire's (`AttentionKind`)."""

    NODE_DRIFT = 1
    NODE_UNHEALTHY = 2
    NODE_AUTONOMOUS = 3
    NODE_DISCONNECTED = 4
    NODE_FLAPPING = 5
    NODE_RETURN_STUCK = 6
    NODE_SYNC_DEBT = 7
    NODE_QUARANTINED = 8
    MAINTENANCE_OVERDUE = 9
    UPDATE_STUCK = 10
    DECOMMISSION_STUCK = 11
    WAIVER_EXPIRING = 12
    NODE_CLAIMED_TWICE = 13
    NODE_AGENT_REFUSED = 14
    NODE_CLOCK_OFF = 15
    COMMAND_UNSUCCESSFUL = 16
    CONFLICT_OPEN = 17
    AUTHORITY_MISMATCH = 18
    AUTHORITY_TRANSFER_PENDING = 19
    CONTROLLER_CUT_OFF = 20
    CONTROLLER_SYNC_DEBT = 21
    CONTROLLER_CLOCK_OFF = 22
    STREAM_QUARANTINED = 23
    STREAM_WAITING = 24
    SUPPLY_CHAIN_VIOLATION = 30
    ENROLMENT_PENDING = 35
    REVOKED_CALLER = 34
    ATTESTATION_FAILED = 40
    ATTESTATION_MISSING = 41

    @property
    def word(self) -> str:
        """As configurations and people write it: "node-drift"."""
        return self.name.lower().replace("_", "-")


class Severity(enum.IntEnum):
    """How bad it is; numbers are the wire's (`AttentionSeverity`)."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


#: Kinds of which no fact tells when they began: `since` is when they were first seen, and may lie later at another
#: controller or after a restart. A mark on one counts until it is taken back.
UNDATED: Final = frozenset(
    {
        Kind.NODE_UNHEALTHY,
        Kind.NODE_FLAPPING,
        Kind.NODE_CLOCK_OFF,
        Kind.NODE_SYNC_DEBT,
        Kind.CONTROLLER_SYNC_DEBT,
        Kind.CONTROLLER_CLOCK_OFF,
        Kind.STREAM_QUARANTINED,
        Kind.SUPPLY_CHAIN_VIOLATION,
        Kind.REVOKED_CALLER,
    }
)

#: Kinds about how a node is connected: of a domain whose controller cannot be reached, they are not known.
CONNECTIVITY: Final = frozenset(
    {
        Kind.NODE_AUTONOMOUS,
        Kind.NODE_DISCONNECTED,
        Kind.NODE_FLAPPING,
        Kind.NODE_RETURN_STUCK,
    }
)

#: Kinds that follow from facts of the log, which every controller that has them sees alike. The others are what one
#: controller sees of its links and callers.
FROM_FACTS: Final = frozenset(Kind) - {
    Kind.NODE_SYNC_DEBT,
    Kind.CONTROLLER_SYNC_DEBT,
    Kind.CONTROLLER_CLOCK_OFF,
    Kind.STREAM_QUARANTINED,
    Kind.STREAM_WAITING,
    Kind.REVOKED_CALLER,
}


class Cause(NamedTuple):
    """What tells one item from another."""

    kind: Kind
    domain: str
    subject: str


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is the matter."""

    kind: Kind
    domain: str
    subject: str
    severity: Severity
    since_ms: int
    #: The cause in words, with its facts; without ages, which change with every look.
    words: str
    #: A line of the command line.
    next_step: str
    #: How far it is beyond the measure, from 1.
    extent: float = 1.0
    #: Nodes it touches.
    nodes: int = 1

    @property
    def cause(self) -> Cause:
        """What tells it from others."""
        return Cause(self.kind, self.domain, self.subject)


class Judgement(NamedTuple):
    """What is the matter with one source, and when that must be looked at again though nothing is written."""

    conditions: tuple[Condition, ...] = ()
    look_again_ms: int | None = None


def item_id(cause: Cause) -> str:
    """The id of an item: the same at every controller."""
    told = "\0".join((cause.kind.name, cause.domain, cause.subject))
    return hashlib.sha256(told.encode()).hexdigest()[:ID_DIGITS]
