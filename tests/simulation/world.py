"""Simulated time and chance. Owns the one queue of what is to happen; everything random comes from its seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

#: Wall clock at the start of every simulation, milliseconds since the epoch.
EPOCH_MS = 1_700_000_000_000

#: More events than any fleet needs: beyond it something goes round in circles.
MAX_EVENTS = 60_000


class InvariantViolated(AssertionError):
    """An invariant of the design does not hold; `invariant` is its number, such as "I1"."""

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant


class World:
    """Time, chance, and the queue of events."""

    def __init__(self, seed: int, *, verbose: bool = False) -> None:
        self.chance = random.Random(seed)
        self.now_ms = 0
        self.events = 0
        self.verbose = verbose
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_ms: int, action: Callable[..., None], *arguments: Any) -> None:
        """Has something happen later. What is due at the same time happens in the order of these calls."""
        self._count += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._count, action, arguments))

    def run_until(self, end_ms: int) -> None:
        """Lets everything happen that is due up to a time, and sets the time to it."""
        queue = self._queue
        while queue and queue[0][0] <= end_ms:
            self.now_ms, _, action, arguments = heapq.heappop(queue)
            self._note()
            action(*arguments)
        self.now_ms = end_ms

    def drain(self) -> None:
        """Lets everything happen that is due at any time."""
        queue = self._queue
        while queue:
            self.now_ms, _, action, arguments = heapq.heappop(queue)
            self._note()
            action(*arguments)

    def _note(self) -> None:
        self.events += 1
        if self.events > MAX_EVENTS:
            raise InvariantViolated("I15", f"the fleet is not quiet after {MAX_EVENTS} events")

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self.chance.random() * (high - low + 1))

    def happens(self, probability: float) -> bool:
        """Tells whether something of this probability happens now."""
        return self.chance.random() < probability

    def trace(self, text: str) -> None:
        """Says what happens, when the simulation is asked to."""
        if self.verbose:
            print(f"{self.now_ms:>7} {text}")
