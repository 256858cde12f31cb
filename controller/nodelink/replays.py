"""The returns of nodes as they are seen: under way, and the newest that have ended. Owns these records and their bound;
measures by what it is told, and decides nothing. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from controller.nodelink.session import OVER, SessionState

#: Returns that have ended and are still shown.
MAX_ENDED = 1000


@dataclass(slots=True)
class Replay:
    """One node's return."""

    node: str
    domain: str
    total: int
    began_s: float
    state: SessionState = SessionState.ADMITTED
    staged: int = 0
    applied: int = 0
    resumed: int = 0
    turn_s: float | None = None
    ended_s: float | None = None
    reason: str = ""
    drift_objects: int | None = None
    #: Grows with each change of any record.
    version: int = field(default=0)

    @property
    def arrived(self) -> int:
        """Reports that are here, with or without effect."""
        return max(self.staged, self.applied)

    def rate_per_s(self, now_s: float) -> float | None:
        """Reports a second since its turn came; None while nothing arrived."""
        if self.turn_s is None:
            return None
        took_s = (self.ended_s if self.ended_s is not None else now_s) - self.turn_s
        fresh = self.arrived - self.resumed
        return fresh / took_s if fresh > 0 and took_s > 0 else None


class Replays:
    """All of them."""

    def __init__(self) -> None:
        self._held: dict[str, Replay] = {}
        self._ended: dict[str, None] = {}
        self._version = 0

    @property
    def version(self) -> int:
        """Grows with each change."""
        return self._version

    def __iter__(self) -> Iterator[Replay]:
        return iter(list(self._held.values()))

    def begin(self, node: str, domain: str, total: int, now_s: float) -> Replay:
        """A node came with a backlog."""
        replay = Replay(node, domain, total, now_s)
        self._held[node] = replay
        self._ended.pop(node, None)
        self.changed(replay)
        return replay

    def changed(self, replay: Replay) -> None:
        """Something of a record changed."""
        self._version += 1
        replay.version = self._version

    def move(self, replay: Replay, state: SessionState, now_s: float) -> None:
        """The session has moved on; a record that is over stays as it ended."""
        if replay.ended_s is not None:
            return
        replay.state = state
        if state in OVER or state in (SessionState.LIVE, SessionState.QUARANTINED):
            replay.ended_s = now_s
            if self._held.get(replay.node) is replay:
                self._ended[replay.node] = None
                while len(self._ended) > MAX_ENDED:
                    oldest = next(iter(self._ended))
                    del self._ended[oldest], self._held[oldest]
        self.changed(replay)

    def clear(self) -> None:
        """Forgets everything: another mastership looks for itself."""
        self._held.clear()
        self._ended.clear()
        self._version += 1
