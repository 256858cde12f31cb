"""Spans of commits."""

from __future__ import annotations

from controller.telemetry.commits import MAX_LINKS, CommitTelemetry
from telemetry.context import begin
from telemetry.instruments import Meter
from telemetry.started import OFF, Telemetry
from tests.unit.controller.telemetry.recorded import RecordingTracer


def telling() -> tuple[RecordingTracer, CommitTelemetry]:
    tracer = RecordingTracer()
    return tracer, CommitTelemetry(Telemetry(tracer, Meter(), lambda: None))


def test_a_shared_commit_stands_in_one_trace_and_is_linked_to_the_others() -> None:
    tracer, told = telling()
    first, second = begin(), begin()
    with told.append(3, 100, [None, first, second]):
        pass
    (span,) = tracer.spans
    assert (span.name, span.parent, span.links, span.ended) == (
        "log.append",
        first,
        (second,),
        True,
    )
    assert span.attributes["souverix.commit.requests"] == 3


def test_links_are_bounded() -> None:
    tracer, told = telling()
    with told.append(500, 100, [begin() for _ in range(500)]):
        pass
    assert len(tracer.spans[0].links) == MAX_LINKS


def test_a_commit_of_no_trace_has_no_span() -> None:
    tracer, told = telling()
    with told.append(1, 100, [None]):
        pass
    assert not tracer.spans


def test_off_the_traces_are_not_even_looked_at() -> None:
    told = CommitTelemetry(OFF)
    with told.append(1, 100, (1 / 0 for _ in range(1))):  # type: ignore[misc]
        pass
