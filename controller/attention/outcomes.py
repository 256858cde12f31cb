"""When a command ended badly: failed, expired, refused, or nobody knows. Owns the count of such deliveries by command
and domain; the deliveries are the log's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from controller.attention.conditions import Condition, Judgement, Kind, Severity
from controller.attention.rules import Limits
from souverix.command.v1 import command_pb2

#: How bad an outcome is: the worst is the one after which nobody knows what the node did.
SEVERITIES: Final = {
    command_pb2.DELIVERY_STATE_INDETERMINATE: Severity.HIGH,
    command_pb2.DELIVERY_STATE_FAILED: Severity.MEDIUM,
    command_pb2.DELIVERY_STATE_EXPIRED: Severity.LOW,
    command_pb2.DELIVERY_STATE_REJECTED: Severity.LOW,
}

#: Nodes named in words.
NAMED_NODES = 3


class CommandAt(NamedTuple):
    """The part of a command that is one domain's."""

    domain: str
    command_id: str


@dataclass(slots=True)
class _Outcome:
    """Nodes at which a command ended badly, with the state."""

    nodes: dict[str, command_pb2.DeliveryState] = field(default_factory=dict)
    first_ms: int = 0
    last_ms: int = 0


class CommandOutcomes:
    """The commands that ended badly lately."""

    def __init__(self) -> None:
        self._bad: dict[CommandAt, _Outcome] = {}

    def take_note(
        self, at: CommandAt, node: str, delivery: command_pb2.Delivery, written_ms: int
    ) -> None:
        """How far a command got at a node, as it is now."""
        if delivery.state not in SEVERITIES:
            held = self._bad.get(at)
            if held is not None:
                held.nodes.pop(node, None)
            return
        ended_ms = (
            delivery.update_time.ToMilliseconds()
            if delivery.HasField("update_time")
            else written_ms
        )
        outcome = self._bad.setdefault(at, _Outcome(first_ms=ended_ms, last_ms=ended_ms))
        outcome.nodes[node] = delivery.state
        outcome.first_ms = min(outcome.first_ms, ended_ms)
        outcome.last_ms = max(outcome.last_ms, ended_ms)

    def judge(self, at: CommandAt, limits: Limits, now_ms: int) -> Judgement:
        """Whether a command is worth an item; for a time, since nothing else ends it."""
        outcome = self._bad.get(at)
        if outcome is None:
            return Judgement()
        end_ms = outcome.last_ms + int(limits.outcome_shown_for_s * 1000)
        if now_ms >= end_ms or not outcome.nodes:
            del self._bad[at]
            return Judgement()
        counts = Counter(outcome.nodes.values())
        states = ", ".join(
            f"{_word(state)} at {counts[state]}"
            for state in sorted(counts, key=lambda s: (-SEVERITIES[s], s))
        )
        named = ", ".join(sorted(outcome.nodes)[:NAMED_NODES])
        more = len(outcome.nodes) - NAMED_NODES
        condition = Condition(
            Kind.COMMAND_UNSUCCESSFUL,
            at.domain,
            f"commands/{at.command_id}",
            max(SEVERITIES[state] for state in counts),
            outcome.first_ms,
            f"{states} of its nodes: {named}" + (f" and {more} more" if more > 0 else ""),
            f"souverixctl describe command {at.command_id}",
            nodes=len(outcome.nodes),
        )
        return Judgement((condition,), end_ms)


def _word(state: command_pb2.DeliveryState) -> str:
    return command_pb2.DeliveryState.Name(state).removeprefix("DELIVERY_STATE_")
