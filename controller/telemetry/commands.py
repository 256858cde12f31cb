"""The spans of commands beyond their calls: sent to a node, answered by it, and their outcome where they were issued.
Owns the hooks of dispatch and of the issuing controller; all stand in the trace that the command's fact names.
"""

from __future__ import annotations

from controller.command.delivery import TERMINAL, Target
from controller.command.messages import subject_of_command
from federation.identifiers import Key
from federation.state import Applied, State
from souverix.nodelink.v1 import nodelink_pb2
from telemetry.context import parse
from telemetry.spans import Attributes, Kind, Tracer

_FINISHED = {int(state): state.name for state in TERMINAL}


class CommandTraces:
    """Spans of the commands that pass one replica."""

    def __init__(self, tracer: Tracer, state: State, controller: str) -> None:
        self._tracer = tracer
        self._state = state
        self._controller = controller

    def sent(self, target: Target, traceparent: str, attempt: int) -> str:
        """A command is on its way to a node; the place in the trace that goes with it."""
        parent = parse(traceparent) if traceparent else None
        if parent is None or not self._tracer.is_on:
            return traceparent
        attributes: Attributes = {**_named(target), "souverix.command.attempt": attempt}
        with self._tracer.span(
            "command.send", kind=Kind.PRODUCER, parent=parent, attributes=attributes
        ) as span:
            return str(span.context)

    def answered(self, target: Target, result: nodelink_pb2.CommandResult) -> None:
        """A node's answer has come."""
        if not self._tracer.is_on:
            return
        parent = parse(result.traceparent) if result.traceparent else None
        if parent is not None:
            attributes = {**_named(target), "souverix.delivery.state": _state(result.state)}
            with self._tracer.span(
                "command.answer", kind=Kind.CONSUMER, parent=parent, attributes=attributes
            ):
                return

    def note(self, applied: Applied) -> None:
        """A commit was made or arrived: what it says of commands that were issued here is their outcome."""
        for key in applied.keys:
            if key.aspect == "delivery":
                self._note_delivery(key)

    def _note_delivery(self, key: Key) -> None:
        _, command_id, node = key.subject.split("/", 2)
        written = self._state.winner(key)
        fact = self._state.winner(Key(key.domain, subject_of_command(command_id), "command"))
        if written is None or fact is None:
            return
        state = written.body().state
        body = fact.body()
        parent = parse(body.traceparent) if body.traceparent else None
        if parent is None or state not in _FINISHED or body.issuing_controller != self._controller:
            return
        attributes = {
            **_named(Target(key.domain, command_id, node)),
            "souverix.delivery.state": _FINISHED[state],
        }
        with self._tracer.span("command.outcome", parent=parent, attributes=attributes):
            return


def _named(target: Target) -> dict[str, str]:
    return {
        "souverix.command.id": target.command_id,
        "souverix.node": target.node,
        "souverix.domain": target.domain,
    }


def _state(number: int) -> str:
    return _FINISHED.get(number, str(number))
