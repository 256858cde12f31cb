"""What one controller sees of others and of its nodes' agents, as signals for the attention queue. Owns the reading of
links; judges nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from controller.attention.conditions import Condition
from controller.attention.links import DuplicateSignal, PeerSignals, judge_peer
from controller.attention.rules import Limits
from controller.nodelink.duplicates import SecondAgent
from controller.replica import Replica
from controller.sync.links import PeerView
from controller.twin.facts import home_of
from federation.session_phases import Phase

#: Tells the links of a controller now: the parent's, then the children's.
Peers = Callable[[], Sequence[PeerView]]

#: Tells which nodes a second agent speaks for, at a monotonic time.
Agents = Callable[[float], Mapping[str, SecondAgent]]


class SeenLinks:
    """The links of one replica (`attention_feed.Links`)."""

    def __init__(self, replica: Replica, peers: Peers, agents: Agents) -> None:
        self._replica = replica
        self._state = replica.state
        self._peers = peers
        self._agents = agents

    def conditions(self, limits: Limits, now_ms: int) -> Iterator[Condition]:
        """What is the matter with the links to other controllers."""
        domain = self._replica.config.controller.domain
        for view in self._peers():
            if view.phase is Phase.SYNCING:
                debt = view.debt
                peer = PeerSignals(
                    view.controller,
                    debt.behind_ms if debt is not None else 0,
                    debt.events if debt is not None else 0,
                    view.skew_ms,
                )
                yield from judge_peer(peer, domain, limits, now_ms)

    def duplicates(self, now_ms: int) -> Sequence[DuplicateSignal]:
        """Nodes for which two agents speak."""
        now_s = time.monotonic()
        found = []
        for node, agent in self._agents(now_s).items():
            home = home_of(self._state, f"nodes/{node}")
            if home is not None:
                first_ms = _whole_second(now_ms - int((now_s - agent.first_s) * 1000))
                host = agent.source.rpartition(":")[0]
                found.append(DuplicateSignal(node, home.domain, first_ms, host))
        return found


def _whole_second(time_ms: int) -> int:
    """A time that was computed from another clock, so that it is the same with every look."""
    return time_ms // 1000 * 1000
