"""X25519 keys, to which bundles are encrypted. Owns generation and PEM; never where a key lies, nor what it
decrypts.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from trust.errors import KeyUnreadable

EncryptionKey = X25519PrivateKey


def new_encryption_key() -> EncryptionKey:
    """A new key."""
    return X25519PrivateKey.generate()


def encryption_key_pem(key: EncryptionKey) -> bytes:
    """The key as PKCS #8 PEM, not encrypted: a controller reads it when it starts."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def read_encryption_key(pem: bytes) -> EncryptionKey:
    """Reads a PKCS #8 PEM. Raises `KeyUnreadable`."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnreadable(f"it is no key in PEM without a passphrase: {error}") from error
    if not isinstance(key, X25519PrivateKey):
        raise KeyUnreadable("it is a key, but no X25519 key")
    return key
