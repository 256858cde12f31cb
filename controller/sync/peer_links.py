"""Records the links of this controller to its parent and its children: a duty of the master. Owns the `peer_link`
events of this controller; which evidence means what is `connectivity.peer_links`' to say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from controller.connectivity.peer_links import Contact, PeerChange, PeerLinks, PeerLinkState
from controller.connectivity.thresholds import Thresholds
from controller.journal import Journal
from controller.nodelink.commits import commit
from controller.replica import Replica
from controller.sync.links import Links
from controller.twin.facts import body_of, timestamp
from controller.twin.hops import Hop, link_key
from federation.proposal import Proposal
from souverix.federation.v1 import peer_link_pb2

#: Between two looks at the sessions: finer than a limit means anything.
LOOK_INTERVAL_S = 1.0


class PeerLinkRecorder:
    """The links of one replica while it is master."""

    def __init__(self, replica: Replica, links: Links) -> None:
        self._replica = replica
        self._links = links
        connectivity = replica.config.connectivity
        self._default: Thresholds = connectivity.of_all()
        self._of_domain: dict[str, Thresholds] = connectivity.of_domains()

    async def run(self, journal: Journal) -> None:
        """Records until cancelled. What an earlier master recorded stands until something else is found."""
        watched = PeerLinks()
        while True:
            now_s = time.monotonic()
            changes = [
                (hop, change)
                for hop in self._hops()
                if (change := self._look(watched, hop, now_s)) is not None
            ]
            if changes:
                await commit(journal, lambda p, changes=changes: self._write(p, changes))  # type: ignore[misc]
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _hops(self) -> Iterator[Hop]:
        """The links there are: to the parent as configured, to the children as configured or come."""
        config, table = self._replica.config, self._replica.state.authority
        me = config.controller.id
        if config.parent is not None:
            yield Hop(me, config.parent.controller, config.controller.domain)
        domains = {child.controller: child.domain for child in config.children}
        for controller in sorted(domains.keys() | self._links.children.keys()):
            domain = domains.get(controller) or table.domain_served_by(controller)
            if domain is not None and table.path_of(domain) is not None:
                yield Hop(me, controller, domain)

    def _look(self, watched: PeerLinks, hop: Hop, now_s: float) -> PeerChange | None:
        if hop.far not in watched:
            self._take_up(watched, hop, now_s)
        driver = self._links.syncing().get(hop.far)
        level = driver.session.last_level_ms is not None if driver is not None else None
        contact = Contact(self._links.heard_s(hop.far), level)
        limits = self._of_domain.get(hop.domain, self._default)
        return watched.look(hop.far, contact, limits.autonomous_after_s, now_s)

    def _take_up(self, watched: PeerLinks, hop: Hop, now_s: float) -> None:
        """Goes on from what is recorded of a link; the peer was last heard when its last event was committed here."""
        state = self._replica.state
        link = body_of(state, link_key(hop))
        heard_ms = max(
            (
                time_ms
                for stream, held in state.streams.items()
                if stream.origin.controller == hop.far
                and (time_ms := held.index.time_ms_of(held.received)) is not None
            ),
            default=None,
        )
        recorded = PeerLinkState.UP
        if link is not None and link.state == PeerLinkState.DOWN:
            recorded = PeerLinkState.DOWN
            heard_ms = max(heard_ms or 0, link.last_heard_time.ToMilliseconds())
        heard_s = None if heard_ms is None else now_s - max(0, _wall_ms() - heard_ms) / 1000
        watched.known(hop.far, recorded, heard_s, now_s)

    def _write(self, proposal: Proposal, changes: list[tuple[Hop, PeerChange]]) -> None:
        for hop, change in changes:
            # Both times by one clock at one moment: their difference is a true age, however the clock was set since.
            silence_ms = max(0, int((time.monotonic() - change.heard_s) * 1000))
            link = peer_link_pb2.PeerLink(
                state=peer_link_pb2.PeerLinkState.Name(change.state),
                reason=change.reason,
                evidence=change.evidence,
                last_heard_time=timestamp(proposal.wall_ms - silence_ms),
                time=timestamp(proposal.wall_ms),
            )
            proposal.write(*link_key(hop), link, principal=f"controller:{hop.near}")


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
