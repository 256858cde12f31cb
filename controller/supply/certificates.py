"""Chains of X.509 certificates that vouch for signers. Owns when a chain leads to a root at a time (RFC 5280 §6, the
part that concerns signing); knows no host names and asks nobody for revocations: it works offline.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from souverix.fleet.v1 import supply_chain_pb2

#: Certificates between signer and root, the signer's own included.
MAX_CHAIN: Final = 6

#: A certificate with a long chain of names is 4 KiB; one of a post-quantum key would not be read here anyway.
MAX_CERTIFICATE_BYTES: Final = 16 * 1024

#: Shorter keys can be broken (NIST SP 800-57).
MIN_RSA_BITS: Final = 2048

_SHA256: Final = hashes.SHA256()

PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class Chain(NamedTuple):
    """A chain that leads to its root."""

    key: PublicKey
    #: The signer's certificate first, the root last.
    certificates: tuple[x509.Certificate, ...]
    #: When the first of them ends, in milliseconds since the epoch.
    expire_ms: int


class BadChain(ValueError):
    """Whoever signed must bring another chain, or the domain must believe another root."""


def verify_chain(documents: Sequence[bytes], root: x509.Certificate, now_ms: int) -> Chain:
    """The chain from a signer's certificate, in DER and the first of the documents, to a root. Raises `BadChain`.

    Every certificate must be valid now, issued by the next one, and, above the first, be one of an authority that may
    sign certificates and that allows as many below it. The signer's own must allow signatures.
    """
    if not documents or len(documents) > MAX_CHAIN:
        raise BadChain(f"a chain holds 1 to {MAX_CHAIN} certificates")
    chain = [_parse(document) for document in documents]
    if chain[-1].fingerprint(_SHA256) != root.fingerprint(_SHA256):
        chain.append(root)
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    for place, certificate in enumerate(chain):
        name = certificate.subject.rfc4514_string()[:120]
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise BadChain(f"the certificate of {name} is not valid now")
        if place:
            _check_authority(certificate, place - 1, name)
            try:
                chain[place - 1].verify_directly_issued_by(certificate)
            except (InvalidSignature, ValueError, TypeError) as error:
                raise BadChain(
                    f"the certificate before that of {name} was not issued by it"
                ) from error
    if not _allows(chain[0], "digital_signature", unless_stated=True):
        raise BadChain("the signer's certificate does not allow signatures")
    end = min(certificate.not_valid_after_utc for certificate in chain)
    return Chain(accepted_key(chain[0].public_key()), tuple(chain), int(end.timestamp() * 1000))


def accepted_key(key: object) -> PublicKey:
    """The key, if it is of a kind that is believed here. Raises `BadChain`."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1
    ):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return key
    raise BadChain(f"keys are Ed25519, ECDSA P-256 or P-384, or RSA of {MIN_RSA_BITS} bits or more")


def chain_of(documents: Sequence[bytes]) -> list[supply_chain_pb2.Certificate]:
    """Certificates in DER as a twin shows them; what is no certificate is left out."""
    shown = []
    for document in documents[:MAX_CHAIN]:
        try:
            certificate = _parse(document)
        except BadChain:
            continue
        entry = supply_chain_pb2.Certificate(
            issuer=certificate.issuer.rfc4514_string(),
            subject=certificate.subject.rfc4514_string(),
            signature=f"{certificate.signature_algorithm_oid.dotted_string}:{certificate.signature.hex()}",
        )
        entry.valid_until_time.FromDatetime(certificate.not_valid_after_utc)
        shown.append(entry)
    return shown


def _parse(document: bytes) -> x509.Certificate:
    if len(document) > MAX_CERTIFICATE_BYTES:
        raise BadChain(f"a certificate is larger than {MAX_CERTIFICATE_BYTES} bytes")
    try:
        return x509.load_der_x509_certificate(document)
    except (ValueError, x509.InvalidVersion) as error:
        raise BadChain("a certificate is no X.509 in DER") from error


def _check_authority(certificate: x509.Certificate, below: int, name: str) -> None:
    """Holds a certificate to being an authority's, with so many other authorities below it."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise BadChain(f"the certificate of {name} is not that of an authority") from error
    if not constraints.ca or not _allows(certificate, "key_cert_sign", unless_stated=True):
        raise BadChain(f"the certificate of {name} is not that of an authority")
    if constraints.path_length is not None and below > constraints.path_length:
        raise BadChain(f"{name} allows only {constraints.path_length} authorities below it")


def _allows(certificate: x509.Certificate, use: str, *, unless_stated: bool) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return unless_stated
    except ValueError:
        return False
    return bool(getattr(usage, use))
