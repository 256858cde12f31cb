"""Reading facts: the value that counts, where a node lives, what exists, what an etag is made of. Owns these answers
for committed state and for a proposal's overlay alike; writes nothing.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from federation.clock import wall_ms_of
from federation.codec import Write
from federation.identifiers import Key, as_key
from federation.merge import Siblings, rivals_of, winner_of
from federation.state import State
from souverix.event.v1 import event_pb2

#: Length of an etag in hexadecimal digits, as the core's own.
ETAG_DIGITS = 20

#: Decoded placements and existences kept, by the event's bytes, which never change: every call about a node asks for
#: both. About 300 bytes each.
REMEMBERED_FACTS = 65_536


class Facts(Protocol):
    """What is known of a key: `State`, a `Proposal` over it, or a `Scan` of it."""

    def siblings(self, key: Key) -> Siblings:
        """The writes of a key of which none saw another."""

    def winner(self, key: Key) -> Write | None:
        """The write that counts."""


class Home(NamedTuple):
    """Where a node lives, by its placements."""

    domain: str
    epoch: int
    #: More than one domain claims the node: its id was given twice while controllers were cut off from each other.
    disputed: bool = False


def state_of(facts: Facts) -> State:
    """The committed state below."""
    return facts if isinstance(facts, State) else facts.state  # type: ignore[attr-defined]


def body_of(facts: Facts, key: Key) -> Any:
    """The value that counts; None when the key was never written."""
    winner = facts.winner(key)
    return winner.body() if winner is not None else None


def domains_of(facts: Facts, subject: str) -> list[str]:
    """Domains in which something of the subject is known."""
    return list(state_of(facts).domains_of_subject.get(subject, ()))


def home_of(facts: Facts, subject: str, also_in: str = "") -> Home | None:
    """Where a node lives; None while no placement is known here.

    `also_in` names a domain to look in although nothing of the node is committed there yet. Of several claims the one
    of the highest epoch counts, then the older one: the same at every controller that knows both.
    """
    domains = state_of(facts).domains_of_subject.get(subject, ())
    best: tuple[int, int, str] | None = None
    claims = 0
    for domain in (*domains, also_in) if also_in and also_in not in domains else domains:
        winner = facts.winner(Key(domain, subject, "placement"))
        if winner is None:
            continue
        epoch, placed_in = _placement_in(winner.raw)
        claims += placed_in == domain
        claim = (epoch, -winner.stamp, placed_in)
        if best is None or claim > best:
            best = claim
    return Home(best[2], best[0], claims > 1) if best is not None else None


def exists(facts: Facts, domain: str, subject: str) -> bool:
    """Tells whether the subject's existence in the domain says that it is there."""
    winner = facts.winner(Key(domain, subject, "existence"))
    return winner is not None and _existence_in(winner.raw)


@functools.lru_cache(maxsize=REMEMBERED_FACTS)
def _placement_in(raw: bytes) -> tuple[int, str]:
    """Epoch and domain that a placement event names."""
    placement = event_pb2.Event.FromString(raw).placement
    return placement.epoch, placement.domain


@functools.lru_cache(maxsize=REMEMBERED_FACTS)
def _existence_in(raw: bytes) -> bool:
    """What an existence event says."""
    return event_pb2.Event.FromString(raw).existence.exists


def held_of(
    facts: Facts, domain: str, subject: str, aspects: Iterable[str]
) -> list[tuple[Key, Siblings]]:
    """The siblings of each of the aspects, in their order; empty ones for what was never written."""
    siblings = facts.siblings
    keys = [as_key((domain, subject, aspect)) for aspect in aspects]
    return [(key, siblings(key)) for key in keys]


def digest_of(facts: Facts, held: Sequence[tuple[Key, Siblings]]) -> str:
    """An etag: a digest of the siblings of a subject's aspects, their winner named where there are several."""
    (domain, subject, _), _ = held[0]
    parts = []
    for key, siblings in held:
        aspect = key[2]
        if len(siblings) == 1:
            (controller, incarnation), sequence = siblings[0][0], siblings[0][1]
            parts.append(f"{aspect};{controller}/{incarnation}/{sequence}")
            continue
        parts.append(aspect)
        if siblings:
            parts.extend(sorted(map(_number, siblings)))
            parts.append(_number(winner_of(key, siblings, state_of(facts).rank)))
    text = f"{domain}/{subject}:{';'.join(parts)}"
    return hashlib.sha256(text.encode()).hexdigest()[:ETAG_DIGITS]


def _number(write: Write) -> str:
    origin, sequence = write[0], write[1]
    return f"{origin[0]}/{origin[1]}/{sequence}"


def conflicted(facts: Facts, held: Sequence[tuple[Key, Siblings]]) -> list[str]:
    """Of the aspects, those with rival values."""
    rank = state_of(facts).rank
    return [
        key.aspect for key, siblings in held if len(siblings) > 1 and rivals_of(key, siblings, rank)
    ]


def winners_of(facts: Facts, held: Sequence[tuple[Key, Siblings]]) -> dict[str, Write]:
    """The write that counts of each aspect that was ever written."""
    rank = state_of(facts).rank
    return {
        key[2]: siblings[0] if len(siblings) == 1 else winner_of(key, siblings, rank)
        for key, siblings in held
        if siblings
    }


def effective_time(facts: Facts, key: Key, write: Write) -> Timestamp:
    """When a write counts as made: its stamp, capped by admissions."""
    return timestamp(effective_ms(facts, key, write))


def effective_ms(facts: Facts, key: Key, write: Write) -> int:
    """As `effective_time`, in milliseconds since the epoch."""
    return wall_ms_of(state_of(facts).rank(key, write)[1])


def timestamp(wall_ms: int) -> Timestamp:
    """Milliseconds since the epoch as a message."""
    return Timestamp(seconds=wall_ms // 1000, nanos=wall_ms % 1000 * 1_000_000)


def set_time(field: Timestamp, wall_ms: int) -> None:
    """As `timestamp`, in place."""
    field.seconds, field.nanos = wall_ms // 1000, wall_ms % 1000 * 1_000_000
