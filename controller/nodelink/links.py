"""The table of links: which nodes can be reached, and when each was last heard. Owns the table and its bound;
heartbeats touch nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from controller.nodelink.link import End, Link
from souverix.nodelink.v1 import nodelink_pb2

#: Heartbeats that may be missed before a link counts as dead: one is lost easily, three are not.
MISSED_HEARTBEATS = 3


@dataclass(frozen=True, slots=True)
class Heard:
    """What the last sign of life of a node told. Times are monotonic seconds of this process."""

    heard_s: float
    rtt_s: float | None
    backlog_reports: int


class Links:
    """The links of one replica, one a node."""

    def __init__(self, max_links: int, heartbeat_interval_s: float) -> None:
        self._links: dict[str, Link] = {}
        self._max_links = max_links
        self.silence_limit_s = MISSED_HEARTBEATS * heartbeat_interval_s
        self._swept_s: float | None = None

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    def __len__(self) -> int:
        return len(self._links)

    @property
    def is_full(self) -> bool:
        """Tells whether no further link can be taken."""
        return len(self._links) >= self._max_links

    def get(self, node: str) -> Link | None:
        """The link of a node; None when it has none."""
        return self._links.get(node)

    def heard(self, node: str) -> Heard | None:
        """The last sign of life of a linked node; None when it is not linked here."""
        link = self._links.get(node)
        return Heard(link.heard_s, link.rtt_s, link.backlog_reports) if link is not None else None

    def is_alive(self, link: Link, now_s: float) -> bool:
        """Tells whether the link was heard of lately."""
        return link.is_open and now_s - link.heard_s <= self.silence_limit_s

    def add(self, link: Link) -> None:
        """Takes in a link; the node must have none."""
        self._links[link.node] = link

    def remove(self, link: Link) -> bool:
        """Drops a link; False when it had been dropped before."""
        if self._links.get(link.node) is not link:
            return False
        del self._links[link.node]
        return True

    def sweep(self, now_s: float) -> None:
        """Ends the links of which nothing was heard for too long.

        When this process itself was held up, what the agents said meanwhile still waits to be read: the gap is not
        counted as their silence.
        """
        if self._swept_s is not None and now_s - self._swept_s > self.silence_limit_s:
            for link in self._links.values():
                link.heard_s += now_s - self._swept_s
        self._swept_s = now_s
        for link in self:
            if not self.is_alive(link, now_s):
                silence_s = now_s - link.heard_s
                link.end(
                    nodelink_pb2.LINK_END_UNSPECIFIED,
                    "no heartbeat came in time",
                    End(
                        "heartbeats_missed",
                        f"nothing heard for {silence_s:.1f} s, limit {self.silence_limit_s:g} s",
                    ),
                )

    def end_all(
        self,
        reason: nodelink_pb2.LinkEnd,
        message: str,
        why: str,
        concerned: Callable[[Link], bool] = lambda link: True,
    ) -> None:
        """Ends links for a reason of this side's; their nodes' connectivity did not change by it."""
        for link in self:
            if concerned(link):
                link.end(reason, message, End(why, message, is_news=False))
