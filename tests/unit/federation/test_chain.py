from __future__ import annotations

import hashlib

import pytest

from controller.signing import Ed25519Signer, Ed25519Verifier
from federation.chain import chain_start, extend, key_id_of, seal, seal_message
from federation.identifiers import Lane, Origin, StreamId

STREAM = StreamId("edge-a1", Origin("edge-a1-control", 1), Lane.STATE)
OTHERS = [
    STREAM._replace(domain="edge-a2"),
    STREAM._replace(origin=Origin("region-a-control", 1)),
    STREAM._replace(origin=Origin("edge-a1-control", 2)),
    STREAM._replace(lane=Lane.CONTROL),
    StreamId("edge-a1e", Origin("dge-a1-control", 1), Lane.STATE),
]


@pytest.mark.parametrize("other", OTHERS)
def test_every_stream_has_a_chain_of_its_own(other: StreamId) -> None:
    assert chain_start(other) != chain_start(STREAM)


def test_chain_hashes_what_came_before_and_the_event() -> None:
    start = chain_start(STREAM)
    first = hashlib.sha256(start + b"one").digest()
    assert extend(start, [b"one", b"two"]) == hashlib.sha256(first + b"two").digest()


def test_chain_may_be_extended_in_parts() -> None:
    start = chain_start(STREAM)
    assert extend(extend(start, [b"one"]), [b"two", b"three"]) == extend(
        start, [b"one", b"two", b"three"]
    )


def test_seal_is_good_for_its_stream_number_and_hash_only() -> None:
    signer, verifier = Ed25519Signer.generate(), Ed25519Verifier()
    chain_hash = extend(chain_start(STREAM), [b"one"])
    made = seal(signer, STREAM, 1, chain_hash)

    def is_good(stream: StreamId, sequence: int, chain_hash: bytes) -> bool:
        message = seal_message(stream, sequence, chain_hash)
        return verifier.verify(signer.public_key, message, made.signature)

    assert (made.key_id, made.sequence) == (key_id_of(signer.public_key), 1)
    assert is_good(STREAM, 1, chain_hash)
    assert not is_good(STREAM, 2, chain_hash)
    assert not is_good(STREAM, 1, chain_start(STREAM))
    assert not any(is_good(other, 1, chain_hash) for other in OTHERS)
