"""A tracer that keeps what it was asked for, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from telemetry.context import TraceContext, begin
from telemetry.spans import Attributes, Kind, Span, Tracer


class RecordedSpan(Span):
    """A span that was asked for."""

    def __init__(self, name: str, parent: TraceContext | None, attributes: Attributes) -> None:
        self.name = name
        self.parent = parent
        self.attributes = dict(attributes)
        self.links: tuple[TraceContext, ...] = ()
        self.ended = False
        own = begin()
        self.context = own._replace(trace_id=parent.trace_id) if parent else own

    def end(self) -> None:
        self.ended = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end()


@dataclass
class RecordingTracer(Tracer):
    """Keeps all spans."""

    is_on = True
    spans: list[RecordedSpan] = field(default_factory=list)

    def span(
        self,
        name: str,
        *,
        kind: Kind = Kind.INTERNAL,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
        attributes: Attributes | None = None,
    ) -> RecordedSpan:
        span = RecordedSpan(name, parent, attributes or {})
        span.links = tuple(links)
        self.spans.append(span)
        return span
