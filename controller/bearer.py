"""Who bears the certificate at the other end of a call. Owns which authority may have issued it, and the end of calls
whose certificate is no longer good; what a bearer may do is for others to decide.

TLS has checked a chain to the root before any of this runs. That does not say who may name whom: here the leaf must
have been issued by the one authority that is known for the domain it names. The own domain and those above are known
from the own chain; others from facts that controllers above them stated (`CertificateAuthority`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
from cryptography import x509

from controller.errors import ServiceError
from controller.revocation.targets import ASPECT as REVOCATION
from controller.revocation.targets import Issued
from federation.identifiers import Key
from federation.state import Applied, State
from trust.authority import BACKDATED
from trust.certificates import (
    MAX_CHAIN,
    check_issued,
    fingerprint,
    identity_of,
    issuer_among,
    parse_der,
    parse_pem,
    to_pem,
)
from trust.errors import CertificateRefused, Reason
from trust.files import ReloadedCredentials
from trust.identity import Identity, Kind

#: Aspect of the facts that name authorities.
ASPECT = "certificate_authority"

#: Leaves kept judged: more than the connections of any controller. Beyond it all are judged anew.
MAX_JUDGED = 65_536

#: gRPC's name for the peer's leaf, in PEM, and for what secures a connection.
_LEAF = "x509_pem_cert"
_SECURITY = "transport_security_type"


class BearerRefused(ServiceError):
    """Whoever calls has no certificate that counts here, or is not who it says it is. Audited, whatever was called.

    `bearer` is set where the certificate is sound, and something else is wrong with it.
    """

    bearer: Bearer | None = None


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a certificate names, and until when."""

    identity: Identity
    fingerprint: str
    #: The certificate, in PEM.
    leaf: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    #: The certificates that the bearer rests on: its leaf, then the authorities up to the root, which is left out.
    lineage: tuple[Issued, ...] = ()

    @property
    def issued_s(self) -> int:
        """When the leaf was issued, in seconds since the epoch."""
        return int((self.not_before + BACKDATED).timestamp())


_BEARER: ContextVar[Bearer | None] = ContextVar("bearer", default=None)


def current_bearer() -> Bearer | None:
    """The bearer at the other end of the call that is being served; None without TLS."""
    return _BEARER.get()


def check_bearer(kind: Kind, name: str, domain: str) -> None:
    """Refuses a call whose bearer is not who the caller says it is; without TLS all pass. Raises `BearerRefused`."""
    bearer = current_bearer()
    if bearer is None:
        return
    found = bearer.identity
    if (found.kind, found.name, found.domain) != (kind, name, domain):
        raise BearerRefused(
            grpc.StatusCode.PERMISSION_DENIED,
            "IDENTITY_MISMATCH",
            f"the certificate is of {found.principal} of domain {found.domain}, and the caller says it is "
            f"{kind}:{name} of domain {domain}",
        )


def is_secured(context: Any) -> bool:
    """Tells whether a call came over TLS."""
    return b"ssl" in context.auth_context().get(_SECURITY, ())


class Standing:
    """A call that goes on: ended when its bearer's certificate is."""

    def __init__(self, bearer: Bearer, scope: asyncio.Timeout) -> None:
        self.bearer = bearer
        self.refusal: BearerRefused | None = None
        self._scope = scope

    def end(self, refusal: BearerRefused) -> None:
        """Ends the call now, with a status."""
        if self.refusal is None:
            self.refusal = refusal
            self._scope.reschedule(asyncio.get_running_loop().time())


class Bearers:
    """Judges the bearers of one replica's callers."""

    def __init__(
        self,
        held: ReloadedCredentials,
        state: State,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._held = held
        self._state = state
        self._now = now
        self._judged: dict[bytes, Bearer] = {}
        self._standing: set[Standing] = set()
        #: Further judgements of a bearer, made as often as this one's; each raises `BearerRefused`.
        self.checks: list[Callable[[Bearer], None]] = []
        #: Told of every bearer that wants in and that a check refused.
        self.on_refusal: list[Callable[[Bearer, BearerRefused], None]] = []

    def of_call(self, context: Any) -> Bearer:
        """The bearer at the other end of a call. Raises `BearerRefused`."""
        shown = context.auth_context().get(_LEAF)
        if not shown:
            raise BearerRefused(
                grpc.StatusCode.UNAUTHENTICATED,
                "CERTIFICATE_MISSING",
                "no certificate was shown, and this listener demands one",
            )
        return self._admit(shown[0])

    def of_certificate(self, leaf: bytes) -> Bearer:
        """The bearer of a leaf, in PEM, that was shown to somebody who vouches for it. Raises `BearerRefused`."""
        try:
            # As it is kept: text around it must not make many of one.
            leaf = to_pem(parse_pem(leaf, most=1))
        except CertificateRefused as error:
            raise _refused(error) from error
        return self._admit(leaf)

    def _admit(self, leaf: bytes) -> Bearer:
        bearer = self._of_leaf(leaf)
        try:
            self._check(bearer)
        except BearerRefused as refusal:
            refusal.bearer = bearer
            for listener in self.on_refusal:
                listener(bearer, refusal)
            raise
        return bearer

    def _of_leaf(self, leaf: bytes) -> Bearer:
        bearer = self._judged.get(leaf)
        if bearer is None or not bearer.not_before <= self._now() <= bearer.not_after:
            bearer = self._judge(leaf)
        return bearer

    def _check(self, bearer: Bearer) -> None:
        for check in self.checks:
            check(bearer)

    def _judge(self, leaf: bytes) -> Bearer:
        try:
            certificate = parse_pem(leaf)[0]
            identity = identity_of(certificate)
            issuer = check_issued(certificate, self.authorities_of(identity.domain), self._now())
        except CertificateRefused as error:
            raise _refused(error) from error
        bearer = Bearer(
            identity,
            fingerprint(certificate),
            leaf,
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            tuple(self._lineage(certificate, issuer)),
        )
        if len(self._judged) >= MAX_JUDGED:
            self._judged.clear()
        self._judged[leaf] = bearer
        return bearer

    def authorities_of(self, domain: str) -> list[x509.Certificate]:
        """The authorities that may name members of a domain."""
        known = [c for c in self._held.current.authorities if identity_of(c).domain == domain]
        return known + stated_authorities(self._state, domain)

    def _lineage(
        self, certificate: x509.Certificate, issuer: x509.Certificate | None
    ) -> Iterator[Issued]:
        """The certificates from a leaf up to below the root, each with the domain of its issuer."""
        path = self._state.authority.path_of(identity_of(certificate).domain) or ()
        known = [each for domain in reversed(path) for each in self.authorities_of(domain)]
        for _ in range(MAX_CHAIN):
            if issuer is None or issuer == certificate:
                return
            domain = identity_of(issuer).domain
            yield Issued(domain, fingerprint(certificate), f"{certificate.serial_number:x}")
            certificate, issuer = issuer, issuer_among(issuer, known)

    # Calls that go on.

    @contextlib.asynccontextmanager
    async def standing(self, bearer: Bearer) -> AsyncIterator[None]:
        """The call lasts as long as the block, at most until the certificate ends. Raises `BearerRefused` then."""
        remaining_s = (bearer.not_after - self._now()).total_seconds()
        call: Standing | None = None
        try:
            async with asyncio.timeout(max(0.0, remaining_s)) as scope:
                call = Standing(bearer, scope)
                self._standing.add(call)
                yield
        except TimeoutError as error:
            if call is None or not scope.expired():
                raise
            raise call.refusal or BearerRefused(
                grpc.StatusCode.UNAUTHENTICATED,
                Reason.EXPIRED.value,
                f"the certificate of {bearer.identity.principal} ended at {bearer.not_after:%Y-%m-%dT%H:%M:%SZ}",
            ) from error
        finally:
            if call is not None:
                self._standing.discard(call)

    def recheck(self) -> None:
        """Judges the bearers of all calls that go on, because what is known has changed; ends those refused."""
        self._judged.clear()
        self._end_refused(lambda call: self._check(self._of_leaf(call.bearer.leaf)))

    def note(self, applied: Applied) -> None:
        """Rechecks when a commit brought facts that name authorities, or that revoke certificates: then no signature is
        judged anew, for there may be many calls.
        """
        aspects = {key.aspect for key in applied.keys}
        if ASPECT in aspects:
            self.recheck()
        elif REVOCATION in aspects:
            self._end_refused(lambda call: self._check(call.bearer))

    def _end_refused(self, judge: Callable[[Standing], None]) -> None:
        for call in list(self._standing):
            try:
                judge(call)
            except BearerRefused as refusal:
                call.end(refusal)


def _refused(error: CertificateRefused) -> BearerRefused:
    return BearerRefused(grpc.StatusCode.UNAUTHENTICATED, error.reason.value, str(error))


def now_serving(bearer: Bearer) -> None:
    """Makes a bearer the current one for the rest of the `serving` block."""
    _BEARER.set(bearer)


@contextlib.contextmanager
def serving(bearer: Bearer | None = None) -> Iterator[None]:
    """A call: within the block a bearer may be the current one, after it none is."""
    token = _BEARER.set(bearer)
    try:
        yield
    finally:
        _BEARER.reset(token)


def stated_authorities(state: State, domain: str) -> list[x509.Certificate]:
    """The authorities of a domain that a controller above it stated; none for a statement that names others."""
    write = state.winner(Key(domain, f"domains/{domain}", ASPECT))
    if write is None:
        return []
    found = []
    for der in write.body().certificates:
        with contextlib.suppress(CertificateRefused):
            certificate = parse_der(der)
            if identity_of(certificate).domain == domain:
                found.append(certificate)
    return found
