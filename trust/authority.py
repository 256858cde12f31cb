"""A certificate authority: makes a root, authorities below it, and leaves from requests. Owns what a certificate of
ours contains and for how long it is good; never where keys lie, who may ask, nor what time it is.

A requester proves that it has the private key by signing its request (PKCS #10); of what the request asks, only the key
is taken: who it is for, and for how long, is for the authority's operator to say.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trust.certificates import (
    MAX_CERTIFICATE_BYTES,
    check_time,
    fingerprint,
    identity_of,
    is_permitted,
    path_of,
    permitted_dns_names,
    verify_authorities,
)
from trust.errors import CertificateRefused, NameInvalid, Reason
from trust.identity import (
    ROOT_NAME,
    Identity,
    Kind,
    authority_of,
    check_trust_domain,
    checked_dns_name,
    dns_name_of,
    nodes_name_of,
)
from trust.keys import TlsKey, is_tls_key

#: A certificate is good from a little before it was made: the clocks of those who check it differ.
BACKDATED = timedelta(minutes=5)

#: How long certificates are good, unless the operator says otherwise.
ROOT_LIFE = timedelta(days=20 * 365)
AUTHORITY_LIFE = timedelta(days=3 * 365)
LEAF_LIVES = {
    Kind.CONTROLLER: timedelta(days=7),
    Kind.NODE: timedelta(hours=24),
    Kind.RELAY: timedelta(hours=24),
    Kind.USER: timedelta(days=7),
}

#: Longest life of a leaf: revocation rests on leaves being short.
MAX_LEAF_LIFE = timedelta(days=400)

#: Share of its life after which a leaf is renewed: a third is left for when that fails.
RENEWED_AT = 2 / 3

#: Longest request that is read: ours take some 400 bytes.
MAX_REQUEST_BYTES = MAX_CERTIFICATE_BYTES

#: Names and addresses of a server, each kind.
MAX_SERVER_NAMES = 32

#: Longest text of a common name (X.520); it is for people and for tools that show nothing else.
_MAX_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class ServerNames:
    """Where a server may also be dialled by, beside the name of its domain: DNS names and IP addresses."""

    dns: Sequence[str] = ()
    ip: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority that can issue: its private key, and its certificates from its own to a root, which is included."""

    key: TlsKey = field(repr=False)
    certificates: tuple[x509.Certificate, ...]

    @property
    def identity(self) -> Identity:
        """Whose authority it is."""
        return identity_of(self.certificates[0])

    @property
    def certificate(self) -> x509.Certificate:
        """Its own certificate."""
        return self.certificates[0]

    @property
    def path(self) -> tuple[str, ...]:
        """The domains from the root's to its own."""
        return path_of(self.certificates)

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """What a leaf issued here is presented with: all but the root."""
        return self.certificates[:-1]

    @classmethod
    def opened(
        cls,
        key: TlsKey,
        certificates: Sequence[x509.Certificate],
        roots: Sequence[x509.Certificate],
        at: datetime,
    ) -> Authority:
        """An authority from its key and certificates, its own first. Raises `CertificateRefused`."""
        chain = verify_authorities(certificates, roots, at)
        if key.public_key() != chain[0].public_key():
            raise CertificateRefused(
                Reason.KEY_UNFIT, f"the key is not that of {identity_of(chain[0])}"
            )
        return cls(key, chain)

    def issue(
        self,
        public_key: object,
        kind: Kind,
        name: str,
        at: datetime,
        *,
        life: timedelta | None = None,
        servers: ServerNames | None = None,
    ) -> x509.Certificate:
        """A leaf of this domain for a key. Raises `NameInvalid`, `CertificateRefused`.

        A controller's and a relay's may serve too: nodes both, and the controller by the name of its domain all others.
        A leaf never outlives its authority.
        """
        if kind is Kind.AUTHORITY:
            raise NameInvalid("an authority is no leaf: use issue_authority")
        own = self.identity
        identity = Identity(own.trust_domain, own.domain, kind, name)
        life = life or LEAF_LIVES[kind]
        if not timedelta(0) < life <= MAX_LEAF_LIFE:
            raise CertificateRefused(
                Reason.OUT_OF_REACH, f"a leaf lives at most {MAX_LEAF_LIFE.days} days, not {life}"
            )
        serving = kind in (Kind.CONTROLLER, Kind.RELAY)
        if servers is not None and not serving:
            raise NameInvalid(f"a {kind} serves nobody and has no server names")
        names = self._server_names(kind, servers or ServerNames()) if serving else []
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if serving:
            usages.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
        builder = self._builder(public_key, identity, at, life)
        return (
            builder.add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(str(identity)), *names]
                ),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def issue_authority(
        self,
        public_key: object,
        domain: str,
        at: datetime,
        *,
        life: timedelta = AUTHORITY_LIFE,
        also_names: Sequence[str] = (),
        may_delegate: bool = True,
    ) -> x509.Certificate:
        """The certificate of the authority of a domain below this one; of the root's own domain where this is the root.

        Servers may be named by it below the domain's own DNS name, and below `also_names`, only. An authority that may
        not delegate has no authorities below it. Raises `NameInvalid`, `CertificateRefused`.
        """
        own = self.identity
        identity = authority_of(own.trust_domain, domain)
        if domain in self.path and not (own.is_root and domain == own.domain):
            raise NameInvalid(f"{domain} is {' > '.join(self.path)} itself, not below it")
        path = self.path if domain == own.domain else (*self.path, domain)
        permitted = [dns_name_of(path, own.trust_domain), *map(checked_dns_name, also_names)]
        self._check_permitted(permitted)
        builder = self._builder(public_key, identity, at, life)
        return (
            builder.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))]),
                critical=False,
            )
            .add_extension(
                x509.BasicConstraints(ca=True, path_length=None if may_delegate else 0),
                critical=True,
            )
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.NameConstraints([x509.DNSName(n) for n in permitted], None), critical=True
            )
            .sign(self.key, hashes.SHA256())
        )

    def _builder(
        self, public_key: object, identity: Identity, at: datetime, life: timedelta
    ) -> x509.CertificateBuilder:
        check_time(self.certificate, at)
        ends = min(at + life, self.certificate.not_valid_after_utc)
        return (
            _begun(_checked_key(public_key), _name_of(identity), at - BACKDATED, ends)
            .issuer_name(self.certificate.subject)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    self.certificate.extensions.get_extension_for_class(
                        x509.SubjectKeyIdentifier
                    ).value
                ),
                critical=False,
            )
        )

    def _server_names(self, kind: Kind, servers: ServerNames) -> list[x509.GeneralName]:
        own = self.identity
        name = dns_name_of(self.path, own.trust_domain)
        dns = [name] if kind is Kind.CONTROLLER else []
        dns.append(nodes_name_of(name))
        dns += [checked_dns_name(name) for name in servers.dns]
        if max(len(servers.dns), len(servers.ip)) > MAX_SERVER_NAMES:
            raise NameInvalid(f"at most {MAX_SERVER_NAMES} names and addresses each")
        self._check_permitted(dns)
        try:
            addresses = [ipaddress.ip_address(address) for address in servers.ip]
        except ValueError as error:
            raise NameInvalid(str(error)) from error
        return [
            *(x509.DNSName(name) for name in dict.fromkeys(dns)),
            *(x509.IPAddress(address) for address in dict.fromkeys(addresses)),
        ]

    def _check_permitted(self, names: Sequence[str]) -> None:
        for above in self.certificates:
            permitted = permitted_dns_names(above)
            for name in names:
                if permitted is not None and not is_permitted(name, permitted):
                    raise NameInvalid(
                        f"{identity_of(above)} names servers below {', '.join(permitted)} only, and {name} is not; "
                        "have its certificate made with that name permitted too"
                    )


def new_root(key: TlsKey, trust_domain: str, domain: str, at: datetime) -> Authority:
    """The root: a self-signed certificate, in the root domain, that all trust rests on. Raises `NameInvalid`."""
    check_trust_domain(trust_domain)
    identity = Identity(trust_domain, domain, Kind.AUTHORITY, ROOT_NAME)
    name = _name_of(identity)
    certificate = (
        _begun(key.public_key(), name, at - BACKDATED, at + ROOT_LIFE)
        .issuer_name(name)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, (certificate,))


def new_request(key: TlsKey) -> bytes:
    """A request for a certificate, in DER: proof that the asker has the key, and nothing else."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def requested_key(request: bytes) -> EllipticCurvePublicKey:
    """The key that a request in DER or PEM is for; its sender has the private one. Raises `CertificateRefused`."""
    if len(request) > MAX_REQUEST_BYTES:
        raise CertificateRefused(
            Reason.TOO_LARGE,
            f"a request of {len(request)} bytes; at most {MAX_REQUEST_BYTES} are read",
        )
    try:
        pem = request.lstrip().startswith(b"-----BEGIN")
        read = x509.load_pem_x509_csr(request) if pem else x509.load_der_x509_csr(request)
        key = _checked_key(read.public_key())
        signed = read.is_signature_valid
    except (ValueError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CertificateRefused(Reason.MALFORMED, f"no certificate request: {error}") from error
    if not signed:
        raise CertificateRefused(
            Reason.KEY_UNFIT, "the request is not signed by the key that it is for"
        )
    return key


def renewal_time(certificate: x509.Certificate, share: float = RENEWED_AT) -> datetime:
    """When a leaf is to be renewed, or when another share of its life is over."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begins + (ends - begins) * share


def describe(certificate: x509.Certificate) -> dict[str, object]:
    """What people ask of a certificate, by label. Raises `CertificateRefused` where it names nobody."""
    identity = identity_of(certificate)
    permitted = permitted_dns_names(certificate)
    found: dict[str, object] = {
        "identity": str(identity),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "valid_from": certificate.not_valid_before_utc,
        "valid_until": certificate.not_valid_after_utc,
        "fingerprint": fingerprint(certificate),
    }
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    served = [
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    ]
    if served:
        found["serves"] = served
    if permitted is not None:
        found["names_servers_below"] = list(permitted)
    return found


def _begun(
    key: EllipticCurvePublicKey, subject: x509.Name, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name_of(identity: Identity) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, identity.trust_domain),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, identity.domain),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, identity.kind.value),
            x509.NameAttribute(NameOID.COMMON_NAME, identity.name[:_MAX_COMMON_NAME]),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _checked_key(key: object) -> EllipticCurvePublicKey:
    if not is_tls_key(key) or not isinstance(key, EllipticCurvePublicKey):
        raise CertificateRefused(
            Reason.KEY_UNFIT, "certificates are made for ECDSA P-256 keys only"
        )
    return key
