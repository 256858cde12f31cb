"""The hybrid logical clock of one origin. Owns stamps; never reads a wall clock itself.

Source: Kulkarni et al., "Logical Physical Clocks" (2014), with a bound on how far a remote stamp may push us. A
stamp is milliseconds since the epoch shifted left by `COUNTER_BITS`, plus a counter that carries into the
milliseconds when it overflows.
"""

from __future__ import annotations

COUNTER_BITS = 16

#: A remote stamp pushes our clock at most this far ahead of our wall clock (design §5): enough for honest skew
#: between NTP-kept hosts, too little for a bad clock to carry others away.
MAX_AHEAD_MS = 500


def stamp_of(wall_ms: int) -> int:
    """The lowest stamp of a millisecond."""
    return wall_ms << COUNTER_BITS


def wall_ms_of(stamp: int) -> int:
    """The millisecond of a stamp."""
    return stamp >> COUNTER_BITS


class HybridClock:
    """Gives stamps that never go back and follow what was seen of others within `MAX_AHEAD_MS`."""

    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def tick(self, wall_ms: int) -> int:
        """The stamp of a new local event."""
        self.last = max(self.last + 1, stamp_of(wall_ms))
        return self.last

    def observe(self, remote: int, wall_ms: int) -> None:
        """Takes note of a remote stamp."""
        bounded = min(remote, stamp_of(wall_ms + MAX_AHEAD_MS))
        if bounded > self.last:
            self.last = bounded

    def is_from_future(self, remote: int, wall_ms: int) -> bool:
        """Tells whether a stamp runs further ahead than honest skew explains."""
        return remote > max(self.last, stamp_of(wall_ms + MAX_AHEAD_MS))
