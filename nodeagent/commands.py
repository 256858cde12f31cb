"""Takes commands, runs them one at a time, and sees that each has exactly one result.

Owns the decisions around the ledger: what is taken, what is refused, what happens to commands that a restart
interrupted. Knows nothing of streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nodeagent.actions import Output, Tools, handler_of
from nodeagent.canonical_json import struct_of
from nodeagent.errors import CommandRefused, StateUnavailable
from nodeagent.ledger import INTERRUPTED, MAX_OPEN, Entry, EntryState, Ledger, outcome
from nodeagent.logs import EventLog
from nodeagent.waiting import first_set
from souverix.command.v1 import command_pb2
from souverix.nodelink.v1 import nodelink_pb2
from telemetry.context import parse
from telemetry.spans import Kind, Tracer

MAX_COMMAND_ID_BYTES = 200
"""Longest command id taken: ids are digests, and the ledger is bounded in bytes too."""

LAST_VALID_SECOND = 253_402_300_799
"""The end of the year 9999, where a valid Timestamp ends."""

MAX_TRACEPARENT = 256
"""Characters kept of a place in a trace: the form known today has 55."""

STORAGE_RETRY_S = 2.0
"""Pause before the ledger is tried again when the disk refuses."""


class Commands:
    """One node's commands. `finished` is called with the id of each command that has a result to be sent."""

    def __init__(
        self,
        ledger: Ledger,
        tools: Tools,
        finished: Callable[[str], None],
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer or Tracer()
        #: Places in traces, by command, of those that wait; after a restart only a repeat brings them again.
        self._traces: dict[str, str] = {}
        self._ledger = ledger
        self._tools = tools
        self._clock = tools.clock
        self._finished = finished
        self._log = EventLog(tools.node)
        self._wake = asyncio.Event()

    def recover(self) -> None:
        """Decide on the commands that the last stop interrupted. Call once, before `run`.

        Nothing tells whether such a command took effect. So one that may run at most once has failed, and another
        runs again only if its action does no harm twice. Raises StateUnavailable.
        """
        for entry in self._ledger.begun():
            if not entry.at_most_once and _is_idempotent(entry.action):
                self._ledger.put_back(entry.command_id)
                self._log.info("command_again", command=entry.command_id)
                continue
            failed = command_pb2.DELIVERY_STATE_FAILED
            result = outcome(entry.command_id, failed, self._clock.wall_us(), INTERRUPTED)
            self._ledger.finish(entry.command_id, EntryState.BEGUN, result)
            self._log.warning("command_interrupted", command=entry.command_id)

    def receive(self, frame: nodelink_pb2.CommandFrame) -> None:
        """A command came: record it, or answer a repeat from the ledger. Raises StateUnavailable."""
        command_id = frame.command_id
        if not command_id or len(command_id.encode()) > MAX_COMMAND_ID_BYTES:
            self._log.warning("command_without_usable_id", length=len(command_id))
            return
        if self._ledger.knows(command_id):
            self._log.info("command_repeated", command=command_id, attempt=frame.attempt)
            if self._ledger.result(command_id) is not None:
                self._finished(command_id)
            return
        now_us = self._clock.wall_us()
        if frame.traceparent and len(self._traces) < MAX_OPEN:
            self._traces[command_id] = frame.traceparent[:MAX_TRACEPARENT]
        self._ledger.purge(now_us)
        if not self._ledger.has_room(now_us):
            self._log.error("ledger_full", command=command_id)
            return
        if not 0 < frame.expire_time.seconds <= LAST_VALID_SECOND:
            self._turn_down(frame, now_us, "a command needs an expire_time")
        elif self._ledger.open_commands() >= MAX_OPEN:
            self._turn_down(frame, now_us, f"{MAX_OPEN} commands wait already; issue it later")
        else:
            self._ledger.record(frame, now_us, frame.expire_time.ToMicroseconds())
            self._log.info("command_taken", command=command_id, attempt=frame.attempt)
            self._wake.set()

    def cancel(self, command_id: str) -> None:
        """A wish to stop a command: granted while it waits, else its result says what happened.

        Raises StateUnavailable.
        """
        cancelled = command_pb2.DELIVERY_STATE_CANCELLED
        result = outcome(command_id, cancelled, self._clock.wall_us())
        granted = self._ledger.finish(command_id, EntryState.PENDING, result)
        self._log.info("cancel_asked", command=command_id, granted=granted)
        if granted:
            self._finished(command_id)

    async def run(self, stop: asyncio.Event) -> None:
        """Run commands in the order they came until `stop` is set; the one that runs then is finished."""
        while not stop.is_set():
            self._wake.clear()
            pause_s: float | None = None
            try:
                entry = self._ledger.next_pending()
                if entry is not None:
                    await self._carry_out(entry, stop)
                    continue
            except StateUnavailable as error:
                self._log.error("ledger_unavailable", cause=error)
                pause_s = STORAGE_RETRY_S
            await first_set(stop, self._wake, timeout_s=pause_s)

    async def _carry_out(self, entry: Entry, stop: asyncio.Event) -> None:
        now_us = self._clock.wall_us()
        if now_us >= entry.expire_us:
            expired = outcome(entry.command_id, command_pb2.DELIVERY_STATE_EXPIRED, now_us)
            self._finish(entry.command_id, EntryState.PENDING, expired)
            return
        try:
            handler = handler_of(entry.action)
            handler.check(entry.action)
        except CommandRefused as refusal:
            rejected = command_pb2.DELIVERY_STATE_REJECTED
            result = outcome(entry.command_id, rejected, now_us, str(refusal))
            self._finish(entry.command_id, EntryState.PENDING, result)
            return
        if not self._ledger.begin(entry.command_id):
            return
        named = {"souverix.command.id": entry.command_id, "souverix.node": self._tools.node}
        parent = parse(self._traces.get(entry.command_id, ""))
        with self._tracer.span(
            "command.run", kind=Kind.CONSUMER, parent=parent, attributes=named
        ) as span:
            try:
                output = await handler.run(self._tools, entry.action, entry.receive_us)
            except StateUnavailable as failure:
                span.failed(type(failure).__name__)
                failed = command_pb2.DELIVERY_STATE_FAILED
                result = outcome(entry.command_id, failed, self._clock.wall_us(), str(failure))
            else:
                result = _success(entry.command_id, self._clock.wall_us(), output)
            result.traceparent = str(span.context or "")
            await self._finish_when_possible(entry.command_id, result, stop)

    async def _finish_when_possible(
        self, command_id: str, result: nodelink_pb2.CommandResult, stop: asyncio.Event
    ) -> None:
        """Record the result of a command that ran, trying again while the disk refuses: nothing may run before.

        When the agent stops meanwhile, the command counts as interrupted.
        """
        while True:
            try:
                self._finish(command_id, EntryState.BEGUN, result)
            except StateUnavailable as error:
                self._log.error("result_not_kept", command=command_id, cause=error)
            else:
                return
            if stop.is_set():
                return
            await asyncio.sleep(STORAGE_RETRY_S)

    def _finish(
        self, command_id: str, before: EntryState, result: nodelink_pb2.CommandResult
    ) -> None:
        traceparent = self._traces.pop(command_id, "")
        result.traceparent = result.traceparent or traceparent
        if self._ledger.finish(command_id, before, result):
            state = command_pb2.DeliveryState.Name(result.state)
            self._log.info(
                "command_finished",
                command=command_id,
                state=state.removeprefix("DELIVERY_STATE_"),
                error=result.error_message,
            )
            self._finished(command_id)

    def _turn_down(self, frame: nodelink_pb2.CommandFrame, now_us: int, reason: str) -> None:
        self._ledger.record(frame, now_us, now_us)
        rejected = command_pb2.DELIVERY_STATE_REJECTED
        result = outcome(frame.command_id, rejected, now_us, reason)
        self._finish(frame.command_id, EntryState.PENDING, result)


def _is_idempotent(action: command_pb2.Action) -> bool:
    try:
        return handler_of(action).idempotent
    except CommandRefused:
        return False


def _success(command_id: str, now_us: int, output: Output) -> nodelink_pb2.CommandResult:
    result = outcome(command_id, command_pb2.DELIVERY_STATE_SUCCEEDED, now_us)
    result.output.CopyFrom(struct_of(output))
    return result
