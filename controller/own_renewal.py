"""Renews the certificate of a controller that holds its domain's authority. Owns when; the files are followed by
`controller.certificate_duty`, as if somebody had replaced them by hand.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from controller.enrolment.errors import AuthorityNotHeld
from controller.issuing import Issuer
from trust.authority import renewal_time
from trust.certificates import fingerprint
from trust.errors import TrustError
from trust.files import ReloadedCredentials, write_identity
from trust.keys import new_tls_key, to_pem

_log = logging.getLogger(__name__)

#: How often it is asked whether the certificate is due: a third of its life is left then.
LOOK_S = 10.0


class OwnRenewal:
    """Renews the controller's own leaf in its directory while the replica lives, master or not: each has its files."""

    def __init__(self, issuer: Issuer, held: ReloadedCredentials, directory: Path) -> None:
        self._issuer = issuer
        self._held = held
        self._directory = directory
        self._told = ""

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                if self._is_due():
                    await asyncio.to_thread(self._renew)
                self._told = ""
            except (AuthorityNotHeld, TrustError) as error:
                if str(error) != self._told:
                    self._told = str(error)
                    _log.error("the own certificate cannot be renewed", extra={"error": str(error)})
            await asyncio.sleep(LOOK_S)

    def _is_due(self) -> bool:
        leaf = self._held.current.leaf
        return self._issuer.now() >= renewal_time(leaf) or self._issuer.has_replaced(leaf)

    def _renew(self) -> None:
        key = new_tls_key()
        certificates = self._issuer.issue_own(key.public_key())
        write_identity(self._directory, to_pem(key), certificates)
        _log.info(
            "the own certificate was renewed",
            extra={"fingerprint": fingerprint(certificates[0])},
        )
