"""Spans as the rest of the code makes them, and what stands in for them while nothing is recorded. Owns the port; where
spans go is `exporting`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Token
from enum import Enum
from typing import Self

from telemetry.context import CURRENT, TraceContext

Attributes = Mapping[str, str | int | float | bool]


class Kind(Enum):
    """What a span is, seen from its process."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Span:
    """A piece of work, while its block runs. This one records nothing."""

    #: Where it stands in its trace; None: in none.
    context: TraceContext | None = None

    def set(self, name: str, value: str | int | float | bool) -> None:
        """Adds an attribute that was not known at the beginning."""

    def failed(self, error_type: str) -> None:
        """The work failed; a word from a bounded set says how."""

    def begin(self) -> Self:
        """The work begins; `end` follows. For work that is no block of one task; it is nobody's current span."""
        return self

    def end(self) -> None:
        """The work is over."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        return None


class _Passed(Span):
    """Hands on the context of a caller while this process records nothing."""

    def __init__(self, context: TraceContext) -> None:
        self.context = context
        self._token: Token[TraceContext | None] | None = None

    def __enter__(self) -> Self:
        self._token = CURRENT.set(self.context)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._token is not None:
            CURRENT.reset(self._token)


NO_SPAN = Span()


class Tracer:
    """Makes spans. This one makes none, and only hands a given parent on."""

    #: Whether spans are recorded: what is costly to find out for a span is not to be found out otherwise.
    is_on = False

    def span(
        self,
        name: str,
        *,
        kind: Kind = Kind.INTERNAL,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
        attributes: Attributes | None = None,
    ) -> Span:
        """A span below `parent`; without one below the task's current span, or the first of a trace."""
        return NO_SPAN if parent is None else _Passed(parent)
