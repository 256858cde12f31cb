"""What one controller sees of those it is linked with, as signals for the attention queue. Owns the reading of
links; judges nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from controller.attention.conditions import Condition
from controller.attention.links import PeerSignals, judge_peer
from controller.attention.rules import Limits
from controller.replica import Replica
from controller.sync.links import PeerView
from federation.session_phases import Phase

#: Tells the links of a controller now: the parent's, then the children's.
Peers = Callable[[], Sequence[PeerView]]


class SeenLinks:
    """The links of one replica (`attention_feed.Links`)."""

    def __init__(self, replica: Replica, peers: Peers) -> None:
        self._replica = replica
        self._peers = peers

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
