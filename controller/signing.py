"""Ed25519 keys of controllers (RFC 8032). Owns how private keys are stored and used; never what is signed."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.chain import key_id_of

#: Public keys kept parsed: more than the controllers of any federation on record, few enough to cost nothing.
MAX_PARSED_KEYS = 4096


class Ed25519Signer:
    """A private signing key, held in memory."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self.key_id = key_id_of(self.public_key)

    @classmethod
    def generate(cls) -> Ed25519Signer:
        """A new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Ed25519Signer:
        """Reads a PKCS #8 PEM file. Raises `OSError`, or `ValueError` when it holds no Ed25519 key."""
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} holds no Ed25519 private key")
        return cls(key)

    def save(self, path: Path) -> None:
        """Writes the key as PKCS #8 PEM, readable by the owner only. Raises `FileExistsError`."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)

    def sign(self, message: bytes) -> bytes:
        """Signs a message; 64 bytes."""
        return self._key.sign(message)


class Ed25519Verifier:
    """Checks signatures by raw public key."""

    def __init__(self) -> None:
        self._parsed: dict[bytes, Ed25519PublicKey] = {}

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Tells whether the signature is good; a key that is none makes none good."""
        key = self._parsed.get(public_key)
        if key is None:
            try:
                key = Ed25519PublicKey.from_public_bytes(public_key)
            except ValueError:
                return False
            if len(self._parsed) < MAX_PARSED_KEYS:
                self._parsed[public_key] = key
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True
