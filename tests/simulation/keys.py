"""Signing keys of simulated controllers: HMAC through the core's real port, cheap enough for millions of seals."""

from __future__ import annotations

import hashlib
import hmac
from functools import cache

from federation.chain import key_id_of


class KeyedHashSigner:
    """The key of one controller. What stands for its public key is the key itself."""

    def __init__(self, name: str) -> None:
        self.public_key = hashlib.sha256(name.encode()).digest()
        self._key_id = key_id_of(self.public_key)

    @property
    def key_id(self) -> str:
        """Names the key in seals."""
        return self._key_id

    def sign(self, message: bytes) -> bytes:
        """Signs a message."""
        return hmac.digest(self.public_key, message, "sha256")


class KeyedHashVerifier:
    """Checks what `KeyedHashSigner` signed."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Tells whether the signature is good."""
        return hmac.digest(public_key, message, "sha256") == signature


VERIFIER = KeyedHashVerifier()


@cache
def signer_of(name: str) -> KeyedHashSigner:
    """The key of a controller, the same in every simulation."""
    return KeyedHashSigner(name)


ROOT = signer_of("root")
