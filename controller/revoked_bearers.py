"""Refuses bearers whose certificates are revoked. Owns the refusal and its words, and who is told of as knocking; what
is revoked is `controller.revocation`'s to say.
"""

from __future__ import annotations

from datetime import UTC, datetime

import grpc

from controller.bearer import Bearer, Bearers
from controller.revocation.entries import Entry, Revocations
from controller.revocation.knocks import Knocks
from controller.standing import BearerRefused
from trust.errors import Reason


class RevokedBearers:
    """The check of one replica's bearers."""

    def __init__(self, revocations: Revocations, knocks: Knocks) -> None:
        self._revocations = revocations
        self._knocks = knocks

    def watch(self, bearers: Bearers) -> None:
        """Has bearers judged by this check, from now on."""
        bearers.checks.append(self.check)
        bearers.on_refusal.append(self._note)

    def check(self, bearer: Bearer) -> None:
        """Raises `BearerRefused` for a bearer of what is revoked.

        A revocation is over when what it names has ended; a certificate that has ended and is to be recovered must be
        held against it all the same.
        """
        identity = bearer.identity
        has_ended = bearer.not_after.timestamp() * 1000 <= self._revocations.now_ms()
        find = self._revocations.find_ever if has_ended else self._revocations.find
        entry = find(bearer.lineage, identity.domain, identity.principal, bearer.issued_s)
        if entry is not None:
            raise BearerRefused(
                grpc.StatusCode.UNAUTHENTICATED,
                Reason.REVOKED.value,
                f"the certificate of {identity.principal} of domain {identity.domain} {words_of(entry)}",
                {"revocation": f"domains/{entry.domain}/{entry.subject}"},
            )

    def _note(self, bearer: Bearer, refusal: BearerRefused) -> None:
        if refusal.reason == Reason.REVOKED.value:
            identity = bearer.identity
            self._knocks.take(identity.domain, identity.principal, str(refusal))


def words_of(entry: Entry) -> str:
    """That something is revoked, when, by whom and why."""
    at = datetime.fromtimestamp(entry.revoke_ms / 1000, UTC)
    which = "was revoked"
    if entry.issued_before_s is not None:
        before = datetime.fromtimestamp(entry.issued_before_s, UTC)
        which = f"is older than {before:%Y-%m-%dT%H:%M:%SZ}, and was revoked with all such"
    return f"{which} at {at:%Y-%m-%dT%H:%M:%SZ} by {entry.by}: {entry.reason}"
