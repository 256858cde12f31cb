"""The proof by which a bearer has its certificate renewed: a signature by the key of the old one over the request for
the new. Owns what is signed; knows no service, no clock and no chance.

    "souverix certificate renewal 1" 0x00, length of the nonce (1 byte), nonce, request

A renewal has an empty nonce: whoever repeats the message has a certificate issued for a key that it does not hold. The
recovery of an expired one has a nonce, so that the old key must be at hand now.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from cryptography import x509

from trust.keys import TlsKey, is_signed_by_bearer, sign_as_bearer

#: Bytes of a nonce: nobody meets one twice.
NONCE_BYTES = 32

#: Longest time after its end that a certificate may prove whose it was: two years. A machine that was away for longer
#: is another matter than one that was away.
MAX_RECOVERY: Final = timedelta(days=730)

_LABEL = b"souverix certificate renewal 1\0"


def sign(key: TlsKey, nonce: bytes, request: bytes) -> bytes:
    """The proof, by the key of the old certificate."""
    return sign_as_bearer(key, _signed(nonce, request))


def is_proven(
    certificate: x509.Certificate, nonce: bytes, request: bytes, signature: bytes
) -> bool:
    """Tells whether a proof is by the key of a certificate."""
    return is_signed_by_bearer(certificate.public_key(), _signed(nonce, request), signature)


def _signed(nonce: bytes, request: bytes) -> bytes:
    return _LABEL + bytes([len(nonce)]) + nonce + request
