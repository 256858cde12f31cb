"""Drives the commands of one mastership: reads facts, asks the deliverer, records, then sends. Owns the order "recorded
before sent"; decides nothing about a delivery.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from controller.command.deliverer import (
    AcknowledgeAnswer,
    Answered,
    CancelSeen,
    CommandSeen,
    Deliverer,
    Effect,
    Input,
    LinkClosed,
    LinkOpened,
    Record,
    Recorded,
    SendCancel,
    SendCommand,
)
from controller.command.delivery import Delivery, Semantics, Target
from controller.command.desired import action_for
from controller.command.messages import (
    answer_from_result,
    command_from_fact,
    delivery_from_message,
    delivery_to_message,
    subject_of_command,
    subject_of_delivery,
)
from controller.command.targets import delivered_domains
from controller.journal import Journal
from controller.lifecycle.transitions import takes_command
from controller.nodelink.commits import MAX_SUBMISSION_BYTES, MAX_SUBMISSION_FACTS, commit
from controller.nodelink.incidents import is_isolated
from controller.nodelink.link import Link
from controller.nodelink.links import Links
from controller.nodelink.session import SessionState
from controller.replica import Replica
from controller.telemetry.commands import CommandTraces
from controller.twin.facts import body_of, timestamp
from federation.clock import MAX_AHEAD_MS, wall_ms_of
from federation.codec import Write
from federation.identifiers import Key
from federation.proposal import Proposal
from federation.state import Applied, State
from souverix.command.v1 import command_pb2
from souverix.nodelink.v1 import nodelink_pb2

_log = logging.getLogger(__name__)

#: Inputs handled in one round: their records share a few commits, and the loop breathes in between.
MAX_INPUTS_A_ROUND = 256

#: Inputs that may wait while the log is slow. Beyond it everything is read anew from the facts, and answers that were
#: not taken come again over the nodes' next links.
MAX_INBOX = 50_000

#: Facts read between pauses when everything is read anew.
READ_A_SLICE = 500


class Dispatcher:
    """The delivery of commands by this replica while it is master."""

    def __init__(self, replica: Replica, links: Links) -> None:
        self._replica = replica
        self._links = links
        self._traces = CommandTraces(
            replica.telemetry.tracer, replica.state, replica.config.controller.id
        )
        self._inbox: deque[Input] = deque()
        self._news: deque[tuple[str, str]] = deque()
        self._wake = asyncio.Event()
        self._start_over = False
        self._domains: frozenset[str] = frozenset()

    # What the links tell.

    def link_opened(self, link: Link) -> None:
        """A node can be reached, or its lock was released; told of a locked one, it waits for that."""
        if self._may_be_sent(link):
            self._put(LinkOpened(link.node, link.domain))

    def link_closed(self, link: Link) -> None:
        """A node cannot be reached any more."""
        self._put(LinkClosed(link.node))

    def answered(self, link: Link, result: nodelink_pb2.CommandResult) -> None:
        """A node said what became of a command."""
        answer = answer_from_result(result)
        if answer is not None:
            target = Target(link.domain, result.command_id, link.node)
            self._traces.answered(target, result)
            self._put(Answered(target, answer, None))

    # Its life.

    async def run(self, journal: Journal) -> None:
        """Delivers until cancelled."""
        with contextlib.ExitStack() as listening:
            listening.enter_context(self._replica.changes.listen(self._note))
            if self._replica.telemetry.tracer.is_on:
                listening.enter_context(self._replica.changes.listen(self._traces.note))
            deliverer = await self._begin(journal)
            while True:
                if self._start_over:
                    deliverer = await self._begin(journal)
                effects = deliverer.tick(_wall_ms())
                for given in self._take(journal):
                    effects += deliverer.step(given, _wall_ms())
                await self._carry_out(journal, effects)
                deliverer.committed()
                await self._until(deliverer.next_due_ms())

    async def _begin(self, journal: Journal) -> Deliverer:
        """A deliverer that knows all that the facts and the links tell now."""
        state = self._replica.state
        self._start_over = False
        answers = [given for given in self._inbox if isinstance(given, Answered)]
        self._inbox = deque(answers if len(answers) < MAX_INBOX // 2 else ())
        self._news.clear()
        self._domains = delivered_domains(state.authority, journal.identity.controller)
        deliverer = Deliverer(
            journal.fencing_token,
            _rewound_ms(journal, state),
            random.random,
            self._takes,
            self._is_returning,
        )
        effects: list[Effect] = []
        commands = [(w.stamp, key) for key, w in _commands_of(state, self._domains)]
        for number, (_, key) in enumerate(sorted(commands), 1):
            seen = self._seen(key.domain, key.subject.partition("/")[2], journal)
            if seen is not None:
                effects += deliverer.step(seen, _wall_ms())
            if number % READ_A_SLICE == 0:
                await asyncio.sleep(0)
        for link in filter(self._may_be_sent, self._links):
            effects += deliverer.step(LinkOpened(link.node, link.domain), _wall_ms())
        _log.info("delivering", extra={"open": deliverer.open_count()})
        await self._carry_out(journal, effects)
        deliverer.committed()
        return deliverer

    def _note(self, applied: Applied) -> None:
        """Takes note of what a commit means for deliveries."""
        if applied.authority_changed:
            controller = self._replica.config.controller.id
            domains = delivered_domains(self._replica.state.authority, controller)
            if domains != self._domains:
                self._start_over = True
                self._wake.set()
        for key in applied.keys:
            if key.aspect in ("command", "command_cancel") and key.domain in self._domains:
                self._news.append((key.domain, key.subject.partition("/")[2]))
                self._wake.set()

    def _put(self, given: Input) -> None:
        if len(self._inbox) >= MAX_INBOX:
            self._start_over = True
        else:
            self._inbox.append(given)
        self._wake.set()

    def _take(self, journal: Journal) -> Iterator[Input]:
        """Inputs of one round: what the links told, then new commands and cancels."""
        for _ in range(min(len(self._inbox), MAX_INPUTS_A_ROUND)):
            given = self._inbox.popleft()
            if isinstance(given, Answered):
                held = self._recorded(given.target)
                given = replace(given, recorded=held[0] if held else None)
            yield given
        for _ in range(min(len(self._news), MAX_INPUTS_A_ROUND)):
            domain, command_id = self._news.popleft()
            seen = self._seen(domain, command_id, journal)
            if seen is not None:
                yield seen
                if seen.cancel_asked:
                    yield CancelSeen(domain, command_id)

    async def _until(self, due_ms: int | None) -> None:
        if self._inbox or self._news or self._start_over:
            await asyncio.sleep(0)
            return
        self._wake.clear()
        timeout_s = None if due_ms is None else max(0.0, (due_ms - _wall_ms()) / 1000)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return

    # Facts.

    def _takes(self, domain: str, node: str, action: str) -> bool:
        recorded = body_of(self._replica.state, Key(domain, f"nodes/{node}", "lifecycle"))
        return takes_command(recorded, action)

    def _may_be_sent(self, link: Link) -> bool:
        """Tells whether commands may go over a link: never before the node is reconciled (design §8)."""
        if link.session.state is SessionState.QUARANTINED:
            return is_isolated(self._replica.state, link.domain, link.node)
        return link.session.is_unlocked

    def _is_returning(self, node: str) -> bool:
        link = self._links.get(node)
        return link is not None and not link.session.is_unlocked

    def _seen(self, domain: str, command_id: str, journal: Journal) -> CommandSeen | None:
        state = self._replica.state
        subject = subject_of_command(command_id)
        write = state.winner(Key(domain, subject, "command"))
        if write is None:
            return None
        command = command_from_fact(domain, write.body(), wall_ms_of(write.stamp))
        recorded: dict[str, Recorded] = {}
        for node in command.nodes:
            held = self._recorded(Target(domain, command_id, node))
            if held is not None:
                delivery, by = held
                by_incarnation = by.origin == journal.identity.origin
                by_mastership = by_incarnation and delivery.fencing_token == journal.fencing_token
                recorded[node] = Recorded(delivery, by_mastership, by_incarnation)
        cancel = state.winner(Key(domain, subject, "command_cancel"))
        return CommandSeen(command, recorded, cancel is not None)

    def _recorded(self, target: Target) -> tuple[Delivery, Write] | None:
        """What the log holds of a delivery to a target that a command names, and who wrote it."""
        key = Key(target.domain, subject_of_delivery(target), "delivery")
        write = self._replica.state.winner(key)
        delivery = delivery_from_message(target.domain, write.body()) if write else None
        return (delivery, write) if delivery is not None and write is not None else None

    # Effects.

    async def _carry_out(self, journal: Journal, effects: list[Effect]) -> None:
        """Records first; what is sent rests on it."""
        principal = f"controller:{journal.identity.controller}"
        for group in _groups([e.delivery for e in effects if isinstance(e, Record)]):

            def draft(proposal: Proposal, group: Group = group) -> None:
                for target, message in group:
                    subject = subject_of_delivery(target)
                    proposal.write(target.domain, subject, "delivery", message, principal=principal)

            await commit(journal, draft)
        for effect in effects:
            if not isinstance(effect, Record):
                self._send(effect)

    def _send(self, effect: SendCommand | SendCancel | AcknowledgeAnswer) -> None:
        link = self._links.get(effect.target.node)
        if link is None or link.domain != effect.target.domain:
            return
        frame = nodelink_pb2.ConnectResponse()
        match effect:
            case SendCommand():
                frame.command.CopyFrom(_command_frame(effect, self._replica.state))
                frame.command.traceparent = self._traces.sent(
                    effect.target, effect.command.traceparent, effect.attempt
                )
            case SendCancel():
                frame.cancel.command_id = effect.target.command_id
            case AcknowledgeAnswer():
                frame.result_ack.command_id = effect.target.command_id
        link.send(frame)


Group = list[tuple[Target, command_pb2.Delivery]]


def _groups(deliveries: list[Delivery]) -> Iterator[Group]:
    """Deliveries as they fit into one submission each."""
    group: Group = []
    size = 0
    for delivery in deliveries:
        message = delivery_to_message(delivery)
        size += message.ByteSize()
        if group and (len(group) >= MAX_SUBMISSION_FACTS or size > MAX_SUBMISSION_BYTES):
            yield group
            group, size = [], message.ByteSize()
        group.append((delivery.target, message))
    if group:
        yield group


def _command_frame(effect: SendCommand, state: State) -> nodelink_pb2.CommandFrame:
    command, target = effect.command, effect.target
    at_most_once = command.semantics is Semantics.AT_MOST_ONCE
    return nodelink_pb2.CommandFrame(
        command_id=command.command_id,
        action=action_for(state, target.domain, target.node, command.action),
        semantics=(
            command_pb2.DELIVERY_SEMANTICS_AT_MOST_ONCE
            if at_most_once
            else command_pb2.DELIVERY_SEMANTICS_AT_LEAST_ONCE
        ),
        expire_time=timestamp(command.expire_ms),
        attempt=effect.attempt,
    )


def _commands_of(state: State, domains: frozenset[str]) -> Iterator[tuple[Key, Write]]:
    for domain in domains:
        for subject in list(state.subjects_of(domain, "commands")):
            key = Key(domain, subject, "command")
            write = state.winner(key)
            if write is not None:
                yield key, write


def _rewound_ms(journal: Journal, state: State) -> int | None:
    """Before when a command's dispatch may have been recorded in a past that this log no longer holds.

    A log that was set back goes on under a new incarnation (design §4): whatever is older than its first commit, by
    any honest clock, may have been sent before. None: the log was never set back.
    """
    if journal.identity.incarnation == 1:
        return None
    began = [
        began_ms
        for stream, held in state.streams.items()
        if stream.origin == journal.identity.origin
        and (began_ms := held.index.time_ms_of(1)) is not None
    ]
    return min(began, default=_wall_ms()) + MAX_AHEAD_MS


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
