"""Whether a controller may seal anything now. Owns the grounds on which it may not, and what to do about each."""

from __future__ import annotations

from federation.bounds import STREAM_SEALED
from federation.errors import KeyNotInForce
from federation.identifiers import Lane, Origin, StreamId
from federation.keys import KEY_NOT_VALID, KEY_SUPERSEDED, KEY_UNKNOWN, OUT_OF_REACH
from federation.state import State

_ADVICE = {
    STREAM_SEALED: (
        "the streams of this controller were sealed by a controller above it; it goes on under a new incarnation, with "
        "a key that is granted for it"
    ),
    KEY_SUPERSEDED: (
        "the signing key of this replica was succeeded by another one; give it that key (trust.signing_key)"
    ),
    KEY_NOT_VALID: (
        "the signing key of this controller was granted for an earlier incarnation, which was sealed; have its parent "
        "grant it a new key (souverixctl federation grant-key)"
    ),
    OUT_OF_REACH: "the signing key of this controller was granted in another domain; have its parent grant it here",
    KEY_UNKNOWN: (
        "the signing key of this controller is not the one its parent granted; give it that key (trust.signing_key), "
        "or have the parent grant this one (souverixctl federation grant-key)"
    ),
}


def why_barred(state: State, origin: Origin, domain: str, key_id: str) -> str:
    """Why an origin that serves `domain` may seal nothing with a key; empty when it may, or when nothing is known of
    its keys yet.
    """
    if state.grounds.bounds.sealed_incarnation(origin.controller) >= origin.incarnation:
        return STREAM_SEALED
    keys = state.keys
    if not keys.domains_of(origin.controller):
        return ""
    if not keys.knows(origin.controller, key_id):
        return KEY_UNKNOWN
    stream = StreamId(domain, origin, Lane.CONTROL)
    following = state.received(stream) + 1
    return keys.standing(stream, domain, following, following, key_id, state.authority)


def key_not_in_force(why: str) -> KeyNotInForce:
    """The error of a write that may not be made, for one of these grounds."""
    return KeyNotInForce(f"nothing can be written here now: {_ADVICE[why]}", why=why)
