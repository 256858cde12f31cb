"""The trace that a run of the command line belongs to."""

from __future__ import annotations

import pytest

from souverixctl.errors import BadInput
from souverixctl.session import Session
from telemetry.context import begin


def test_none_is_the_default() -> None:
    assert Session({}).trace is None


def test_a_given_one_is_taken_and_nonsense_refused() -> None:
    context = begin()
    assert Session({"traceparent": str(context)}).trace == context
    with pytest.raises(BadInput, match="trace context"):
        _ = Session({"traceparent": "x"}).trace


def test_a_new_one_is_begun_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    trace = Session({"traceparent": "new"}).trace
    assert trace is not None
    assert f"{trace.trace_id:032x}" in capsys.readouterr().err


def test_an_endpoint_that_is_none_is_refused_with_the_next_step() -> None:
    for endpoint in ("collector", "http://192.0.2.1:4317"):
        with pytest.raises(BadInput, match="--otlp-endpoint"):
            _ = Session({"otlp_endpoint": endpoint}).trace
