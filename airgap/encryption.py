"""Segments that only the audience can read: X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), AES-256-GCM.

Owns keys of one file and their use. Never holds the audience's key longer than a call, and authenticates nobody: that
is what the manifest's signature is for.

One key is made for each file, so that a segment's number may serve as its nonce. The name of the file is authenticated
with each segment: none can be put in another's place.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from airgap.errors import BundleRefused, Reason
from souverix.bundle.v1 import bundle_pb2

_INFO = b"souverix.bundle.segment.v1\0"


def recipient_key_id(public_key: bytes) -> str:
    """Names an X25519 public key: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


class SegmentCipher:
    """Encrypts or decrypts the segments of one file."""

    def __init__(self, secret: bytes, ephemeral: bytes, recipient: bytes, file: bytes) -> None:
        derive = HKDF(
            algorithm=hashes.SHA256(), length=32, salt=None, info=_INFO + ephemeral + recipient
        )
        self._aead = AESGCM(derive.derive(secret))
        self._file = file

    @classmethod
    def to(cls, recipient: bytes, file: bytes) -> tuple[SegmentCipher, bundle_pb2.Encryption]:
        """A cipher for a new file named `file`, and what its manifest says of it. Raises `ValueError` where `recipient`
        is no X25519 public key.
        """
        public = X25519PublicKey.from_public_bytes(recipient)
        private = X25519PrivateKey.generate()
        ephemeral = private.public_key().public_bytes_raw()
        cipher = cls(private.exchange(public), ephemeral, recipient, file)
        said = bundle_pb2.Encryption(
            ephemeral_public_key=ephemeral, recipient_key_id=recipient_key_id(recipient)
        )
        return cipher, said

    @classmethod
    def of(
        cls, said: bundle_pb2.Encryption, private: X25519PrivateKey, file: bytes
    ) -> SegmentCipher:
        """The cipher of a file that was encrypted to `private`. Raises `BundleRefused`."""
        own = private.public_key().public_bytes_raw()
        if said.recipient_key_id != recipient_key_id(own):
            raise BundleRefused(
                Reason.NOT_DECRYPTABLE,
                f"it is encrypted to key {said.recipient_key_id[:16]}; the key here is {recipient_key_id(own)}",
            )
        try:
            peer = X25519PublicKey.from_public_bytes(said.ephemeral_public_key)
            secret = private.exchange(peer)
        except ValueError as error:
            raise BundleRefused(
                Reason.NOT_DECRYPTABLE, "the key made for the file is no X25519 key"
            ) from error
        return cls(secret, said.ephemeral_public_key, own, file)

    def encrypt(self, number: int, plain: bytes) -> bytes:
        """Segment `number` of the file, encrypted."""
        return self._aead.encrypt(number.to_bytes(12, "big"), plain, self._file)

    def decrypt(self, number: int, stored: bytes) -> bytes:
        """Segment `number` of the file. Raises `BundleRefused`."""
        try:
            return self._aead.decrypt(number.to_bytes(12, "big"), stored, self._file)
        except InvalidTag as error:
            raise BundleRefused(
                Reason.NOT_DECRYPTABLE, f"segment {number} cannot be decrypted"
            ) from error
