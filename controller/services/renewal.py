"""RenewalService: machines that renew a certificate while it is good. Owns who may bring which; the rest is
`controller.renewing`'s.
"""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

from typing import Any

import grpc

from controller.bearer import Bearer, Bearers, current_bearer
from controller.enrolment.errors import RenewalTooEarly
from controller.errors import ServiceError
from controller.issuing import Issuer
from controller.renewing import Renewals
from controller.standing import BearerRefused
from souverix.trust.v1 import join_service_pb2 as service
from souverix.trust.v1 import join_service_pb2_grpc
from trust.authority import renewal_time
from trust.certificates import parse_der
from trust.identity import Kind

#: Share of its life after which a certificate may be renewed: well before it has to be, and not all the time.
RENEWABLE_AT = 1 / 3


class RenewalService(join_service_pb2_grpc.RenewalServiceServicer):
    """The service of one replica; without an issuer nothing is renewed here."""

    def __init__(
        self,
        own_domain: str,
        issuer: Issuer | None,
        bearers: Bearers | None,
        renewals: Renewals | None,
    ) -> None:
        self._own_domain = own_domain
        self._issuer = issuer
        self._bearers = bearers
        self._renewals = renewals

    async def RenewCertificate(
        self, request: Any, context: Any
    ) -> service.RenewCertificateResponse:
        """Issues for the same identity and another key."""
        if self._issuer is None or self._bearers is None or self._renewals is None:
            # No refusal for the audit log: every machine asks, where certificates are renewed by files. Nothing is held
            # against the caller; the method is not served here.
            raise ServiceError(
                grpc.StatusCode.UNIMPLEMENTED,
                "AUTHORITY_NOT_HELD",
                f"this controller holds no certificate authority of {self._own_domain}; renew by files "
                "(souverixctl pki issue --replace), or configure [authority]",
                {"domain": self._own_domain},
            )
        bearer = self._bearers.of_shown(request.certificate)
        _check_bringer(bearer, current_bearer())
        certificate = parse_der(request.certificate)
        due = renewal_time(certificate, RENEWABLE_AT)
        if self._issuer.now() < due and not self._issuer.has_replaced(certificate):
            raise RenewalTooEarly(
                f"the certificate of {bearer.identity.principal} may be renewed from {due:%Y-%m-%dT%H:%M:%SZ} on"
            )
        issued = await self._renewals.issue(
            bearer,
            b"",
            request.request,
            request.signature,
            "certificate.renewed",
            context.peer(),
        )
        return service.RenewCertificateResponse(issued=issued)


def _check_bringer(bearer: Bearer, bringer: Bearer | None) -> None:
    """A machine brings its own; a relay also those of machines of its domain. Raises `BearerRefused`."""
    brought, by = bearer.identity, bringer.identity if bringer is not None else None
    relayed = by is not None and (by.kind, by.domain) == (Kind.RELAY, brought.domain)
    if by != brought and not relayed:
        who = by.principal if by is not None else "somebody without a certificate"
        raise BearerRefused(
            grpc.StatusCode.PERMISSION_DENIED,
            "IDENTITY_MISMATCH",
            f"{who} asks for a certificate of {brought.principal}",
        )
