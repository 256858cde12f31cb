"""Nodes that a relay vouches for, by the certificates that they showed to it. Owns that these are judged as those of
callers are, while the node's stream lasts too; what counts is `controller.bearer`'s to say.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from controller.bearer import Bearers, now_serving
from controller.services.calls import RefusalAudit
from controller.standing import BearerRefused
from controller.writes import Caller

#: What a refusal is of in the audit log.
METHOD = "/souverix.nodelink.v1.NodeLinkService/Connect"


class VouchedBearers:
    """The bearers behind relays, at one replica. `bearers` is None without TLS."""

    def __init__(self, bearers: Bearers | None, refusals: RefusalAudit) -> None:
        self._bearers = bearers
        self._refusals = refusals

    @contextlib.asynccontextmanager
    async def standing(self, certificate: bytes, peer: str) -> AsyncIterator[None]:
        """A node's stream: within the block its certificate names the caller, and ends it; without one the relay's.

        Raises `BearerRefused`, which is audited.
        """
        if self._bearers is None or not certificate:
            yield
            return
        principal = ""
        try:
            bearer = self._bearers.of_certificate(certificate)
            principal = bearer.identity.principal
            now_serving(bearer)
            async with self._bearers.standing(bearer):
                yield
        except BearerRefused as refusal:
            if refusal.bearer is not None:
                principal = refusal.bearer.identity.principal
            await self._refusals.note(METHOD, Caller(principal or "node:unknown", peer), refusal)
            raise
