"""Which streams flow on the link of a parent and a child, and which way. Owns that rule alone; never looks at
positions.

Up goes everything of the child's subtree. Down go the domains on the child's path, its own, its subtree and what was
subscribed to, without audit (design §7).
"""

from __future__ import annotations

from federation.authority import AuthorityTable
from federation.identifiers import Lane, StreamId
from federation.session_settings import PeerRole


class LinkScope:
    """The rule as one side applies it; `peer_domain` and `subscriptions` are known once the peer has greeted."""

    __slots__ = ("_own_domain", "_peer_role", "_table", "peer_domain", "subscriptions")

    def __init__(
        self,
        table: AuthorityTable,
        own_domain: str,
        peer_role: PeerRole,
        subscriptions: frozenset[str],
    ) -> None:
        self.peer_domain = ""
        self.subscriptions = subscriptions
        self._table = table
        self._own_domain = own_domain
        self._peer_role = peer_role

    def is_shared(self, domain: str) -> bool:
        """Tells whether a domain's events flow on this link, in either direction."""
        child = self._own_domain if self._peer_role is PeerRole.PARENT else self.peer_domain
        path = self._table.path_of(child) or (child,)
        return (
            domain in path or self._table.is_within(domain, child) or domain in self.subscriptions
        )

    def is_sent(self, stream: StreamId) -> bool:
        """Tells whether the peer is to be sent a stream."""
        if self._peer_role is PeerRole.PARENT:
            return self._table.is_within(stream.domain, self._own_domain)
        return stream.lane is not Lane.AUDIT and self.is_shared(stream.domain)

    def may_bring(self, stream: StreamId) -> bool:
        """Tells whether the peer may bring a stream. A child brings its subtree only; what a parent brings, and what
        belongs to a domain not known yet, is judged by acceptance.
        """
        return (
            self._peer_role is PeerRole.PARENT
            or self._table.is_within(stream.domain, self.peer_domain)
            or self._table.path_of(stream.domain) is None
        )
