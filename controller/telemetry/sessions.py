"""What is told of sync sessions: a span for each phase, and one for each batch of events taken. Owns the hook of the
driver and its bound.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from federation.session import Session
from federation.session_phases import Phase
from souverix.event.v1 import event_pb2
from telemetry.context import TraceContext
from telemetry.spans import NO_SPAN, Span, Tracer

#: Batches of one session that have spans, a second: a catch-up brings hundreds.
MAX_INGEST_SPANS_PER_S = 10


class SessionTrace:
    """The trace of one session: each phase is a span of it, and batches stand below the session's own place."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._top: TraceContext | None = None
        self._span: Span = NO_SPAN
        self._phase: Phase | None = None
        self._second = 0
        self._spans_in_second = 0

    def note(self, session: Session) -> None:
        """The session may have gone on to another phase."""
        if not self._tracer.is_on or session.phase is self._phase:
            return
        self._span.end()
        self._span, self._phase = NO_SPAN, session.phase
        if session.phase is Phase.CLOSED:
            return
        attributes = {"souverix.peer": session.peer}
        span = self._tracer.span(
            f"sync.{session.phase.value}", parent=self._top, attributes=attributes
        )
        self._span = span.begin()
        self._top = self._top or span.context

    def over(self) -> None:
        """The session is over, however it ended."""
        self._span.end()
        self._span, self._phase = NO_SPAN, Phase.CLOSED

    def ingest(self, runs: Sequence[event_pb2.Run], size_bytes: int) -> Span:
        """For the time in which a batch becomes durable here."""
        if not self._tracer.is_on or self._top is None or not self._has_room():
            return NO_SPAN
        attributes = {"souverix.sync.runs": len(runs), "souverix.sync.size": size_bytes}
        return self._tracer.span("sync.ingest", parent=self._top, attributes=attributes)

    def _has_room(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._spans_in_second = second, 0
        self._spans_in_second += 1
        return self._spans_in_second <= MAX_INGEST_SPANS_PER_S
