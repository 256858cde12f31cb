"""The way from this controller to another one along the tree, hop by hop, and since when a hop is known to be broken.
Owns the rules; looks at facts only.

A link between two controllers is recorded by each end in the domain of the lower one: by the parent about its child,
by the child about its parent (`souverix.federation.v1.PeerLink`). Of each hop the record of the nearer end counts, for
that is the end whose word still arrives.
"""

from __future__ import annotations

from typing import NamedTuple

from controller.connectivity.peer_links import PeerLinkState
from federation.authority import AuthorityTable
from federation.clock import wall_ms_of
from federation.codec import ASPECTS
from federation.identifiers import Key, StreamId
from federation.state import State

#: Aspect of a link between controllers.
PEER_LINK = "peer_link"


class Hop(NamedTuple):
    """A link between two controllers, from the nearer one to the farther one."""

    near: str
    far: str
    #: Domain of the lower end.
    domain: str


def speakers(table: AuthorityTable, domain: str) -> list[tuple[str, str]]:
    """The domains on the path to this one that have a controller of their own, with it, from the root down."""
    path = table.path_of(domain) or ()
    return [(at, table.records[at].controller) for at in path if table.records[at].controller]


def hops_between(table: AuthorityTable, own_domain: str, domain: str) -> list[Hop]:
    """The links between the controllers of two domains, nearest first; empty where it is the same controller, or the
    way is not known here.
    """
    own, other = speakers(table, own_domain), speakers(table, domain)
    shared = 0
    for one, another in zip(own, other, strict=False):
        if one != another:
            break
        shared += 1
    if not shared:
        return []
    up = [Hop(own[at][1], own[at - 1][1], own[at][0]) for at in range(len(own) - 1, shared - 1, -1)]
    down = [Hop(other[at - 1][1], other[at][1], other[at][0]) for at in range(shared, len(other))]
    return up + down


def link_key(hop: Hop) -> Key:
    """Where the nearer end records the hop."""
    return Key(hop.domain, f"controllers/{hop.far}", PEER_LINK)


def recorded_down_since_ms(state: State, hop: Hop) -> int | None:
    """Since when the nearer end has not heard the farther one, milliseconds since the epoch; None while it hears it, or
    where nothing of it was recorded.

    Where clocks differ this errs towards the past: nothing can have been known for longer than until its record came
    here, or until its record's effective time less the silence it tells of.
    """
    key = link_key(hop)
    write = state.winner(key)
    if write is None or write.origin.controller != hop.near:
        return None
    link = write.body()
    if link.state != PeerLinkState.DOWN:
        return None
    effective_ms = wall_ms_of(state.rank(key, write)[1])
    silence_ms = link.time.ToMilliseconds() - link.last_heard_time.ToMilliseconds()
    bounds: list[int] = [link.last_heard_time.ToMilliseconds(), effective_ms - max(0, silence_ms)]
    stream = state.streams.get(StreamId(hop.domain, write.origin, ASPECTS[PEER_LINK].lane))
    received_ms = stream.index.time_ms_of(write.sequence) if stream is not None else None
    if received_ms is not None:
        bounds.append(received_ms)
    return min(bounds)
