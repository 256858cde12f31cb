"""How long to wait before trying again. Owns the curve; chance comes in as an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays with full jitter between half and the whole of each step (seed 4: exponential-backoff)."""

    #: First delay: shorter than a person notices.
    initial_ms: int = 200
    #: Longest delay: a healed link is found within half a minute.
    maximum_ms: int = 30_000

    def delay_ms(self, attempt: int, chance: float) -> int:
        """Delay before attempt `attempt` (from 0), with `chance` in [0, 1)."""
        step = min(self.maximum_ms, self.initial_ms << min(attempt, 20))
        return int(step * (0.5 + chance / 2))
