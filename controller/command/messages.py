"""Turns commands and deliveries into messages and back. The only module of the package that does; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from controller.command.delivery import Answer, Delivery, DeliveryState, Semantics, Target
from controller.twin.facts import timestamp
from souverix.command.v1 import command_pb2
from souverix.nodelink.v1 import nodelink_pb2

#: Largest answer kept in a delivery event, so that hundreds of them share a commit; what is larger belongs in a report.
MAX_ANSWER_BYTES = 64 * 1024

#: Longest text of a node's error kept: a page for people.
MAX_ERROR_CHARACTERS = 4096

#: Stands in `error_message` for an output that was too large to be kept.
OUTPUT_DROPPED = f"the node's output was larger than {MAX_ANSWER_BYTES} bytes and was not kept"


@dataclass(frozen=True, slots=True)
class CommandForNodes:
    """A command as its delivering controller sees it, in one domain."""

    domain: str
    command_id: str
    action: command_pb2.Action
    semantics: Semantics
    nodes: tuple[str, ...]
    expire_ms: int
    #: When its writer stamped it.
    stamp_ms: int
    #: The trace it belongs to; empty: none.
    traceparent: str = ""


def subject_of_command(command_id: str) -> str:
    """Subject of the command and of its cancel."""
    return f"commands/{command_id}"


def subject_of_delivery(target: Target) -> str:
    """Subject of the delivery at one node."""
    return f"commands/{target.command_id}/{target.node}"


def command_from_fact(domain: str, fact: command_pb2.CommandFact, stamp_ms: int) -> CommandForNodes:
    """The command a fact of a domain states."""
    semantics = (
        Semantics.AT_MOST_ONCE
        if fact.semantics == command_pb2.DELIVERY_SEMANTICS_AT_MOST_ONCE
        else Semantics.AT_LEAST_ONCE
    )
    return CommandForNodes(
        domain,
        fact.command_id,
        fact.action,
        semantics,
        tuple(fact.nodes),
        milliseconds(fact.expire_time),
        stamp_ms,
        fact.traceparent,
    )


def delivery_to_message(delivery: Delivery) -> command_pb2.Delivery:
    """The body of a delivery event."""
    message = command_pb2.Delivery(
        command_id=delivery.target.command_id,
        node=delivery.target.node,
        state=wire_name(delivery.state),
        reason=delivery.reason,
        attempts=delivery.attempts,
        late_result=delivery.late,
        fencing_token=delivery.fencing_token,
        update_time=timestamp(delivery.update_ms),
    )
    if delivery.dispatch_ms is not None:
        message.dispatch_time.CopyFrom(timestamp(delivery.dispatch_ms))
    if delivery.answer is not None:
        message.error_message = delivery.answer.error_message
        if delivery.answer.output is not None:
            message.output.CopyFrom(delivery.answer.output)
    return message


def delivery_from_message(domain: str, message: command_pb2.Delivery) -> Delivery | None:
    """The delivery an event states; None for a state that this version does not know."""
    try:
        state = DeliveryState(message.state)
    except ValueError:
        return None
    answered = message.late_result or (
        not message.reason and state not in (DeliveryState.PENDING, DeliveryState.DISPATCHED)
    )
    answer = (
        Answer(
            state,
            message.output if message.HasField("output") else None,
            message.error_message,
        )
        if answered
        else None
    )
    return Delivery(
        Target(domain, message.command_id, message.node),
        state,
        message.reason,
        message.attempts,
        milliseconds(message.dispatch_time) if message.HasField("dispatch_time") else None,
        milliseconds(message.update_time),
        answer,
        message.late_result,
        message.fencing_token,
    )


def answer_from_result(result: nodelink_pb2.CommandResult) -> Answer | None:
    """What a node said; None for a state that is no answer."""
    try:
        state = DeliveryState(result.state)
    except ValueError:
        return None
    error = result.error_message[:MAX_ERROR_CHARACTERS]
    output = result.output if result.HasField("output") else None
    if output is not None and output.ByteSize() > MAX_ANSWER_BYTES:
        return Answer(state, None, error or OUTPUT_DROPPED)
    return Answer(state, output, error)


def wire_name(state: DeliveryState) -> str:
    """A state as messages name it."""
    return f"DELIVERY_STATE_{state.name}"


def milliseconds(time: Timestamp) -> int:
    """Milliseconds since the epoch."""
    return time.seconds * 1000 + time.nanos // 1_000_000
