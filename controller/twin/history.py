"""What nodes went through: the newest transitions of each one's connectivity and lifecycle. Owns the bound on them; a
fold of the log, fed commit by commit and the same again after a replay.
"""

from __future__ import annotations

from collections import deque

from federation.codec import Write
from federation.state import Applied

#: Transitions kept of one node and aspect: a month of a node that goes and comes daily, some 20 KiB.
MAX_TRANSITIONS = 64


class Histories:
    """The transitions of all nodes, each aspect for itself."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], deque[Write]] = {}

    def take_note(self, applied: Applied) -> None:
        """Follows one commit. A transition carried over from another domain was seen there already."""
        for key, write in applied.transitions:
            held = self._held.get((key.subject, key.aspect))
            if held is None:
                held = self._held[key.subject, key.aspect] = deque(maxlen=MAX_TRANSITIONS)
            elif write.event().HasField("moved_from"):
                continue
            held.append(write)

    def of(self, subject: str, aspect: str) -> list[Write]:
        """What is held of a subject's aspect, in the order in which it happened."""
        return sorted(self._held.get((subject, aspect), ()), key=lambda write: write.stamp)
