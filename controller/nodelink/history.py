"""A node's connectivity history: which transitions are recorded, and how often. Owns the bound on them; the recorded
mode is the log's.

A link that flaps changes its mode many times a second, and each record costs the whole fleet a little. So a node may
change a few times at once and then at a steady rate; in between only its last change is kept, and recorded when its
turn comes if it still differs from what is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from controller.connectivity.spectrum import Mode
from controller.nodelink.rate import TokenBucket

#: Transitions of one node recorded at once.
TRANSITIONS_BURST = 6

#: Transitions of one node recorded in the long run: at most 2,880 a day, however it flaps.
TRANSITIONS_PER_S = 1 / 30

#: Nodes whose rate is remembered before the settled ones are forgotten; where more are unsettled, twice those.
REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of a node's mode, waiting to be recorded."""

    node: str
    mode: Mode
    reason: str
    evidence: str
    since_ms: int
    last_seen_ms: int | None = None
    rtt_s: float | None = None
    sync_interval_s: float | None = None
    backlog_reports: int | None = None
    #: Changes before this one that were not recorded for their rate.
    coalesced: int = 0


class TransitionQueue:
    """Transitions waiting for their turn, the last of each node. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[float, Transition]] = {}
        self._rates: dict[str, TokenBucket] = {}
        #: Rates from which on the settled ones are looked for: so rarely that it costs each node a few looks, however
        #: many change at once.
        self._room = REMEMBERED

    def note(self, transition: Transition, now_s: float, not_before_s: float = 0.0) -> None:
        """Takes in a change; an earlier one of the node that still waits gives way to it."""
        earlier = self._waiting.pop(transition.node, None)
        if earlier is not None:
            transition = replace(transition, coalesced=earlier[1].coalesced + 1)
        self._waiting[transition.node] = (not_before_s, transition)

    def take_due(self, now_s: float, most: int) -> list[Transition]:
        """Takes out transitions whose turn has come."""
        due: list[Transition] = []
        for node, (not_before_s, transition) in self._waiting.items():
            if len(due) >= most:
                break
            if not_before_s <= now_s and self._rate_of(node, now_s).take(now_s):
                due.append(transition)
        for transition in due:
            del self._waiting[transition.node]
        return due

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until a turn comes; None while nothing waits."""
        waits = [
            max(not_before_s - now_s, self._rate_of(node, now_s).wait_s(now_s), 0.0)
            for node, (not_before_s, _) in self._waiting.items()
        ]
        return min(waits) if waits else None

    def clear(self) -> None:
        """Forgets what waits: another mastership looks for itself."""
        self._waiting.clear()

    def _rate_of(self, node: str, now_s: float) -> TokenBucket:
        rate = self._rates.get(node)
        if rate is None:
            if len(self._rates) >= self._room:
                self._rates = {n: r for n, r in self._rates.items() if not r.is_full(now_s)}
                self._room = max(REMEMBERED, 2 * len(self._rates))
            rate = TokenBucket(TRANSITIONS_PER_S, TRANSITIONS_BURST, now_s)
            self._rates[node] = rate
        return rate
