"""What is told of commits: how long, how large, for how many, and in whose trace. Owns the hook of the journal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice

from controller.telemetry import catalogue
from telemetry.context import TraceContext
from telemetry.spans import NO_SPAN
from telemetry.started import Telemetry

#: Requests of one commit whose traces its span names: a commit shared by a thousand is shown with some of them.
MAX_LINKS = 32


class CommitTelemetry:
    """Tells of one journal's commits."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._is_on = telemetry.is_on
        self._tracer = telemetry.tracer
        self._duration = telemetry.meter.instrument(catalogue.COMMIT_DURATION)
        self._size = telemetry.meter.instrument(catalogue.COMMIT_SIZE)
        self._requests = telemetry.meter.instrument(catalogue.COMMIT_REQUESTS)

    def append(
        self, requests: int, size_bytes: int, traces: Iterable[TraceContext | None]
    ) -> AbstractContextManager[object]:
        """To be entered for the time of an append. `traces` are those of its requests, read only when it is told."""
        return self._told(requests, size_bytes, traces) if self._is_on else NO_SPAN

    @contextmanager
    def _told(
        self, requests: int, size_bytes: int, traces: Iterable[TraceContext | None]
    ) -> Iterator[None]:
        """One append is one span: in the trace of the first of its requests that has one, linked to the others'."""
        held = list(islice((each for each in traces if each is not None), MAX_LINKS + 1))
        began_s = time.monotonic()
        attributes = {"souverix.commit.requests": requests, "souverix.commit.size": size_bytes}
        span = (
            self._tracer.span("log.append", parent=held[0], links=held[1:], attributes=attributes)
            if held
            else NO_SPAN
        )
        with span:
            yield
        self._duration.record(time.monotonic() - began_s)
        self._size.record(size_bytes)
        self._requests.record(requests)
