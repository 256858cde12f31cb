"""Spans of sync sessions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from controller.telemetry.sessions import MAX_INGEST_SPANS_PER_S, SessionTrace
from federation.session_phases import Phase
from telemetry.spans import NO_SPAN, Tracer
from tests.unit.controller.telemetry.recorded import RecordingTracer


def session(phase: Phase) -> Any:
    return SimpleNamespace(phase=phase, peer="region-a-control")


def test_each_phase_is_a_span_below_the_first() -> None:
    tracer = RecordingTracer()
    trace = SessionTrace(tracer)
    for phase in (Phase.GREETING, Phase.GREETING, Phase.COMPARING, Phase.SYNCING):
        trace.note(session(phase))
    names = [span.name for span in tracer.spans]
    assert names == ["sync.greeting", "sync.comparing", "sync.syncing"]
    assert [span.ended for span in tracer.spans] == [True, True, False]
    assert {span.parent for span in tracer.spans[1:]} == {tracer.spans[0].context}
    trace.over()
    trace.note(session(Phase.CLOSED))
    assert tracer.spans[-1].ended
    assert len(tracer.spans) == 3


def test_spans_of_batches_are_bounded() -> None:
    tracer = RecordingTracer()
    trace = SessionTrace(tracer)
    trace.note(session(Phase.SYNCING))
    for _ in range(1000):
        trace.ingest([], 10)
    # The thousand may fall into two seconds.
    assert len(tracer.spans) - 1 <= 2 * MAX_INGEST_SPANS_PER_S


def test_off_there_are_none() -> None:
    trace = SessionTrace(Tracer())
    trace.note(session(Phase.SYNCING))
    assert trace.ingest([], 10) is NO_SPAN
