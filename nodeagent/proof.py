"""What the agent signs and hashes: the proof of identity, the voucher for its key, the chain of a replay, its end.

Owns the signed forms (docs/return.md). Holds no key.
"""

from __future__ import annotations

import hashlib

PROOF_TAG = b"souverix.proof.v1\0"
VOUCHER_TAG = b"souverix.voucher.v1\0"
CHAIN_TAG = b"souverix.replay.v1\0"
END_TAG = b"souverix.replay-end.v1\0"
CUSTODY_TAG = b"souverix.custody.v1\0"
SAID_TAG = b"souverix.said.v1\0"


def proof_message(controller: str, node: str, source: str, run: str, nonce: bytes) -> bytes:
    """What proves that this agent holds the node's key, to this controller and now."""
    parts = b"".join(_part(word.encode()) for word in (controller, node, source, run))
    return PROOF_TAG + parts + nonce


def voucher_message(
    controller: str, node: str, source: str, run: str, public_key: bytes, nonce: bytes
) -> bytes:
    """What the key of the node's certificate signs to vouch for the agent's: to this controller, in this greeting."""
    parts = b"".join(_part(word.encode()) for word in (controller, node, source, run))
    return VOUCHER_TAG + parts + _part(public_key) + nonce


def chain_start(node: str, source: str, first: int) -> bytes:
    """h_0 of a replay that begins with the report numbered `first`."""
    parts = b"".join(_part(word.encode()) for word in (node, source, str(first)))
    return hashlib.sha256(CHAIN_TAG + parts).digest()


def chain_next(head: bytes, report: bytes) -> bytes:
    """h_n from h_(n-1) and the n-th serialised report."""
    return hashlib.sha256(head + report).digest()


def end_message(token: bytes, last: int, remaining: int, head: bytes) -> bytes:
    """What ends a replay: the session, the last report's number, what still waits, and the chain."""
    return END_TAG + _part(token) + _part(b"%d" % last) + _part(b"%d" % remaining) + head


def custody_message(last: int, head: bytes) -> bytes:
    """What an agent signs when it hands reports to a relay that keeps them: the last number and the chain, which begins
    with node, source and first number.
    """
    return CUSTODY_TAG + _part(b"%d" % last) + head


def said_message(token: bytes, frame: bytes) -> bytes:
    """What an agent signs of a frame that goes through a relay: the session, and the frame as it is serialised."""
    return SAID_TAG + _part(token) + frame


def _part(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value
