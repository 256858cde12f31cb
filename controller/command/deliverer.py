"""Decides what the delivering controller does next for each command at each node: record, send, ask to stop, wait.
Owns the open deliveries of one mastership; never sends, writes or tells time itself.

Contract with the driver: the effects of one batch of inputs are carried out in this order: all `Record`s in a commit,
and once that stands, everything else. So nothing leaves before its record is durable, and a crash in between loses a
sending, never the knowledge of one. An at-most-once command whose sending was lost so is not sent again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from controller.command.delivery import (
    ANSWERS,
    Answer,
    Delivery,
    DeliveryState,
    Semantics,
    Target,
    Trigger,
    advance,
)
from controller.command.messages import CommandForNodes
from federation.backoff import Backoff

#: Commands on their way to one node at a time. Below what an agent keeps waiting, so that it refuses none for lack of
#: room, and enough to fill a satellite link.
MAX_IN_FLIGHT_A_NODE = 32

#: Between sendings of a command that may be repeated: longer than most actions take, some hundred records a day.
RESEND_BACKOFF = Backoff(initial_ms=5_000, maximum_ms=300_000)

#: Least time between sendings over a link that comes and goes.
RESEND_AFTER_RELINK_MS = 2_000

#: Timers kept a delivery (its expiry, its next sending, some outdated), and beyond that, before they are sorted out.
TIMERS_A_DELIVERY = 4
MAX_TIMERS_IDLE = 10_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """A delivery as the log holds it, and who recorded it."""

    delivery: Delivery
    by_this_mastership: bool
    by_this_incarnation: bool


@dataclass(frozen=True, slots=True)
class CommandSeen:
    """Input: a command for nodes this controller delivers to, with what the log holds of its deliveries by node."""

    command: CommandForNodes
    recorded: Mapping[str, Recorded]
    cancel_asked: bool = False


@dataclass(frozen=True, slots=True)
class CancelSeen:
    """Input: somebody asked to stop a command in a domain."""

    domain: str
    command_id: str


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """Input: a node can be reached, as one of a domain."""

    node: str
    domain: str


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """Input: a node cannot be reached any more."""

    node: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Input: a node said what became of a command; with what the log holds of the delivery (None: nothing)."""

    target: Target
    answer: Answer
    recorded: Delivery | None


Input = CommandSeen | CancelSeen | LinkOpened | LinkClosed | Answered


@dataclass(frozen=True, slots=True)
class Record:
    """Effect: write the delivery as it stands now."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class SendCommand:
    """Effect: send a command to a node."""

    target: Target
    command: CommandForNodes
    attempt: int


@dataclass(frozen=True, slots=True)
class SendCancel:
    """Effect: ask a node to stop a command."""

    target: Target


@dataclass(frozen=True, slots=True)
class AcknowledgeAnswer:
    """Effect: tell a node that its answer is durable."""

    target: Target


Effect = Record | SendCommand | SendCancel | AcknowledgeAnswer


@dataclass(slots=True)
class _Open:
    """A delivery that is not terminal."""

    command: CommandForNodes
    delivery: Delivery
    is_recorded: bool
    cancel_asked: bool
    #: When it may be sent (again); at-most-once: never again once dispatched.
    due_ms: int = 0
    on_this_link: bool = False


class Deliverer:
    """The open deliveries of one mastership.

    `fencing_token` names it. `rewound_ms` is when this log began anew after it was set back: of a command older than
    that, the record of a dispatch may be lost. None: it never was set back. `takes` tells whether a node may be sent a
    new command, by domain, node and kind of action; `is_returning` whether a node has a link that is locked until it is
    reconciled.
    """

    def __init__(
        self,
        fencing_token: int,
        rewound_ms: int | None,
        chance: Callable[[], float],
        takes: Callable[[str, str, str], bool] = lambda domain, node, action: True,
        is_returning: Callable[[str], bool] = lambda node: False,
    ) -> None:
        self._takes = takes
        self._is_returning = is_returning
        self._fencing_token = fencing_token
        self._rewound_ms = rewound_ms
        self._chance = chance
        self._open: dict[Target, _Open] = {}
        self._by_node: dict[str, dict[Target, _Open]] = {}
        self._by_command: dict[tuple[str, str], dict[str, _Open]] = {}
        self._linked: dict[str, str] = {}
        self._ended: dict[Target, Delivery] = {}
        self._timers: list[tuple[int, Target]] = []

    def committed(self) -> None:
        """All records up to now stand in the log, and inputs made from it will show them."""
        self._ended.clear()

    def open_count(self) -> int:
        """Deliveries that are not terminal."""
        return len(self._open)

    def next_due_ms(self) -> int | None:
        """When `tick` has something to do; None: nothing waits for time to pass."""
        return self._timers[0][0] if self._timers else None

    def step(self, given: Input, now_ms: int) -> list[Effect]:
        """What an input leads to."""
        match given:
            case CommandSeen():
                return list(self._command_seen(given, now_ms))
            case CancelSeen():
                return list(self._cancel_seen(given, now_ms))
            case LinkOpened():
                return list(self._link_opened(given, now_ms))
            case LinkClosed():
                self._linked.pop(given.node, None)
                for held in self._by_node.get(given.node, {}).values():
                    held.on_this_link = False
                return []
            case Answered():
                return list(self._answered(given, now_ms))

    def tick(self, now_ms: int) -> list[Effect]:
        """Time has passed: expire, and send again."""
        effects: list[Effect] = []
        nodes: dict[str, None] = {}
        while self._timers and self._timers[0][0] <= now_ms:
            _, target = heapq.heappop(self._timers)
            held = self._open.get(target)
            if held is None:
                continue
            if now_ms >= held.command.expire_ms:
                effects.extend(self._move(held, Trigger.EXPIRY, now_ms))
            nodes[target.node] = None
        for node in nodes:
            effects.extend(self._pump(node, now_ms))
        return effects

    def _command_seen(self, seen: CommandSeen, now_ms: int) -> Iterator[Effect]:
        command = seen.command
        for node in command.nodes:
            target = Target(command.domain, command.command_id, node)
            recorded = seen.recorded.get(node)
            if target in self._open or (recorded is not None and recorded.delivery.is_terminal):
                continue
            delivery = recorded.delivery if recorded else Delivery(target, update_ms=now_ms)
            held = _Open(command, delivery, recorded is not None, seen.cancel_asked)
            self._enter(held)
            if self._is_unconfirmed(command, recorded):
                yield from self._move(held, Trigger.DISPATCH_UNCONFIRMED, now_ms)
            elif now_ms >= command.expire_ms:
                yield from self._move(held, Trigger.EXPIRY, now_ms)
            elif seen.cancel_asked and delivery.state is DeliveryState.PENDING:
                yield from self._move(held, Trigger.CANCEL, now_ms)
            elif self._is_barred(held):
                yield from self._move(held, Trigger.NODE_BARRED, now_ms)
            else:
                yield from self._pump(node, now_ms)
                yield from self._note_waiting(held)

    def _is_unconfirmed(self, command: CommandForNodes, recorded: Recorded | None) -> bool:
        """Tells whether an at-most-once command may have been sent without this mastership knowing."""
        if command.semantics is not Semantics.AT_MOST_ONCE:
            return False
        if recorded is not None and recorded.delivery.state is DeliveryState.DISPATCHED:
            return not recorded.by_this_mastership
        if self._rewound_ms is None or command.stamp_ms >= self._rewound_ms:
            return False
        return recorded is None or not recorded.by_this_incarnation

    def _is_barred(self, held: _Open) -> bool:
        """Tells whether a command that was not sent yet must not be."""
        if held.delivery.state is not DeliveryState.PENDING:
            return False
        target = held.delivery.target
        action = held.command.action.WhichOneof("action") or ""
        return not self._takes(target.domain, target.node, action)

    def _note_waiting(self, held: _Open) -> Iterator[Effect]:
        """A command that cannot leave at once is recorded as arrived, so that its issuer sees where it waits."""
        if held.is_recorded or held.delivery.state is not DeliveryState.PENDING:
            return
        if self._is_linked(held.delivery.target):
            reason = "WAITS_FOR_EARLIER_COMMANDS"
        elif self._is_returning(held.delivery.target.node):
            reason = "NODE_RETURNING"
        else:
            reason = "NODE_NOT_LINKED"
        held.delivery = replace(held.delivery, reason=reason)
        held.is_recorded = True
        yield Record(held.delivery)

    def _cancel_seen(self, seen: CancelSeen, now_ms: int) -> Iterator[Effect]:
        for held in list(self._by_command.get((seen.domain, seen.command_id), {}).values()):
            held.cancel_asked = True
            target = held.delivery.target
            if held.delivery.state is DeliveryState.PENDING:
                yield from self._move(held, Trigger.CANCEL, now_ms)
            elif self._is_linked(target):
                yield SendCancel(target)

    def _link_opened(self, opened: LinkOpened, now_ms: int) -> Iterator[Effect]:
        self._linked[opened.node] = opened.domain
        for held in self._by_node.get(opened.node, {}).values():
            held.on_this_link = False
            dispatched = held.delivery.state is DeliveryState.DISPATCHED
            if not dispatched or not self._is_linked(held.delivery.target):
                continue
            if held.cancel_asked:
                yield SendCancel(held.delivery.target)
            elif held.command.semantics is Semantics.AT_LEAST_ONCE:
                held.due_ms = max(now_ms, held.delivery.update_ms + RESEND_AFTER_RELINK_MS)
                self._wake_at(held.due_ms, held.delivery.target)
        yield from self._pump(opened.node, now_ms)

    def _is_linked(self, target: Target) -> bool:
        return self._linked.get(target.node) == target.domain

    def _answered(self, given: Answered, now_ms: int) -> Iterator[Effect]:
        trigger = ANSWERS.get(given.answer.state)
        if trigger is None:
            return
        held = self._open.get(given.target)
        standing = held.delivery if held is not None else self._ended.get(given.target)
        standing = standing or given.recorded
        if standing is None:
            return
        moved = advance(standing, trigger, now_ms, answer=given.answer)
        if moved is not None:
            if held is not None:
                self._leave(held)
            self._ended[given.target] = moved
            yield Record(moved)
        yield AcknowledgeAnswer(given.target)
        yield from self._pump(given.target.node, now_ms)

    def _pump(self, node: str, now_ms: int) -> Iterator[Effect]:
        """Sends what is due to a node, oldest first, as far as its window allows."""
        waiting = [
            h for h in self._by_node.get(node, {}).values() if self._is_linked(h.delivery.target)
        ]
        room = MAX_IN_FLIGHT_A_NODE - sum(held.on_this_link for held in waiting)
        for held in waiting:
            if held.due_ms > now_ms or held.cancel_asked or now_ms >= held.command.expire_ms:
                continue
            if self._is_barred(held):
                yield from self._move(held, Trigger.NODE_BARRED, now_ms)
                continue
            if held.delivery.state is DeliveryState.PENDING:
                trigger = Trigger.DISPATCH
            elif held.command.semantics is Semantics.AT_LEAST_ONCE:
                trigger = Trigger.RESEND
            else:
                continue
            if not held.on_this_link:
                if room <= 0:
                    continue
                room -= 1
            yield from self._send(held, trigger, now_ms)

    def _send(self, held: _Open, trigger: Trigger, now_ms: int) -> Iterator[Effect]:
        yield from self._move(held, trigger, now_ms)
        held.on_this_link = True
        attempt = held.delivery.attempts
        if held.command.semantics is Semantics.AT_LEAST_ONCE:
            held.due_ms = now_ms + RESEND_BACKOFF.delay_ms(attempt - 1, self._chance())
            self._wake_at(held.due_ms, held.delivery.target)
        yield SendCommand(held.delivery.target, held.command, attempt)

    def _move(self, held: _Open, trigger: Trigger, now_ms: int) -> Iterator[Effect]:
        moved = advance(held.delivery, trigger, now_ms, fencing_token=self._fencing_token)
        if moved is None:
            return
        held.delivery = moved
        held.is_recorded = True
        if moved.is_terminal:
            self._leave(held)
            self._ended[moved.target] = moved
        yield Record(moved)

    def _enter(self, held: _Open) -> None:
        target = held.delivery.target
        self._open[target] = held
        self._by_node.setdefault(target.node, {})[target] = held
        self._by_command.setdefault((target.domain, target.command_id), {})[target.node] = held
        self._wake_at(held.command.expire_ms, target)

    def _leave(self, held: _Open) -> None:
        target = held.delivery.target
        command = (target.domain, target.command_id)
        del self._open[target]
        del self._by_node[target.node][target]
        if not self._by_node[target.node]:
            del self._by_node[target.node]
        del self._by_command[command][target.node]
        if not self._by_command[command]:
            del self._by_command[command]

    def _wake_at(self, due_ms: int, target: Target) -> None:
        """Sets a timer. Timers of deliveries that ended are dropped in bulk, before they outweigh the live ones."""
        if len(self._timers) > MAX_TIMERS_IDLE + TIMERS_A_DELIVERY * len(self._open):
            self._timers = [
                (at, held.delivery.target)
                for held in self._open.values()
                for at in {held.command.expire_ms, held.due_ms or held.command.expire_ms}
            ]
            heapq.heapify(self._timers)
        heapq.heappush(self._timers, (due_ms, target))
