"""Sees to it that a replica's certificates are those of its files, and that its listeners show them. Owns when files
are looked at and what is said of expiry; judges no caller (`controller.bearer`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from controller.bearer import Bearers
from controller.changes import Changes
from trust.authority import renewal_time
from trust.certificates import fingerprint
from trust.channels import served_certificate
from trust.errors import TrustError
from trust.files import ReloadedCredentials

_log = logging.getLogger(__name__)

#: How often files are looked at: a renewed certificate is shown within this, and a look costs microseconds.
LOOK_S = 1.0

#: How often an approaching expiry is told.
TELL_S = 3600.0


class CertificateDuty:
    """Follows the files while the replica lives, master or not."""

    def __init__(
        self,
        held: ReloadedCredentials,
        bearers: Bearers,
        changes: Changes,
        addresses: Sequence[str],
    ) -> None:
        self._held = held
        self._bearers = bearers
        self._changes = changes
        self._addresses = addresses
        self._told_problem = ""
        self._told_expiry_s = 0.0

    async def run(self) -> None:
        """Looks at the files and listens for facts until cancelled."""
        with self._changes.listen(self._bearers.note):
            while True:
                self._tell_expiry()
                await asyncio.sleep(LOOK_S)
                if self._look():
                    for address in self._addresses:
                        await self._probe(address)

    def _look(self) -> bool:
        try:
            renewed = self._held.reload()
        except TrustError as error:
            if str(error) != self._told_problem:
                self._told_problem = str(error)
                _log.error("certificates cannot be read again", extra={"error": str(error)})
            return False
        self._told_problem = ""
        if renewed:
            self._told_expiry_s = 0.0
            # What is trusted may have changed with it.
            self._bearers.recheck()
        return renewed

    async def _probe(self, address: str) -> None:
        """Looks at the certificate that is shown at an address: gRPC says nothing when it keeps an old one."""
        wanted = fingerprint(self._held.current.leaf)
        try:
            shown = fingerprint(await asyncio.to_thread(served_certificate, address))
        except (OSError, TrustError) as error:
            _log.warning("the certificate shown is not known", extra={"error": str(error)})
            return
        if shown == wanted:
            _log.info("certificate renewed", extra={"fingerprint": shown})
        else:
            _log.error(
                "the listener shows another certificate than its files hold",
                extra={"fingerprint": shown, "expected": wanted},
            )

    def _tell_expiry(self) -> None:
        leaf = self._held.current.leaf
        now_s = time.monotonic()
        if datetime.now(UTC) < renewal_time(leaf) or now_s - self._told_expiry_s < TELL_S:
            return
        self._told_expiry_s = now_s
        _log.warning(
            "the certificate is due for renewal",
            extra={"valid_until": leaf.not_valid_after_utc.isoformat()},
        )
