"""Spans while nothing is recorded, and while something is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from telemetry.context import begin, current
from telemetry.settings import TelemetrySettings
from telemetry.spans import NO_SPAN, Tracer
from telemetry.started import OFF, TelemetryUnavailable, start
from tests.processes import free_port


def test_off_makes_no_spans_and_hands_a_callers_context_on() -> None:
    tracer = Tracer()
    assert tracer.span("x") is NO_SPAN
    context = begin()
    with tracer.span("x", parent=context) as span:
        assert span.context == context
        assert current() == context
    assert current() is None


def test_settings_that_ask_for_nothing_start_nothing() -> None:
    assert start(TelemetrySettings(), "x", {}) is OFF


def test_spans_are_current_in_their_block_and_below_their_parent() -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    telling = start(TelemetrySettings(endpoint=nowhere, sampling_ratio=0.0), "x", {})
    try:
        assert telling.tracer.is_on
        parent = begin()
        with telling.tracer.span("upper", parent=parent) as upper:
            assert current() == upper.context
            assert upper.context is not None
            assert upper.context.trace_id == parent.trace_id
            assert upper.context.span_id != parent.span_id
            assert upper.context.sampled, "who began the trace decides"
            with telling.tracer.span("lower") as lower:
                assert lower.context is not None
                assert lower.context.trace_id == parent.trace_id
            assert current() == upper.context
        with telling.tracer.span("first") as first:
            assert first.context is not None
            assert not first.context.sampled
    finally:
        telling.stop()


WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
sys.modules["prometheus_client"] = None
import controller.main, nodeagent.main, souverixctl.main
from telemetry.settings import TelemetrySettings
from telemetry.started import OFF, TelemetryUnavailable, start
assert start(TelemetrySettings(), "x", {}) is OFF
try:
    start(TelemetrySettings(endpoint="http://127.0.0.1:4317"), "x", {})
except TelemetryUnavailable as error:
    print(error)
"""


def test_without_opentelemetry_everything_runs_and_only_telling_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "extras otlp or prometheus" in done.stdout


def test_an_address_that_is_taken_is_named(tmp_path: object) -> None:
    port = free_port()
    settings = TelemetrySettings(prometheus_address=f"127.0.0.1:{port}")
    first = start(settings, "x", {})
    try:
        with pytest.raises(TelemetryUnavailable, match=str(port)):
            start(settings, "x", {})
    finally:
        first.stop()
