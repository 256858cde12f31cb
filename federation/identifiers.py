"""Names of streams, events and keys. Owns their shape and order; never holds state.

Named tuples rather than dataclasses: they are dictionary keys on the hot path and hash at C speed.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple


class Lane(enum.IntEnum):
    """The part of a domain's history an event belongs to (design §2); numbers are the wire's."""

    CONTROL = 1
    STATE = 2
    TELEMETRY = 3
    AUDIT = 4


class Origin(NamedTuple):
    """A writer of streams: a controller and the incarnation of its log."""

    controller: str
    incarnation: int


class StreamId(NamedTuple):
    """The events of one (domain, origin, lane), numbered densely from 1."""

    domain: str
    origin: Origin
    lane: Lane


class Dot(NamedTuple):
    """One event's place among the writes of a key: the origin and the number it gave in the key's domain and lane."""

    origin: Origin
    sequence: int


class Key(NamedTuple):
    """What a write replaces: an aspect of a subject, within the stream's domain. A stream cannot touch another."""

    domain: str
    subject: str
    aspect: str


#: Makes names of tuples of their parts. A named tuple's own constructor is Python code that does the same, at a tenth
#: of what decoding an event costs.
as_dot: Callable[[tuple[Any, ...]], Dot] = partial(tuple.__new__, Dot)
as_key: Callable[[tuple[Any, ...]], Key] = partial(tuple.__new__, Key)

#: Node, domain, policy and controller ids: a DNS label, so that they fit host names and SPIFFE paths.
ID_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def is_valid_id(text: str) -> bool:
    """Tells whether `text` may name a node, a domain, a policy or a controller."""
    return ID_PATTERN.fullmatch(text) is not None
