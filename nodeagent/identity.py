"""Who a node is across restarts: its key, its source id, its domain, the highest fence it has met.

Owns the node's row in the state directory, and the private key in it, which never leaves it. Must never judge a fence:
it keeps what it is told.
"""

from __future__ import annotations

import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodeagent.fence import Fence
from nodeagent.statedir import Database
from souverix.nodelink.v1 import nodelink_pb2

SOURCE_BYTES = 16
"""Random bytes of a source id: two state directories are never taken for one another."""


class Identity:
    """One node's identity. `source` names the numbering of its reports: a new one means it began anew."""

    def __init__(self, database: Database, node: str) -> None:
        self.node = node
        self._database = database
        database.write(
            "INSERT INTO node (node, source, private_key) VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
            "SET private_key = COALESCE(private_key, excluded.private_key)",
            node,
            _new_source(),
            Ed25519PrivateKey.generate().private_bytes_raw(),
        )
        row = database.rows(
            "SELECT source, private_key, domain, fence FROM node WHERE node = ?", node
        )[0]
        self._key = Ed25519PrivateKey.from_private_bytes(row["private_key"])
        self.public_key = self._key.public_key().public_bytes_raw()
        self.source: str = row["source"]
        self.domain: str = row["domain"]
        self.fence: Fence | None = None
        if row["fence"] is not None:
            self.fence = Fence.from_message(nodelink_pb2.Fence.FromString(row["fence"]))

    def sign(self, message: bytes) -> bytes:
        """Sign a message with the node's key: Ed25519, 64 bytes."""
        return self._key.sign(message)

    def keep_fence(self, fence: Fence) -> None:
        """Keep the highest fence met; durable on return. Raises StateUnavailable."""
        encoded = fence.to_message().SerializeToString()
        self._database.write("UPDATE node SET fence = ? WHERE node = ?", encoded, self.node)
        self.fence = fence

    def keep_domain(self, domain: str) -> None:
        """Keep the domain the controller says the node lives in. Raises StateUnavailable."""
        if domain != self.domain:
            self._database.write("UPDATE node SET domain = ? WHERE node = ?", domain, self.node)
            self.domain = domain

    def count_refused_frame(self) -> None:
        """One more frame came under a lower fence. Raises StateUnavailable."""
        self._database.write(
            "UPDATE node SET frames_refused = frames_refused + 1 WHERE node = ?", self.node
        )

    def reported_inventory(self) -> bytes | None:
        """The change digest of the inventory last put in the backlog, or None. Raises StateUnavailable."""
        row = self._database.row("SELECT inventory_digest FROM node WHERE node = ?", self.node)
        return None if row is None else row["inventory_digest"]

    def keep_reported_inventory(self, digest: bytes) -> None:
        """Keep the change digest of an inventory that was put in the backlog. Raises StateUnavailable."""
        self._database.write(
            "UPDATE node SET inventory_digest = ? WHERE node = ?", digest, self.node
        )

    def renew_source(self) -> None:
        """Take a new source id, because the numbering begins anew. Raises StateUnavailable."""
        source = _new_source()
        self._database.write("UPDATE node SET source = ? WHERE node = ?", source, self.node)
        self.source = source


def _new_source() -> str:
    return secrets.token_hex(SOURCE_BYTES)
