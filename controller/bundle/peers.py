"""The peers that bundles are exchanged with: the parent and the children, as links have them. Owns who they are and
what may pass between; remembers nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from airgap.layout import AUDITORS
from controller.config import ControllerConfig, ParentSection
from federation.authority import AuthorityTable
from federation.chain import key_id_of
from federation.errors import NotFound
from federation.identifiers import Lane, StreamId
from federation.keys import KeyRing
from federation.link_scope import LinkScope
from federation.session_settings import PeerRole


class Scope(Protocol):
    """What passes between a controller and a peer."""

    def is_sent(self, stream: StreamId) -> bool:
        """Tells whether the peer is sent a stream."""

    def may_bring(self, stream: StreamId) -> bool:
        """Tells whether the peer may bring a stream."""


class AuditScope:
    """What auditors are given: all that was audited, and the facts that it is proved by."""

    def is_sent(self, stream: StreamId) -> bool:
        """The audit and the control lane."""
        return stream.lane in (Lane.AUDIT, Lane.CONTROL)

    def may_bring(self, stream: StreamId) -> bool:
        """Nothing."""
        return False


@dataclass(frozen=True, slots=True)
class BundlePeer:
    """One peer, and the rule for what passes between."""

    controller: str
    #: Empty: the parent's, of which this controller has not heard yet.
    domain: str
    scope: Scope


#: Whoever verifies the audit log.
AUDITING = BundlePeer(AUDITORS, "", AuditScope())


def peer_of(config: ControllerConfig, table: AuthorityTable, controller: str) -> BundlePeer:
    """The peer of that name. Raises `NotFound`."""
    own = config.controller.domain
    if config.parent is not None and controller == config.parent.controller:
        record = table.records.get(own)
        role, domain = PeerRole.PARENT, record.parent if record is not None else ""
    else:
        found = [child.domain for child in config.children if child.controller == controller]
        if not found:
            known = sorted(
                [child.controller for child in config.children]
                + ([config.parent.controller] if config.parent is not None else [])
            )
            raise NotFound(
                f"{controller[:63]!r} is neither the parent nor a child of this controller; bundles are exchanged with "
                f"{', '.join(known) or 'nobody, for it has neither'}",
                controller=controller[:63],
            )
        role, domain = PeerRole.CHILD, found[0]
    scope = LinkScope(table, own, role, frozenset())
    scope.peer_domain = domain
    return BundlePeer(controller, domain, scope)


class RingKeys:
    """The keys of controllers as control facts grant them, and the parent's as it is configured
    (`airgap.reader.ExporterKeys`).
    """

    def __init__(self, ring: KeyRing, parent: ParentSection | None) -> None:
        self._ring = ring
        self._pinned: dict[tuple[str, str], bytes] = {}
        if parent is not None and parent.public_key:
            key = bytes.fromhex(parent.public_key)
            self._pinned[parent.controller, key_id_of(key)] = key

    def signature_is_good(
        self, controller: str, key_id: str, message: bytes, signature: bytes
    ) -> bool | None:
        """Tells whether that key of the controller made the signature; None: no such key is known."""
        key = self._ring.public_key(controller, key_id) or self._pinned.get((controller, key_id))
        return None if key is None else self._ring.verifier.verify(key, message, signature)
