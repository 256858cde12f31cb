"""When a node may come in: at a bounded rate, each in its turn. Owns the calendar; time and chance are arguments.

A node that finds no place is told a time that is kept for it, so that nobody starves: who comes at the time named is
let in, however many others ask. Times lie one slot apart, and are jittered by a part of a second. Nodes without a
backlog have a calendar of their own, for they cost little and wait for no turn to replay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

#: Part of the rate that may come at once where nobody came before: half a second's worth.
BURST_S = 0.5

#: Chance by which a time is put off, in seconds: clocks and links differ by more.
JITTER_S = 0.5

#: How long a time is kept for a node that does not come. An agent adds up to a fifth to what it is told, of which it
#: obeys five minutes at most.
KEPT_S = 120.0

#: How much too early a node may come: its clock's rounding.
EARLY_S = 0.05

#: Longest wait named: what an agent obeys. It asks again then, and keeps its place.
MAX_WAIT_S = 300.0


class Calendar:
    """Places at a steady rate. Times are monotonic seconds; `chance` gives numbers in [0, 1)."""

    def __init__(self, per_s: float, max_kept: int, chance: Callable[[], float]) -> None:
        self._slot_s = 1 / per_s
        self._burst_s = max(BURST_S, self._slot_s)
        self._max_kept = max_kept
        self._chance = chance
        self._next_s = float("-inf")
        self._kept: dict[str, float] = {}
        self._by_time: deque[tuple[float, str]] = deque()

    @property
    def kept(self) -> int:
        """Nodes for which a time is kept."""
        return len(self._kept)

    def ask(self, node: str, now_s: float) -> float:
        """How many seconds a node must wait: 0 lets it in now, which uses its place up."""
        self._forget_missed(now_s)
        due_s = self._kept.get(node)
        if due_s is None:
            place_s = max(self._next_s, now_s - self._burst_s)
            if place_s <= now_s:
                self._next_s = place_s + self._slot_s
                return 0.0
            due_s = place_s + JITTER_S * self._chance()
            if len(self._kept) >= self._max_kept:
                return min(due_s - now_s, MAX_WAIT_S)
            self._next_s = place_s + self._slot_s
            self._kept[node] = due_s
            self._by_time.append((due_s, node))
        if now_s >= due_s - EARLY_S:
            del self._kept[node]
            return 0.0
        return min(due_s - now_s, MAX_WAIT_S)

    def _forget_missed(self, now_s: float) -> None:
        while self._by_time and self._by_time[0][0] + KEPT_S < now_s:
            due_s, node = self._by_time.popleft()
            if self._kept.get(node) == due_s:
                del self._kept[node]


class Admission:
    """Both calendars of one replica."""

    def __init__(
        self,
        returns_per_s: float,
        arrivals_per_s: float,
        max_kept: int,
        chance: Callable[[], float],
    ) -> None:
        self._behind = Calendar(returns_per_s, max_kept, chance)
        self._level = Calendar(arrivals_per_s, max_kept, chance)

    @property
    def deferred(self) -> int:
        """Nodes for which a time is kept."""
        return self._behind.kept + self._level.kept

    def ask(self, node: str, *, is_behind: bool, now_s: float) -> float:
        """As `Calendar.ask`, on the calendar of nodes with or without a backlog."""
        return (self._behind if is_behind else self._level).ask(node, now_s)
