"""Private keys and how they are kept: ECDSA P-256 for TLS and authorities, Ed25519 for signatures over events and
files. Owns generation and PEM; never where a key lies, nor what is signed with it.

Ed25519 leaves fail the TLS handshake of gRPC; that is why there are two kinds.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trust.errors import KeyUnreadable

#: Longest PEM of a private key that is read: a P-256 or Ed25519 key, encrypted, takes some 350 bytes.
MAX_KEY_BYTES = 16 * 1024

#: Shortest passphrase that a key is encrypted with.
MIN_PASSPHRASE = 12

TlsKey = EllipticCurvePrivateKey
SigningKey = Ed25519PrivateKey


def new_tls_key() -> TlsKey:
    """A new key for TLS or for an authority."""
    return generate_private_key(SECP256R1())


def new_signing_key() -> SigningKey:
    """A new key for signatures over events and files."""
    return Ed25519PrivateKey.generate()


def is_tls_key(key: object) -> bool:
    """Tells whether a public key is of the one kind that certificates are issued for."""
    return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)


def sign_as_bearer(key: TlsKey, message: bytes) -> bytes:
    """A signature by the key of a certificate: ECDSA P-256 with SHA-256, DER. Messages begin with a tag of their own,
    so that none can be taken for what TLS signs with the same key.
    """
    return key.sign(message, ECDSA(hashes.SHA256()))


def is_signed_by_bearer(key: object, message: bytes, signature: bytes) -> bool:
    """Tells whether a certificate's public key made a signature."""
    if not isinstance(key, EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, message, ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def public_key_hash(key: EllipticCurvePublicKey) -> bytes:
    """SHA-256 of a public key (its SubjectPublicKeyInfo in DER): what people compare."""
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


def to_pem(key: TlsKey | SigningKey, passphrase: bytes | None = None) -> bytes:
    """The key as PKCS #8 PEM, encrypted where a passphrase is given (PBES2: scrypt or PBKDF2, AES-256).

    Raises `KeyUnreadable` for a passphrase that protects nothing.
    """
    if passphrase is not None and len(passphrase) < MIN_PASSPHRASE:
        raise KeyUnreadable(f"a passphrase has at least {MIN_PASSPHRASE} characters")
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase),
    )


def read_tls_key(pem: bytes, passphrase: bytes | None = None) -> TlsKey:
    """A P-256 key. Raises `KeyUnreadable`."""
    key = _read(pem, passphrase)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise KeyUnreadable("the key is no ECDSA P-256 key, as TLS here needs")
    return key


def read_signing_key(pem: bytes, passphrase: bytes | None = None) -> SigningKey:
    """An Ed25519 key. Raises `KeyUnreadable`."""
    key = _read(pem, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnreadable("the key is no Ed25519 key, as signatures here need")
    return key


def is_encrypted(pem: bytes) -> bool:
    """Tells whether a PEM needs a passphrase."""
    return b"ENCRYPTED PRIVATE KEY" in pem[:MAX_KEY_BYTES]


def _read(pem: bytes, passphrase: bytes | None) -> object:
    if len(pem) > MAX_KEY_BYTES:
        raise KeyUnreadable(f"a key of {len(pem)} bytes is none; at most {MAX_KEY_BYTES} are read")
    try:
        return serialization.load_pem_private_key(pem, password=passphrase)
    except TypeError as error:
        wanted = (
            "a passphrase, and none was" if passphrase is None else "no passphrase, and one was"
        )
        raise KeyUnreadable(f"the key needs {wanted} given") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyUnreadable(
            "the key cannot be read: no PKCS #8 PEM, or another passphrase"
        ) from error
