"""Spans of commands beyond their calls."""

from __future__ import annotations

import pytest

from controller.command.delivery import Target
from controller.telemetry.commands import CommandTraces
from souverix.command.v1 import command_pb2
from souverix.nodelink.v1 import nodelink_pb2
from telemetry.context import TraceContext, begin
from telemetry.spans import Tracer
from tests.federation_fixture import MemoryController, root_controller
from tests.unit.controller.telemetry.recorded import RecordingTracer

TARGET = Target("global", "c1", "n1")


def deliver(
    root: MemoryController, traces: CommandTraces, state: str, trace: TraceContext, by: str
) -> None:
    fact = command_pb2.CommandFact(
        command_id="c1", nodes=["n1"], issuing_controller=by, traceparent=str(trace)
    )
    root.submit(lambda p: p.write("global", "commands/c1", "command", fact, principal="user:a"))
    done = command_pb2.Delivery(command_id="c1", node="n1", state=f"DELIVERY_STATE_{state}")  # type: ignore[arg-type]
    root.submit(lambda p: p.write("global", "commands/c1/n1", "delivery", done, principal="c:x"))
    assert root.last_applied is not None
    traces.note(root.last_applied)


@pytest.mark.parametrize(
    ("state", "by", "told"),
    [
        ("SUCCEEDED", "global-control", ["command.outcome"]),
        ("DISPATCHED", "global-control", []),
        ("SUCCEEDED", "another-control", []),
    ],
)
def test_the_outcome_is_told_once_where_the_command_was_issued(
    state: str, by: str, told: list[str]
) -> None:
    root, tracer, trace = root_controller(), RecordingTracer(), begin()
    traces = CommandTraces(tracer, root.state, "global-control")
    deliver(root, traces, state, trace, by)
    assert [span.name for span in tracer.spans] == told
    assert all(span.parent == trace for span in tracer.spans)


def test_what_is_sent_carries_the_place_of_its_own_span() -> None:
    tracer, trace = RecordingTracer(), begin()
    traces = CommandTraces(tracer, root_controller().state, "global-control")
    carried = traces.sent(TARGET, str(trace), 2)
    (span,) = tracer.spans
    assert (span.parent, carried) == (trace, str(span.context))
    assert span.attributes["souverix.command.attempt"] == 2
    answer = nodelink_pb2.CommandResult(
        command_id="c1", state=command_pb2.DELIVERY_STATE_SUCCEEDED, traceparent=carried
    )
    traces.answered(TARGET, answer)
    assert tracer.spans[-1].parent == span.context
    assert tracer.spans[-1].attributes["souverix.delivery.state"] == "SUCCEEDED"


def test_without_a_trace_or_while_off_nothing_is_made_of_it() -> None:
    tracer, trace = RecordingTracer(), begin()
    traces = CommandTraces(tracer, root_controller().state, "global-control")
    assert traces.sent(TARGET, "", 1) == ""
    traces.answered(TARGET, nodelink_pb2.CommandResult(command_id="c1", traceparent="nonsense"))
    assert not tracer.spans
    off = CommandTraces(Tracer(), root_controller().state, "global-control")
    assert off.sent(TARGET, str(trace), 1) == str(trace)
