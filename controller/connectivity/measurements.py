"""What the table tells of nodes: a change of mode, what is measured now, why a link is gone. Owns these shapes only.

Times are monotonic seconds; None is "never" or "not measured".
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.connectivity.spectrum import Mode


@dataclass(frozen=True, slots=True)
class Change:
    """A node changed its mode."""

    node: str
    before: Mode
    mode: Mode
    reason: str
    evidence: str
    at_s: float
    last_seen_s: float | None
    rtt_s: float | None
    interval_s: float | None
    backlog: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of one node now."""

    mode: Mode
    linked: bool
    last_seen_s: float | None
    rtt_s: float | None
    #: Interval at which the node comes by; None: it does not, or too few visits tell.
    interval_s: float | None
    #: When it should come by next.
    expected_s: float | None
    #: When nothing waited at the node for the last time it was heard.
    level_s: float | None
    backlog: int
    #: Reports of the running replay: how many, and how many are durable here; 0: none runs.
    replay_total: int
    replay_done: int
    #: Measured since the replay began; None: nothing arrived yet.
    replay_per_s: float | None


@dataclass(frozen=True, slots=True)
class Gone:
    """Why a node has no link, for its history."""

    reason: str
    evidence: str
