"""Reads certificates and judges chains. Owns bounds, the identity a certificate names, and what makes a chain good at a
given time (RFC 5280 §6, narrowed); never issues one and never asks what time it is.

Narrowed: every certificate names exactly one identity of this project; every issuer is the authority of a domain that
names itself; the leaf's domain is its direct issuer's. TLS checks the chain as well, but not who may name whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from trust.errors import CertificateRefused, NameInvalid, Reason
from trust.identity import ROOT_NAME, Identity, Kind
from trust.keys import is_tls_key

#: Longest PEM that is parsed: a chain of the longest length, with comments.
MAX_PEM_BYTES = 128 * 1024

#: Longest certificate: ours take under 1 KiB.
MAX_CERTIFICATE_BYTES = 16 * 1024

#: Certificates of a chain from leaf to root: a tree of domains is a few levels deep.
MAX_CHAIN = 12

#: Trusted roots at once: one, and another while roots are exchanged, with room.
MAX_ROOTS = 8

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that was found good: from the leaf to the root, which is included."""

    identity: Identity
    certificates: tuple[x509.Certificate, ...]

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate that the chain is for."""
        return self.certificates[0]

    @property
    def authority(self) -> x509.Certificate:
        """The certificate of the authority that issued the leaf."""
        return self.certificates[1]

    @property
    def path(self) -> tuple[str, ...]:
        """The domains of the authorities, root first: the leaf's domain is the last."""
        return path_of(self.certificates[1:])


def parse_pem(data: bytes, most: int = MAX_CHAIN) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM file, in its order; other blocks, such as a key, are passed over.

    Raises `CertificateRefused`.
    """
    if len(data) > MAX_PEM_BYTES:
        raise CertificateRefused(
            Reason.TOO_LARGE,
            f"certificates of {len(data)} bytes; at most {MAX_PEM_BYTES} are read",
        )
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    blocks = [begin + part.partition(end)[0] + end + b"\n" for part in data.split(begin)[1:]]
    if not 0 < len(blocks) <= most:
        raise CertificateRefused(
            Reason.MALFORMED if not blocks else Reason.TOO_LARGE,
            f"{len(blocks)} certificates where 1 to {most} are expected",
        )
    try:
        found = tuple(x509.load_pem_x509_certificate(block) for block in blocks)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateRefused(Reason.MALFORMED, f"no certificate in PEM: {error}") from error
    for certificate in found:
        _check_sound(certificate)
    return found


def parse_der(data: bytes) -> x509.Certificate:
    """One certificate. Raises `CertificateRefused`."""
    _check_size(data)
    try:
        found = x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateRefused(Reason.MALFORMED, f"no certificate in DER: {error}") from error
    _check_sound(found)
    return found


def to_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Certificates as PEM, in their order."""
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def to_der(certificate: x509.Certificate) -> bytes:
    """The bytes that were signed, and the signature."""
    return certificate.public_bytes(serialization.Encoding.DER)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, as 64 hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def identity_of(certificate: x509.Certificate) -> Identity:
    """Whom a certificate names: its only URI. Raises `CertificateRefused`."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise NameInvalid(f"{len(uris)} URIs where exactly one names the bearer")
        return Identity.parse(uris[0])
    except x509.ExtensionNotFound as error:
        raise CertificateRefused(
            Reason.NO_IDENTITY, "the certificate has no SPIFFE id among its alternative names"
        ) from error
    except NameInvalid as error:
        raise CertificateRefused(Reason.NO_IDENTITY, f"the certificate: {error}") from error


def path_of(authorities: Sequence[x509.Certificate]) -> tuple[str, ...]:
    """The domains of authorities, given from the lowest to the root; root domain first in the answer."""
    path: list[str] = []
    for certificate in reversed(authorities):
        domain = identity_of(certificate).domain
        if domain not in path:
            path.append(domain)
    return tuple(path)


def path_to_root(
    certificates: Sequence[x509.Certificate], roots: Iterable[x509.Certificate]
) -> tuple[str, ...]:
    """The domains from a root's to a leaf's (the first), whatever the time. Raises `CertificateRefused`."""
    return path_of(_to_a_root(certificates, roots)[1:])


def check_time(certificate: x509.Certificate, at: datetime) -> None:
    """Raises `CertificateRefused` unless the certificate is valid at a time (with its zone)."""
    if at < certificate.not_valid_before_utc:
        raise CertificateRefused(
            Reason.NOT_YET_VALID,
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} on; is a clock "
            "wrong?",
        )
    if at > certificate.not_valid_after_utc:
        raise CertificateRefused(
            Reason.EXPIRED,
            f"the certificate was valid until {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}; renew it",
        )


def check_issued(
    leaf: x509.Certificate, authorities: Iterable[x509.Certificate], at: datetime
) -> x509.Certificate:
    """The authority, of those given, that issued a leaf directly; both are valid at a time, and of one domain.

    Raises `CertificateRefused`.
    """
    named = identity_of(leaf)
    _check_leaf(leaf, named)
    check_time(leaf, at)
    for authority in authorities:
        if _signed(leaf, authority):
            owner = _check_authority(authority)
            check_time(authority, at)
            _check_names(leaf, named, owner)
            return authority
    raise CertificateRefused(
        Reason.UNKNOWN_ISSUER,
        f"{named} was not issued by a known authority of domain {named.domain}",
    )


def issuer_among(
    certificate: x509.Certificate, authorities: Iterable[x509.Certificate]
) -> x509.Certificate | None:
    """The authority, of those given, whose key signed a certificate; None: none did."""
    return next((each for each in authorities if _signed(certificate, each)), None)


def verify_chain(
    certificates: Sequence[x509.Certificate], roots: Iterable[x509.Certificate], at: datetime
) -> Chain:
    """The chain from a leaf (the first) to one of the roots, good at a time. Raises `CertificateRefused`.

    The others may come in any order; one that does not belong to the chain has the whole refused. The chain proves the
    path of domains that it goes; a caller who knows the tree compares (`Chain.path`), or knows the authority
    (`check_issued`).
    """
    chain = _to_a_root(certificates, roots)
    leaf = chain[0]
    identity = identity_of(leaf)
    _check_leaf(leaf, identity)
    check_time(leaf, at)
    authorities = chain[1:]
    _check_names(leaf, identity, _check_authority(authorities[0]))
    _check_authorities(authorities, at)
    for authority in authorities:
        _check_dns_names(leaf, authority)
    return Chain(identity, chain)


def verify_authorities(
    certificates: Sequence[x509.Certificate], roots: Iterable[x509.Certificate], at: datetime
) -> tuple[x509.Certificate, ...]:
    """Authorities from the lowest (the first) to a root, which is included, good at a time.

    Raises `CertificateRefused`.
    """
    chain = _to_a_root(certificates, roots)
    _check_authorities(chain, at)
    return chain


def _to_a_root(
    certificates: Sequence[x509.Certificate], roots: Iterable[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    if not 0 < len(certificates) <= MAX_CHAIN:
        raise CertificateRefused(
            Reason.TOO_LARGE,
            f"a chain of {len(certificates)} certificates; 1 to {MAX_CHAIN} are read",
        )
    anchors = tuple(roots)
    chain = [certificates[0]]
    others = [c for c in certificates[1:] if c not in anchors]
    while chain[-1] not in anchors:
        above = next((c for c in (*anchors, *others) if _signed(chain[-1], c)), None)
        if above is None:
            raise CertificateRefused(
                Reason.UNKNOWN_ISSUER,
                f"the issuer of {identity_of(chain[-1])} is neither a trusted root nor part of the chain",
            )
        if above in others:
            others.remove(above)
        chain.append(above)
    if others:
        raise CertificateRefused(
            Reason.MALFORMED, f"{len(others)} certificates do not belong to the chain"
        )
    return tuple(chain)


def _check_authorities(chain: Sequence[x509.Certificate], at: datetime) -> None:
    """Checks authorities, given from the lowest to the root, and what each says of those below it."""
    for depth, authority in enumerate(chain):
        owner = _check_authority(authority)
        check_time(authority, at)
        _check_depth(authority, depth)
        if depth + 1 < len(chain):
            _check_below(owner, identity_of(chain[depth + 1]))
        for below in chain[:depth]:
            _check_narrower(below, authority)


def _check_size(der: bytes) -> None:
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise CertificateRefused(
            Reason.TOO_LARGE,
            f"a certificate of {len(der)} bytes; at most {MAX_CERTIFICATE_BYTES} are read",
        )


def _check_sound(certificate: x509.Certificate) -> None:
    """Reads every part that is used later: the library reads parts when they are asked for, and fails only then."""
    _check_size(to_der(certificate))
    try:
        _ = (
            certificate.issuer,
            certificate.subject,
            certificate.extensions,
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
        )
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateRefused(Reason.MALFORMED, f"a part of the certificate: {error}") from error


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    if certificate.issuer != authority.subject or not is_tls_key(_public_key(authority)):
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _public_key(certificate: x509.Certificate) -> object:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):  # Bytes that are no key, or a curve nobody knows.
        return None


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _check_authority(certificate: x509.Certificate) -> Identity:
    """Whose authority a certificate is. Raises `CertificateRefused` where it is none."""
    owner = identity_of(certificate)
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if (
        owner.kind is not Kind.AUTHORITY
        or constraints is None
        or not constraints.ca
        or usage is None
        or not usage.key_cert_sign
    ):
        raise CertificateRefused(
            Reason.NOT_AN_AUTHORITY, f"{owner} is no authority, and issued a certificate"
        )
    if owner.name not in (owner.domain, ROOT_NAME):
        raise CertificateRefused(
            Reason.NO_IDENTITY, f"{owner} is an authority that bears another domain's name"
        )
    return owner


def _check_leaf(certificate: x509.Certificate, identity: Identity) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    usages = _extension(certificate, x509.ExtendedKeyUsage)
    if identity.kind is Kind.AUTHORITY or (constraints is not None and constraints.ca):
        raise CertificateRefused(
            Reason.NOT_A_LEAF, f"{identity} is an authority's certificate and admits nobody"
        )
    if usages is None or ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        raise CertificateRefused(Reason.NOT_A_LEAF, f"{identity} is not meant for clients of TLS")
    if not is_tls_key(_public_key(certificate)):
        raise CertificateRefused(Reason.KEY_UNFIT, f"{identity} has no ECDSA P-256 key")


def _check_names(leaf: x509.Certificate, named: Identity, owner: Identity) -> None:
    if (named.trust_domain, named.domain) != (owner.trust_domain, owner.domain):
        raise CertificateRefused(
            Reason.OUT_OF_REACH,
            f"{named} was issued by {owner}, which names members of {owner.domain} only",
        )


def _check_below(lower: Identity, upper: Identity) -> None:
    """One trust domain from end to end: what an authority names below itself is then held by name constraints."""
    if lower.trust_domain != upper.trust_domain:
        raise CertificateRefused(
            Reason.OUT_OF_REACH, f"{lower} was issued by {upper}, of another trust domain"
        )


def _check_depth(authority: x509.Certificate, authorities_below: int) -> None:
    constraints = _extension(authority, x509.BasicConstraints)
    if (
        constraints is not None
        and constraints.path_length is not None
        and authorities_below > constraints.path_length
    ):
        raise CertificateRefused(
            Reason.OUT_OF_REACH,
            f"{identity_of(authority)} may have {constraints.path_length} authorities below it, and "
            f"{authorities_below} are in the chain",
        )


def permitted_dns_names(authority: x509.Certificate) -> tuple[str, ...] | None:
    """The DNS names below which an authority may name servers; None: any."""
    constraints = _extension(authority, x509.NameConstraints)
    if constraints is None or constraints.permitted_subtrees is None:
        return None
    return tuple(n.value for n in constraints.permitted_subtrees if isinstance(n, x509.DNSName))


def dns_names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names among a certificate's alternative names."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    return () if names is None else tuple(names.get_values_for_type(x509.DNSName))


def ip_addresses_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The IP addresses among a certificate's alternative names."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    return () if names is None else tuple(map(str, names.get_values_for_type(x509.IPAddress)))


def is_permitted(name: str, permitted: Iterable[str]) -> bool:
    """Tells whether a DNS name is one of those given, or below one."""
    return any(name == p or name.endswith("." + p) for p in permitted)


def _check_dns_names(certificate: x509.Certificate, authority: x509.Certificate) -> None:
    permitted = permitted_dns_names(authority)
    if permitted is None:
        return
    for name in dns_names_of(certificate):
        if not is_permitted(name, permitted):
            raise CertificateRefused(
                Reason.OUT_OF_REACH,
                f"{identity_of(authority)} may name servers below {', '.join(permitted)} only, and {name} is not",
            )


def _check_narrower(below: x509.Certificate, above: x509.Certificate) -> None:
    """An authority may name servers only where the one above it may."""
    permitted = permitted_dns_names(above)
    if permitted is None:
        return
    names = permitted_dns_names(below)
    if names is None or not all(is_permitted(name, permitted) for name in names):
        raise CertificateRefused(
            Reason.OUT_OF_REACH,
            f"{identity_of(below)} may name servers that {identity_of(above)}, above it, may not",
        )
