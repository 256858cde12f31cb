"""Has this controller go on under its next signing key, once one lies ready. A duty of the master; it owns when that is
looked for, and what the audit log says of it.
"""

from __future__ import annotations

import asyncio
import logging

from controller.journal import Journal, JournalError
from controller.log.errors import LogError
from controller.replica import Replica
from controller.writes import write_audit
from federation.errors import FederationError
from federation.proposal import Proposal
from souverix.audit.v1 import audit_pb2

_log = logging.getLogger(__name__)

#: Between two looks at the file of the next key: who put one there sees it in force within seconds.
LOOK_INTERVAL_S = 2.0


class KeyRotation:
    """The duty of one replica; `run` is to be registered with `Replica.add_duty`."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._told = ""

    async def run(self, journal: Journal) -> None:
        """Looks for the next key until cancelled."""
        principal = f"controller:{self._replica.config.controller.id}"
        while True:
            try:
                await asyncio.to_thread(self._replica.signer.look)
                self._replica.follow_keys()
                if self._replica.signer.next is not None:
                    await rotate(self._replica, journal, principal, "file")
                self._told = ""
            except (OSError, ValueError, JournalError, LogError, FederationError) as error:
                if str(error) != self._told:
                    self._told = str(error)
                    _log.warning(
                        "the next signing key is not in force", extra={"error": self._told}
                    )
            await asyncio.sleep(LOOK_INTERVAL_S)


async def rotate(replica: Replica, journal: Journal, principal: str, source: str) -> None:
    """Puts the next key in force; nothing where that has happened. Raises core errors, journal errors, `LogError`."""
    me = replica.config.controller.id

    def succeed(proposal: Proposal) -> None:
        following = replica.signer.next
        if following is None or proposal.state.keys.knows(me, following.key_id):
            return
        record = audit_pb2.AuditRecord(
            principal=principal,
            action="key.rotated",
            resource=f"controllers/{me}",
            source=source,
            outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
            details={"old_key_id": replica.signer.key_id, "key_id": following.key_id},
        )
        write_audit(proposal, record, domain=replica.config.controller.domain)
        proposal.succeed(following.public_key, principal=principal)

    await journal.submit(succeed)
