"""JoinService: machines without a certificate that counts. Owns the calls of the enrolment listener; who is let in is
`controller.enrolment`'s to decide, what is issued `controller.issuing`'s.
"""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from google.protobuf.duration_pb2 import Duration

from controller.bearer import Bearers
from controller.enrolment import enrolments, tokens
from controller.enrolment.attempts import Attempts
from controller.enrolment.enrolments import Newcomer, Outcome, admit
from controller.enrolment.errors import (
    EnrolmentRefused,
    RecoveryTooLate,
    RequestRefused,
    TokenUsed,
)
from controller.enrolment.nonces import CHANCE_BYTES, Nonces
from controller.enrolment.queue import Waiting
from controller.enrolment.stages import Stage
from controller.errors import ServiceError
from controller.issuing import Issuer
from controller.renewing import Renewals
from controller.replica import Replica
from controller.services.fleet_fields import check_id
from controller.standing import BearerRefused
from controller.writes import write_audit
from federation.errors import InvalidWrite
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.audit.v1 import audit_pb2
from souverix.trust.v1 import join_service_pb2 as service
from souverix.trust.v1 import join_service_pb2_grpc
from trust.authority import requested_key
from trust.certificates import check_time, parse_der, to_der
from trust.errors import CertificateRefused, Reason
from trust.identity import Kind
from trust.keys import public_key_hash
from trust.renewal import NONCE_BYTES

T = TypeVar("T")

#: Failures a caller may have at once, and then a second. Nobody guesses 256 bits; this bounds work and noise.
FAILURES_BURST = 10
FAILURES_PER_S = 0.2

#: When a machine that waits for approval should ask again.
PENDING_RETRY_S = 5


class JoinService(join_service_pb2_grpc.JoinServiceServicer):
    """The service of one replica."""

    def __init__(
        self,
        replica: Replica,
        issuer: Issuer,
        bearers: Bearers,
        renewals: Renewals,
        waiting: Callable[[], Waiting],
    ) -> None:
        self._replica = replica
        self._renewals = renewals
        self._issuer = issuer
        self._bearers = bearers
        self._waiting = waiting
        self._own_domain = replica.config.controller.domain
        self._failures = Attempts(FAILURES_PER_S, FAILURES_BURST)
        self._nonces = Nonces(os.urandom(NONCE_BYTES))

    async def GetTrustAnchors(self, request: Any, context: Any) -> service.GetTrustAnchorsResponse:
        """Shows chain and roots, which are no secret."""
        shown = self._bearers.held.current
        return service.GetTrustAnchorsResponse(
            certificates=[to_der(c) for c in shown.certificates if c not in shown.roots],
            roots=[to_der(c) for c in shown.roots],
        )

    async def Enrol(self, request: Any, context: Any) -> service.EnrolResponse:
        """Lets a machine in, or has it wait."""
        return await self._counted(context, partial(self._enrol, request, context.peer()))

    async def BeginRecovery(self, request: Any, context: Any) -> service.BeginRecoveryResponse:
        """Gives a nonce."""
        self._replica.journal()  # Only the master can make use of it.
        chance = os.urandom(CHANCE_BYTES)
        return service.BeginRecoveryResponse(nonce=self._nonces.give(chance, _now_ms()))

    async def RecoverCertificate(
        self, request: Any, context: Any
    ) -> service.RecoverCertificateResponse:
        """Renews a certificate that has expired."""
        return await self._counted(context, partial(self._recover, request, context.peer()))

    async def _enrol(self, request: Any, source: str) -> service.EnrolResponse:
        shown = tokens.read(request.token)
        node = check_id(request.node, "node")
        key = _requested_key(request.request)
        newcomer = Newcomer(node, shown, public_key_hash(key), source)
        journal = self._replica.journal()
        committed = await journal.submit(partial(self._admit, newcomer=newcomer, key=key))
        outcome = committed.value
        if outcome.stage is Stage.PENDING:
            return service.EnrolResponse(
                pending=service.EnrolmentPending(
                    retry_after=Duration(seconds=PENDING_RETRY_S),
                    expire_time=outcome.record.expire_time,
                )
            )
        leaf = parse_der(outcome.record.certificate)
        self._check_good(leaf, newcomer)
        return service.EnrolResponse(issued=self._issuer.answer(leaf))

    def _admit(
        self, proposal: Proposal, newcomer: Newcomer, key: EllipticCurvePublicKey
    ) -> Outcome:
        """Decides, and drafts what follows: token, enrolment and audit together, or none of them."""

        def certificate(kind: Kind) -> bytes:
            leaf = self._issuer.issue(key, kind, newcomer.node)
            self._bearers.of_shown(to_der(leaf))  # Nobody is let in to be refused at the door.
            return to_der(leaf)

        domain, now_ms = self._own_domain, proposal.wall_ms
        pending = self._waiting().pending(domain, now_ms)
        outcome = admit(proposal, newcomer, domain, now_ms, pending, certificate)
        principal = f"token:{newcomer.token.id}"
        if outcome.token is not None:
            proposal.write(
                domain, newcomer.token.subject, tokens.ASPECT, outcome.token, principal=principal
            )
        held = proposal.winner(Key(domain, newcomer.subject, enrolments.ASPECT))
        if held is None or held.body() != outcome.record:
            proposal.write(
                domain, newcomer.subject, enrolments.ASPECT, outcome.record, principal=principal
            )
            write_audit(proposal, _audit_of(newcomer, outcome), domain=domain)
        return outcome

    def _check_good(self, leaf: x509.Certificate, newcomer: Newcomer) -> None:
        """A repeat is given its certificate while that is good, and no other in its place. Raises `TokenUsed`."""
        try:
            check_time(leaf, self._issuer.now())
        except CertificateRefused as error:
            raise TokenUsed(
                f"the token has admitted {newcomer.node} before, and of that: {error} (souverix-node recover)"
            ) from error

    async def _recover(self, request: Any, source: str) -> service.RecoverCertificateResponse:
        self._nonces.check(request.nonce, _now_ms())
        self._nonces.use(request.nonce, _now_ms())
        try:
            bearer = self._bearers.of_shown(request.certificate, self._issuer.recovery)
        except BearerRefused as error:
            if error.reason != Reason.EXPIRED.value:
                raise
            raise RecoveryTooLate(
                f"{error}; a certificate is recovered within {self._issuer.recovery.days} days of its end, so have a "
                "token made and enrol anew"
            ) from error
        issued = await self._renewals.issue(
            bearer,
            request.nonce,
            request.request,
            request.signature,
            "certificate.recovered",
            source,
        )
        return service.RecoverCertificateResponse(issued=issued)

    async def _counted(self, context: Any, call: Callable[[], Awaitable[T]]) -> T:
        """A call of somebody nobody vouches for: refused for a while after too many failures."""
        caller, now_s = _host_of(context.peer()), time.monotonic()
        wait_s = self._failures.wait_s(caller, now_s)
        if wait_s > 0:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "ENROLMENT_ATTEMPTS_EXCEEDED",
                f"too many failed attempts from {caller}; the next one is looked at in {wait_s:.0f} s",
                retry_after_ms=int(wait_s * 1000) + 1,
            )
        try:
            return await call()
        except (EnrolmentRefused, InvalidWrite, BearerRefused):
            self._failures.note(caller, now_s)
            raise


def _requested_key(request: bytes) -> EllipticCurvePublicKey:
    try:
        return requested_key(request)
    except CertificateRefused as error:
        raise RequestRefused(error) from error


def _host_of(peer: str) -> str:
    """Who calls, whatever the port: "ipv4:192.0.2.7"."""
    return peer.rpartition(":")[0]


def _audit_of(newcomer: Newcomer, outcome: Outcome) -> audit_pb2.AuditRecord:
    details = {"token": newcomer.token.id, "key": newcomer.key_hash.hex()}
    if outcome.record.certificate:
        details["fingerprint"] = hashlib.sha256(outcome.record.certificate).hexdigest()
    issued = outcome.stage is Stage.ISSUED
    return audit_pb2.AuditRecord(
        principal=f"token:{newcomer.token.id}",
        action="certificate.enrolled" if issued else "enrolment.requested",
        resource=enrolments.enrolment_name(newcomer.token.domain, newcomer.subject),
        source=newcomer.source,
        outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
        details=details,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
