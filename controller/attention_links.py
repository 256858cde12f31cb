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
from controller.sync.dialer import strategy_of
from controller.sync.links import PeerView
from controller.twin.facts import home_of
from federation.session import PeerRole, Phase

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
            yield from judge_peer(self._signals(view), domain, limits, now_ms)

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

    def _signals(self, view: PeerView) -> PeerSignals:
        is_parent = view.role is PeerRole.PARENT
        if is_parent:
            strategy = strategy_of(self._replica)
            mode, frequency_s = strategy.mode, strategy.frequency_s
        else:
            record = self._state.authority.records.get(view.domain)
            mode = record.sync.mode if record is not None else 0
            frequency_s = (
                record.sync.frequency.ToMilliseconds() / 1000 if record is not None else 0.0
            )
        return PeerSignals(
            controller=view.controller,
            nodes=0 if is_parent else self._nodes_below(view.domain),
            is_parent=is_parent,
            linked=view.phase is Phase.SYNCING,
            last_seen_ms=view.last_seen_ms or self._last_event_ms(view.controller),
            mode=mode,
            frequency_s=frequency_s,
            behind_ms=view.debt.behind_ms if view.debt is not None else 0,
            events=view.debt.events if view.debt is not None else 0,
            skew_ms=view.skew_ms,
            last_error=view.last_error,
        )

    def _nodes_below(self, domain: str) -> int:
        """Nodes of which something is known in a domain and below it."""
        subjects = self._state.subjects
        below = self._state.authority.subtree_of(domain)
        return sum(len(subjects.get((at, "nodes"), ())) for at in below)

    def _last_event_ms(self, controller: str) -> int | None:
        """When an event of a controller was last received; None when there is none."""
        times = [
            received_ms
            for stream, held in self._state.streams.items()
            if stream.origin.controller == controller
            and (received_ms := held.index.time_ms_of(held.received)) is not None
        ]
        return max(times, default=None)


def _whole_second(time_ms: int) -> int:
    """A time that was computed from another clock, so that it is the same with every look."""
    return time_ms // 1000 * 1000
