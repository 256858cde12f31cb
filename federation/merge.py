"""The merge of concurrent writes. Owns the sets of maximal events a key; never waits, never loses one silently.

State of a key is the set of writes none of which was seen by another: union, then reduce. Therefore merging is
commutative, associative and idempotent, in whatever order events come (design §5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from federation.causality import Context, has_seen, join
from federation.codec import ASPECTS, Term, Write
from federation.identifiers import Dot, Key, as_dot

Siblings = tuple[Write, ...]

#: Ranks a write for last-write-wins among siblings: (authority term, effective stamp).
Rank = Callable[[Key, Write], tuple[Term, int]]


def merge(held: Siblings, write: Write) -> Siblings:
    """The siblings of a key after one more write; the very same object when the key already held it, or something that
    had seen it.
    """
    origin, sequence, context = write[0], write[1], write[5]
    kept = []
    for sibling in held:
        number = sibling[1]
        if sibling[0] == origin and number == sequence:
            return held
        if has_seen(sibling[5], origin, sequence):
            return held
        if not has_seen(context, sibling[0], number):
            kept.append(sibling)
    return (*kept, write) if kept else (write,)


def context_of(siblings: Siblings) -> Context:
    """The context of a write whose writer sees these siblings."""
    if not siblings:
        return ()
    if len(siblings) == 1:
        origin, sequence, context = siblings[0][0], siblings[0][1], siblings[0][5]
        # Writes of one origin after another, the usual case: the last number stands for all before it.
        if not context or (
            len(context) == 1 and context[0][0] == origin and context[0][1] <= sequence
        ):
            return (as_dot((origin, sequence)),)
    return join((s.context, s.dot) for s in siblings)


def winner_of(key: Key, siblings: Siblings, rank: Rank) -> Write:
    """The sibling that counts: the maximum of (authority term, effective time, origin, sequence)."""
    if len(siblings) == 1:
        return siblings[0]
    return max(siblings, key=lambda s: (*rank(key, s), s.origin, s.sequence))


def rivals_of(key: Key, siblings: Siblings, rank: Rank) -> Siblings:
    """The siblings that conflict, winner first; empty when there is no conflict.

    Writes of one request (a forwarded write executed twice) collapse into their highest and make no conflict.
    """
    if len(siblings) < 2 or not ASPECTS[key.aspect].contested:
        return ()
    ordered = sorted(siblings, key=lambda s: (*rank(key, s), s.origin, s.sequence), reverse=True)
    seen: set[tuple[str, str]] = set()
    rivals = []
    for sibling in ordered:
        request = (sibling.principal, sibling.request_id)
        if sibling.request_id and request in seen:
            continue
        seen.add(request)
        rivals.append(sibling)
    return tuple(rivals) if len(rivals) > 1 else ()


def etag_of(siblings: Siblings, winner: Write) -> str:
    """A digest of siblings and winner: changes when either does."""
    digest = hashlib.sha256()
    for dot in sorted(s.dot for s in siblings):
        digest.update(f"{dot.origin.controller}/{dot.origin.incarnation}/{dot.sequence}\n".encode())
    digest.update(
        f"={winner.origin.controller}/{winner.origin.incarnation}/{winner.sequence}".encode()
    )
    return digest.hexdigest()[:20]


def conflict_id_of(key: Key, dots: Iterator[Dot] | tuple[Dot, ...]) -> str:
    """A digest of key and siblings' numbers: the same wherever it is computed."""
    digest = hashlib.sha256("\0".join(key).encode())
    for dot in sorted(dots):
        digest.update(f"\0{dot.origin.controller}/{dot.origin.incarnation}/{dot.sequence}".encode())
    return digest.hexdigest()[:20]
