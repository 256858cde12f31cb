"""Contexts: what a writer had seen of one key. Owns exact happened-before; never looks at clocks.

A context is a sorted tuple of dots, at most one an origin: dotted version vectors (Preguiça et al., 2010; Almeida et
al., 2014) kept per key, two or three entries in practice. It is never pruned.
"""

from __future__ import annotations

from collections.abc import Iterable

from federation.identifiers import Dot, Origin

Context = tuple[Dot, ...]

EMPTY: Context = ()


def covers(context: Context, dot: Dot) -> bool:
    """Tells whether the writer with this context had seen the event."""
    return has_seen(context, dot[0], dot[1])


def has_seen(context: Context, origin: Origin, number: int) -> bool:
    """As `covers`, for an event that is not at hand as a dot."""
    for seen, sequence in context:
        if seen == origin:
            return number <= sequence
    return False


def join(seen: Iterable[tuple[Context, Dot]]) -> Context:
    """The context of a write whose writer saw these events: pointwise maximum of their contexts and own numbers."""
    highest: dict[tuple[str, int], int] = {}
    for context, dot in seen:
        for origin, sequence in (*context, dot):
            if highest.get(origin, 0) < sequence:
                highest[origin] = sequence
    return tuple(sorted(Dot(origin, sequence) for origin, sequence in highest.items()))  # type: ignore[arg-type]
