"""The proof by which a bearer has its certificate renewed: a signature by the key of the old one over the request for
the new. Owns what is signed; knows no service, no clock and no chance.

    "souverix certificate renewal 1" 0x00, length of the nonce (1 byte), nonce, request

A renewal has an empty nonce: whoever repeats the message has a certificate issued for a key that it does not hold. The
recovery of an expired one has a nonce, so that the old key must be at hand now.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey

from trust.keys import TlsKey

#: Bytes of a nonce: nobody meets one twice.
NONCE_BYTES = 32

_LABEL = b"souverix certificate renewal 1\0"


def sign(key: TlsKey, nonce: bytes, request: bytes) -> bytes:
    """The proof, by the key of the old certificate; ECDSA with SHA-256 in DER."""
    return key.sign(_signed(nonce, request), ECDSA(hashes.SHA256()))


def is_proven(
    certificate: x509.Certificate, nonce: bytes, request: bytes, signature: bytes
) -> bool:
    """Tells whether a proof is by the key of a certificate."""
    key = certificate.public_key()
    if not isinstance(key, EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, _signed(nonce, request), ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _signed(nonce: bytes, request: bytes) -> bytes:
    return _LABEL + bytes([len(nonce)]) + nonce + request
