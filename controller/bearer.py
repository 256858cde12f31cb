"""Who bears the certificate at the other end of a call. Owns which authority may have issued it, and what proves the
caller of a call that is being served; what a bearer may do is for others to decide.

TLS has checked a chain to the root before any of this runs. That does not say who may name whom: here the leaf must
have been issued by the one authority that is known for the domain it names. The own domain and those above are known
from the own chain; others from facts that controllers above them stated (`CertificateAuthority`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from cryptography import x509

from controller.revocation.targets import ASPECT as REVOCATION
from controller.revocation.targets import Issued
from controller.standing import BearerRefused, StandingCalls
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
from trust.tokens import Person

#: Aspect of the facts that name authorities.
ASPECT = "certificate_authority"

#: Leaves kept judged: more than the connections of any controller. Beyond it all are judged anew.
MAX_JUDGED = 65_536

#: Metadata in which people's programs show their tokens (RFC 6750).
AUTHORIZATION = "authorization"

#: gRPC's name for the peer's leaf, in PEM, and for what secures a connection.
_LEAF = "x509_pem_cert"
_SECURITY = "transport_security_type"


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

    @property
    def principal(self) -> str:
        """Whom it names, as in `user:alice`."""
        return self.identity.principal

    @property
    def domain(self) -> str:
        """Domain whose authority issued it: the widest scope."""
        return self.identity.domain

    @property
    def groups(self) -> tuple[str, ...]:
        """None: certificates name no groups."""
        return ()


@dataclass(frozen=True, slots=True)
class TokenBearer:
    """Whom a person's token names."""

    person: Person
    #: Domain of the controller that accepted it, whose word it is from then on: the widest scope.
    domain: str
    token: str = field(repr=False)

    @property
    def principal(self) -> str:
        """Whom it names, as in `oidc:alice@corp`."""
        return self.person.principal

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups it names, as in `group:noc@corp`."""
        return self.person.groups

    @property
    def not_after(self) -> datetime:
        """Until when it is good."""
        return self.person.not_after


#: What proves a caller.
Proof = Bearer | TokenBearer

_PROOF: ContextVar[Proof | None] = ContextVar("proof", default=None)


def current_proof() -> Proof | None:
    """What proves the caller of the call that is being served; None without TLS."""
    return _PROOF.get()


def current_bearer() -> Bearer | None:
    """The certificate at the other end of the call that is being served; None without TLS.

    Raises `BearerRefused` for a call that is proved by a token: what asks this is for machines.
    """
    proof = _PROOF.get()
    if isinstance(proof, TokenBearer):
        raise BearerRefused(
            grpc.StatusCode.UNAUTHENTICATED,
            "CERTIFICATE_MISSING",
            f"{proof.principal} shows a token, and machines prove themselves by certificates",
        )
    return proof


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


def token_shown(context: Any) -> bool:
    """Tells whether a call bears a token, or anything else in its place."""
    return any(key == AUTHORIZATION for key, _ in context.invocation_metadata() or ())


class Bearers:
    """Judges the bearers of one replica's callers."""

    def __init__(
        self,
        held: ReloadedCredentials,
        state: State,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.held = held
        self._state = state
        self._now = now
        self._judged: dict[bytes, Bearer] = {}
        self._calls: StandingCalls[Bearer] = StandingCalls(now)
        #: Further judgements of a bearer, made as often as this one's; each raises `BearerRefused`.
        self.checks: list[Callable[[Bearer], None]] = []
        #: Told of every bearer that wants in and that a check refused.
        self.on_refusal: list[Callable[[Bearer, BearerRefused], None]] = []
        #: Called when what is known has changed, after calls that go on were judged anew.
        self.on_recheck: list[Callable[[], None]] = []

    def of_call(self, context: Any) -> Bearer:
        """The bearer at the other end of a call. Raises `BearerRefused`."""
        if token_shown(context):
            raise BearerRefused(
                grpc.StatusCode.UNAUTHENTICATED,
                "TOKEN_NOT_TAKEN",
                "a token was shown, and this listener takes certificates alone; tokens are taken at the controller's "
                "listen.people_address",
            )
        shown = context.auth_context().get(_LEAF)
        if not shown:
            raise BearerRefused(
                grpc.StatusCode.UNAUTHENTICATED,
                "CERTIFICATE_MISSING",
                "no certificate was shown, and this listener demands one",
            )
        return self._admit(shown[0])

    def of_certificate(self, leaf: bytes) -> Bearer:
        """The bearer of a leaf, in PEM, that was shown otherwise than by TLS. Whether who shows it holds its key is not
        known by this. Raises `BearerRefused`.
        """
        try:
            # As it is kept: text around it must not make many of one.
            leaf = to_pem(parse_pem(leaf, most=1))
        except CertificateRefused as error:
            raise _refused(error) from error
        return self._admit(leaf)

    def _admit(self, leaf: bytes) -> Bearer:
        return self._let_in(self._of_leaf(leaf))

    def _let_in(self, bearer: Bearer) -> Bearer:
        try:
            self._check(bearer)
        except BearerRefused as refusal:
            refusal.bearer = bearer
            for listener in self.on_refusal:
                listener(bearer, refusal)
            raise
        return bearer

    def has_ended(self, bearer: Bearer) -> bool:
        """Tells whether a bearer's certificate has ended since it was judged."""
        return self._now() > bearer.not_after

    def why_refused(self, bearer: Bearer) -> str:
        """Why a bearer who was judged before would not be let in now; empty: it would."""
        try:
            self._check(self._of_leaf(bearer.leaf))
        except BearerRefused as refusal:
            return str(refusal)
        return ""

    def _of_leaf(self, leaf: bytes) -> Bearer:
        bearer = self._judged.get(leaf)
        if bearer is None or not bearer.not_before <= self._now() <= bearer.not_after:
            bearer = self._judge(leaf)
        return bearer

    def _check(self, bearer: Bearer) -> None:
        for check in self.checks:
            check(bearer)

    def of_shown(self, der: bytes, ended_within: timedelta = timedelta(0)) -> Bearer:
        """The bearer that a certificate names which was sent rather than shown to TLS; it may have ended so long ago.

        Raises `BearerRefused`.
        """
        try:
            certificate = parse_der(der)
            identity = identity_of(certificate)
            now, ends = self._now(), certificate.not_valid_after_utc
            at = ends if ends < now <= ends + ended_within else now
            issuer = check_issued(certificate, self.authorities_of(identity.domain), at)
        except CertificateRefused as error:
            raise _refused(error) from error
        return self._let_in(self._bearer(certificate, to_pem([certificate]), issuer))

    def _judge(self, leaf: bytes) -> Bearer:
        try:
            certificate = parse_pem(leaf)[0]
            identity = identity_of(certificate)
            issuer = check_issued(certificate, self.authorities_of(identity.domain), self._now())
        except CertificateRefused as error:
            raise _refused(error) from error
        bearer = self._bearer(certificate, leaf, issuer)
        if len(self._judged) >= MAX_JUDGED:
            self._judged.clear()
        self._judged[leaf] = bearer
        return bearer

    def authorities_of(self, domain: str) -> list[x509.Certificate]:
        """The authorities that may name members of a domain."""
        known = [c for c in self.held.current.authorities if identity_of(c).domain == domain]
        return known + stated_authorities(self._state, domain)

    def _bearer(
        self, certificate: x509.Certificate, leaf: bytes, issuer: x509.Certificate
    ) -> Bearer:
        return Bearer(
            identity_of(certificate),
            fingerprint(certificate),
            leaf,
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            tuple(self._lineage(certificate, issuer)),
        )

    def _lineage(
        self, certificate: x509.Certificate, issuer: x509.Certificate | None
    ) -> Iterator[Issued]:
        """The certificates from a leaf up to below the root, each with the domain of its issuer."""
        # The own ones whatever is known of the tree yet; those below from the facts, which come with the tree.
        known = list(self.held.current.authorities)
        for domain in self._state.authority.path_of(identity_of(certificate).domain) or ():
            known += stated_authorities(self._state, domain)
        for _ in range(MAX_CHAIN):
            if issuer is None or issuer == certificate:
                return
            domain = identity_of(issuer).domain
            yield Issued(domain, fingerprint(certificate), f"{certificate.serial_number:x}")
            certificate, issuer = issuer, issuer_among(issuer, known)

    # Calls that go on.

    def standing(self, bearer: Bearer) -> AbstractAsyncContextManager[None]:
        """The call lasts as long as the block, at most until the certificate ends. Raises `BearerRefused` then."""
        return self._calls.standing(
            bearer,
            bearer.not_after,
            BearerRefused(
                grpc.StatusCode.UNAUTHENTICATED,
                Reason.EXPIRED.value,
                f"the certificate of {bearer.principal} ended at {bearer.not_after:%Y-%m-%dT%H:%M:%SZ}",
            ),
        )

    def recheck(self) -> None:
        """Judges the bearers of all calls that go on, because what is known has changed; ends those refused."""
        self._judged.clear()
        self._calls.recheck(lambda bearer: self._check(self._of_leaf(bearer.leaf)))
        self._tell_rechecked()

    def note(self, applied: Applied) -> None:
        """Rechecks when a commit brought facts that name authorities, or that revoke certificates: then no signature is
        judged anew, for there may be many calls.
        """
        aspects = {key.aspect for key in applied.keys}
        if ASPECT in aspects:
            self.recheck()
        elif REVOCATION in aspects:
            self._calls.recheck(self._check)
            self._tell_rechecked()

    def _tell_rechecked(self) -> None:
        for listener in self.on_recheck:
            listener()


def _refused(error: CertificateRefused) -> BearerRefused:
    return BearerRefused(grpc.StatusCode.UNAUTHENTICATED, error.reason.value, str(error))


def now_serving(proof: Proof) -> None:
    """Makes a proof the current one for the rest of the `serving` block."""
    _PROOF.set(proof)


@contextlib.contextmanager
def serving(proof: Proof | None = None) -> Iterator[None]:
    """A call: within the block a proof may be the current one, after it none is."""
    token = _PROOF.set(proof)
    try:
        yield
    finally:
        _PROOF.reset(token)


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
