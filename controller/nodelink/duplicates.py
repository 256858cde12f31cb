"""Second agents that greet with a node's id while the first lives. Owns the memory of them, for operators; refusing
them is the greeting's. Times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Silent after this, a second agent counts as gone: several times as long as it is told to wait.
QUIET_S = 600.0

#: An agent that lost its stream is refused until the old one is found silent; one that is refused for so many times
#: that long is another agent.
SILENCES = 3.0

#: Ids remembered; a hostile caller must not fill memory.
MAX_REMEMBERED = 1024


@dataclass(slots=True)
class SecondAgent:
    """An agent that was refused because another of its id is linked."""

    source: str
    first_s: float
    last_s: float
    refusals: int = 1


class SecondAgents:
    """By node, the agent that was refused."""

    def __init__(self, silence_limit_s: float) -> None:
        self._least_span_s = SILENCES * silence_limit_s
        self._held: dict[str, SecondAgent] = {}

    def refused(self, node: str, source: str, now_s: float) -> None:
        """An agent was refused."""
        held = self._held.get(node)
        if held is not None and now_s - held.last_s <= QUIET_S:
            held.last_s, held.source = now_s, source
            held.refusals += 1
            return
        if node not in self._held and len(self._held) >= MAX_REMEMBERED:
            self.standing(now_s)
            if len(self._held) >= MAX_REMEMBERED:
                return
        self._held[node] = SecondAgent(source, now_s, now_s)

    def standing(self, now_s: float) -> dict[str, SecondAgent]:
        """Those that go on for longer than a lost stream explains; quiet ones are forgotten."""
        self._held = {n: a for n, a in self._held.items() if now_s - a.last_s <= QUIET_S}
        return {n: a for n, a in self._held.items() if a.last_s - a.first_s >= self._least_span_s}
