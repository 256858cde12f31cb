"""Nonces for the recovery of certificates: given to anybody who asks, so nothing is remembered of one before it is
used. Owns their form; draws no chance, and is told the time.

    time in milliseconds (8 bytes, big endian), chance (8 bytes), the first 16 bytes of an HMAC-SHA256 over both
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict

from controller.enrolment.errors import NonceUnknown
from trust.renewal import NONCE_BYTES

#: How long a nonce is good: a round trip of the worst link, and a signature.
LIFE_MS = 60_000

#: Nonces used within their life. Beyond it the oldest may be used again, which gains nobody anything: what it signs
#: is of use to the holder of one key.
MAX_USED = 65_536

CHANCE_BYTES = 8
_TIME_BYTES = 8


class Nonces:
    """Those of one process; `key` is drawn at its start."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._used: OrderedDict[bytes, int] = OrderedDict()

    def give(self, chance: bytes, now_ms: int) -> bytes:
        """A new one, of CHANCE_BYTES of chance."""
        head = now_ms.to_bytes(_TIME_BYTES) + chance
        return head + self._seal(head)

    def check(self, nonce: bytes, now_ms: int) -> None:
        """Raises `NonceUnknown` unless it was given here, lately, and not used."""
        head = nonce[: _TIME_BYTES + CHANCE_BYTES]
        given = hmac.compare_digest(nonce[len(head) :], self._seal(head))
        age_ms = now_ms - int.from_bytes(nonce[:_TIME_BYTES])
        if (
            len(nonce) != NONCE_BYTES
            or not given
            or not 0 <= age_ms < LIFE_MS
            or nonce in self._used
        ):
            raise NonceUnknown(
                "the nonce was not given out here, was used, or is too old; begin the recovery anew"
            )

    def use(self, nonce: bytes, now_ms: int) -> None:
        """It was used up."""
        while self._used and (
            len(self._used) >= MAX_USED or next(iter(self._used.values())) <= now_ms
        ):
            self._used.popitem(last=False)
        self._used[nonce] = now_ms + LIFE_MS

    def _seal(self, head: bytes) -> bytes:
        sealed = hmac.digest(self._key, head, hashlib.sha256)
        return sealed[: NONCE_BYTES - _TIME_BYTES - CHANCE_BYTES]
