"""Which trace something belongs to: W3C trace contexts, and the one of the running task. Owns the header's form; makes
no spans.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar
from typing import NamedTuple

#: Metadata and fields that carry a context are named so (W3C Trace Context, level 1).
TRACEPARENT = "traceparent"

SAMPLED = 1

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class TraceContext(NamedTuple):
    """A place in a trace: what is made within it is a child of the span."""

    trace_id: int
    span_id: int
    #: Whether spans of this trace are recorded.
    sampled: bool

    def __str__(self) -> str:
        flags = SAMPLED if self.sampled else 0
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{flags:02x}"


def parse(text: str | bytes) -> TraceContext | None:
    """The context a header names; None for one that is none: who sends nonsense is served without a trace."""
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    found = _HEADER.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if (
        version == "ff"
        or (version == "00" and more)
        or not int(trace_id, 16)
        or not int(span_id, 16)
    ):
        return None
    return TraceContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & SAMPLED))


def begin() -> TraceContext:
    """The beginning of a new trace that is to be recorded."""
    return TraceContext(secrets.randbits(128) or 1, secrets.randbits(64) or 1, True)


def of_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> TraceContext | None:
    """The context a call's metadata names; None: none."""
    for key, value in metadata or ():
        if key == TRACEPARENT:
            return parse(value)
    return None


#: The span in which the running task works; set by spans.
CURRENT: ContextVar[TraceContext | None] = ContextVar("souverix_trace", default=None)


def current() -> TraceContext | None:
    """The span in which the running task works; None outside of one."""
    return CURRENT.get()
