"""Where a node stands with its attestation. Owns the table of states and what moves a node on; decides nothing of what
evidence is worth.

No state says that a node is sound: VERIFIED says that at its last statement nothing contradicted what is expected.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple


class Integrity(enum.IntEnum):
    """The states; numbers are the wire's (`IntegrityState`)."""

    NEVER_ATTESTED = 0
    VERIFIED = 1
    FAILED = 2
    EXPIRED = 3
    UNKNOWN = 4


class Evidence(enum.Enum):
    """What moves a node on."""

    HOLDS = "a statement came, and all that is expected holds"
    CONTRADICTS = "a statement came that contradicts what is expected"
    NOT_JUDGED = "a statement came, and nothing is expected"
    SILENT = "a challenge was not answered"
    AGED = "the last verification does not count any more"


class Edge(NamedTuple):
    """Where evidence leads, and why."""

    to: Integrity
    because: str


_I, _E = Integrity, Evidence

#: Every move there is. Evidence without an edge at a state changes nothing.
TRANSITIONS: Final[Mapping[tuple[Integrity, Evidence], Edge]] = {
    **{(state, _E.HOLDS): Edge(_I.VERIFIED, "the newest statement counts") for state in _I},
    **{(state, _E.CONTRADICTS): Edge(_I.FAILED, "the newest statement counts") for state in _I},
    **{
        (state, _E.NOT_JUDGED): Edge(
            _I.UNKNOWN, "what it measured is kept, and cannot be compared with anything"
        )
        for state in (_I.NEVER_ATTESTED, _I.VERIFIED, _I.EXPIRED, _I.UNKNOWN)
    },
    (_I.NEVER_ATTESTED, _E.SILENT): Edge(
        _I.UNKNOWN, "its agent is too old to attest, or does not want to"
    ),
    (_I.VERIFIED, _E.AGED): Edge(_I.EXPIRED, "what was true then may have changed since"),
}


def moved(state: Integrity, evidence: Evidence) -> Integrity:
    """The state that evidence leads to; the same where it leads nowhere.

    From FAILED only evidence that holds leads on: a node does not get away from it by saying nothing.
    """
    edge = TRANSITIONS.get((state, evidence))
    return edge.to if edge is not None else state
