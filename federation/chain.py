"""Hash chains and seals of streams. Owns what is hashed and signed; never holds keys (a port signs and verifies).

    h_0 = SHA-256(tag, length-prefixed domain, controller, incarnation, lane)
    h_n = SHA-256(h_{n-1}, event bytes)
    seal = signature over (tag, h_0, n, h_n)

A chain names its stream through h_0, so that neither events nor seals can be carried over into another stream.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from typing import Protocol

from federation.identifiers import StreamId
from souverix.event.v1 import event_pb2

CHAIN_TAG = b"souverix.chain.v1\0"
SEAL_TAG = b"souverix.seal.v1\0"
GENESIS_TAG = b"souverix.genesis.v1\0"


class Signer(Protocol):
    """A private key of this controller. The driver chooses the algorithm (Ed25519 in production)."""

    @property
    def key_id(self) -> str:
        """Names the key in seals."""

    def sign(self, message: bytes) -> bytes:
        """Signs a message."""


class Verifier(Protocol):
    """Checks signatures by raw public key."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Tells whether the signature is good; never raises for a bad one."""


#: Streams whose h_0 is kept: it stands in every seal, and a controller sees few streams often.
CHAIN_STARTS_KEPT = 16_384


@functools.lru_cache(CHAIN_STARTS_KEPT)
def chain_start(stream: StreamId) -> bytes:
    """h_0 of a stream, 32 bytes."""
    digest = hashlib.sha256(CHAIN_TAG)
    for part in (
        stream.domain,
        stream.origin.controller,
        str(stream.origin.incarnation),
        str(int(stream.lane)),
    ):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.digest()


def extend(chain_hash: bytes, events: Iterable[bytes]) -> bytes:
    """The chain hash after further events."""
    sha256 = hashlib.sha256
    for event in events:
        chain_hash = sha256(chain_hash + event).digest()
    return chain_hash


def seal_message(stream: StreamId, sequence: int, chain_hash: bytes) -> bytes:
    """What a seal signs."""
    return SEAL_TAG + chain_start(stream) + sequence.to_bytes(8, "big") + chain_hash


def seal(signer: Signer, stream: StreamId, sequence: int, chain_hash: bytes) -> event_pb2.Seal:
    """Signs the chain up to one event."""
    return event_pb2.Seal(
        sequence=sequence,
        chain_hash=chain_hash,
        key_id=signer.key_id,
        signature=signer.sign(seal_message(stream, sequence, chain_hash)),
    )


def key_id_of(public_key: bytes) -> str:
    """The id of a public key: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]
