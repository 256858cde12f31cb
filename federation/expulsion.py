"""How a controller above ends the streams of one below, and lets it go on. Owns what the seal and the new key say;
never decides whether it is to be done.

The seal names how far each stream counts. What the controller wrote later is void everywhere, and so is whatever rests
on it. It goes on under the next incarnation, with a key that is granted for that (design §6).
"""

from __future__ import annotations

from collections.abc import Mapping

from federation.chain import key_id_of
from federation.errors import InvalidWrite, NotFound, OutOfReach, WrongState
from federation.identifiers import StreamId
from federation.state import State
from federation.streams import StreamState
from souverix.federation.v1 import authority_pb2

#: How far a stream counts: the last event, and the chain hash after it.
Position = tuple[int, bytes]

PUBLIC_KEY_BYTES = 32


def domain_below(state: State, own_domain: str, controller: str) -> str:
    """The domain a controller serves, which lies below `own_domain`. Raises `NotFound`, `OutOfReach`, `WrongState`."""
    domain = state.authority.domain_served_by(controller) or state.keys.domain_of(controller)
    if domain is None:
        raise NotFound(
            f"controller {controller!r} is not known here: no domain names it, and no key was granted to it",
            field="controller",
        )
    if domain == own_domain:
        raise WrongState(
            f"{controller} serves {domain} itself; its streams are sealed by a controller above it",
            field="controller",
        )
    if not state.authority.is_within(domain, own_domain):
        raise OutOfReach(
            f"{controller} serves {domain}, which is not below {own_domain}; ask the controller of a domain above it",
            field="controller",
        )
    return domain


def last_incarnation(state: State, controller: str) -> int:
    """The highest incarnation of a controller that wrote, or may write, as is known here."""
    granted = (
        grant.first_incarnation for grant in state.keys.grants() if grant.controller == controller
    )
    wrote = (s.origin.incarnation for s in state.streams if s.origin.controller == controller)
    return max(1, *granted, *wrote, state.grounds.bounds.sealed_incarnation(controller))


def streams_below(state: State, controller: str, domain: str) -> list[StreamId]:
    """The streams of a controller in a domain and below it, in order."""
    return sorted(
        stream
        for stream in state.streams
        if stream.origin.controller == controller
        and state.authority.is_within(stream.domain, domain)
    )


def position_now(held: StreamState) -> Position:
    """How far a stream is good here: all that is held, or what stands before the first run that waits."""
    if held.waiting:
        first = held.waiting[0]
        return first.first_sequence - 1, first.follows
    if held.applied < held.received:
        return 0, b""
    return held.received, held.chain_hash


def seal_of(
    state: State,
    controller: str,
    domain: str,
    positions: Mapping[StreamId, Position],
    reason: str,
) -> authority_pb2.StreamSealed:
    """The seal on all streams of a controller in a domain and below it. A stream without a position is void as a whole.

    Raises `InvalidWrite`.
    """
    if not reason:
        raise InvalidWrite("reason is required: it is what the audit log will say", field="reason")
    sealed = authority_pb2.StreamSealed(
        controller=controller,
        domain=domain,
        incarnation=last_incarnation(state, controller),
        reason=reason,
    )
    for stream, (last, chain_hash) in sorted(positions.items()):
        if last > 0:
            sealed.streams.add(
                domain=stream.domain,
                incarnation=stream.origin.incarnation,
                lane=int(stream.lane),
                last_sequence=last,
                chain_hash=chain_hash,
            )
    return sealed


def new_key(
    state: State,
    controller: str,
    domain: str,
    public_key: bytes,
    first_incarnation: int | None = None,
) -> authority_pb2.KeyGrant:
    """The grant of a key under which a controller goes on; after a seal, for the incarnation that follows.

    Raises `InvalidWrite`, `WrongState`.
    """
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise InvalidWrite(
            f"public_key must be a raw Ed25519 key of {PUBLIC_KEY_BYTES} bytes", field="public_key"
        )
    sealed = state.grounds.bounds.sealed_incarnation(controller)
    first = first_incarnation or (sealed + 1 if sealed else 0)
    key_id = key_id_of(public_key)
    for title in state.keys.titles(controller, key_id):
        if title.domain == domain and title.first_incarnation <= first and not sealed:
            raise WrongState(
                f"key {key_id} was granted to {controller} already", field="public_key"
            )
    return authority_pb2.KeyGrant(
        controller=controller,
        domain=domain,
        key_id=key_id,
        public_key=public_key,
        first_incarnation=first,
    )
