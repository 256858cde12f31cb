"""Certificates of machines issued again for who has one: what a bearer must prove, how often, and the audit of it.
Owns the steps that the renewal of a good certificate and the recovery of an expired one have in common.
"""

from __future__ import annotations

import time

from controller.bearer import Bearer, Bearers
from controller.enrolment.attempts import Attempts
from controller.enrolment.enrolments import certificate_of
from controller.enrolment.errors import (
    MachineForeign,
    NoMachine,
    ProofWrong,
    RenewalSuperseded,
    RenewalTooEarly,
    RequestRefused,
)
from controller.issuing import Issuer
from controller.replica import Replica
from controller.writes import write_audit
from souverix.audit.v1 import audit_pb2
from souverix.trust.v1 import join_service_pb2
from trust.authority import requested_key
from trust.certificates import fingerprint, parse_der, parse_pem, to_der
from trust.errors import CertificateRefused
from trust.identity import Kind
from trust.renewal import is_proven

#: Certificates one machine may have at once, and then a second: one in ten minutes. An answer may be lost on a bad link
#: some times; more is a machine that has lost its way, and each is an entry in the audit log.
ISSUES_BURST = 6
ISSUES_PER_S = 1 / 600


class Renewals:
    """Issues again, for one replica."""

    def __init__(self, replica: Replica, issuer: Issuer, bearers: Bearers) -> None:
        self._replica = replica
        self._issuer = issuer
        self._bearers = bearers
        self._issues = Attempts(ISSUES_PER_S, ISSUES_BURST)

    async def issue(
        self,
        bearer: Bearer,
        nonce: bytes,
        request: bytes,
        signature: bytes,
        action: str,
        source: str,
    ) -> join_service_pb2.IssuedCertificate:
        """A certificate for the same identity and the key of a request, audited as `action`.

        Raises `EnrolmentRefused`, `BearerRefused`, `AuthorityNotHeld`, and what the journal raises.
        """
        identity, own = bearer.identity, self._issuer.own_domain
        if identity.domain != own:
            # Certificates of domains below are known here, too: issued here, the name would reach further.
            raise MachineForeign(
                f"the certificate of {identity.principal} is of domain {identity.domain}, and this is the controller "
                f"of {own}; ask that domain's",
                domain=own,
            )
        if identity.kind not in (Kind.NODE, Kind.RELAY):
            raise NoMachine(
                f"{identity.principal} is no machine; its certificate is made by `souverixctl pki issue`"
            )
        if not is_proven(parse_pem(bearer.leaf)[0], nonce, request, signature):
            raise ProofWrong(
                f"the signature is not by the key of the certificate of {identity.principal}"
            )
        try:
            key = requested_key(request)
        except CertificateRefused as error:
            raise RequestRefused(error) from error
        self._check_not_superseded(bearer)
        self._check_pace(identity.principal)
        leaf = self._issuer.issue(key, identity.kind, identity.name)
        self._bearers.of_shown(to_der(leaf))
        record = audit_pb2.AuditRecord(
            principal=identity.principal,
            action=action,
            resource=f"domains/{identity.domain}/{identity.kind}s/{identity.name}",
            source=source,
            outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
            details={"fingerprint": fingerprint(leaf), "replaces": bearer.fingerprint},
        )
        journal = self._replica.journal()
        # Counted before it is waited for: many calls at once are no way around the pace.
        self._issues.note(identity.principal, time.monotonic())
        await journal.submit(lambda proposal: write_audit(proposal, record, domain=identity.domain))
        return self._issuer.answer(leaf)

    def _check_not_superseded(self, bearer: Bearer) -> None:
        """Who was replaced by an enrolment has its key still, and gets nothing for it. Raises `RenewalSuperseded`."""
        identity = bearer.identity
        last = certificate_of(self._replica.state, identity.domain, identity.name)
        if last and bearer.not_before < parse_der(last).not_valid_before_utc:
            raise RenewalSuperseded(
                f"{identity.name} was enrolled anew after this certificate was made; if this is the right machine, "
                "have a token made for it",
                subject=f"nodes/{identity.name}",
            )

    def _check_pace(self, principal: str) -> None:
        wait_s = self._issues.wait_s(principal, time.monotonic())
        if wait_s > 0:
            raise RenewalTooEarly(
                f"{principal} was issued {ISSUES_BURST} certificates in a row; the next one in {wait_s:.0f} s"
            )
