"""Carries out one session's effects: frames to the stream, runs to the journal, readings from the log. Owns the
session's tasks; what to send and when is the session's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from controller.journal import Journal, JournalError
from controller.log.errors import LogError
from controller.replica import Replica
from controller.sync.examining import Examiner
from controller.sync.outgoing import Outgoing, TooSlow
from controller.tasks import end
from controller.telemetry.sessions import SessionTrace
from federation.clock import stamp_of
from federation.codec import stream_from_message
from federation.errors import InvalidWrite
from federation.identifiers import StreamId
from federation.proposal import Proposal
from federation.receipt import Receipt
from federation.session import Session
from federation.session_effects import Acknowledged, Close, Effect, Ingest, Live, Passed, Read, Send
from federation.state import Applied
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2

_log = logging.getLogger(__name__)

#: Bytes of the log read at once for a peer: four frames' worth, so that reading and sending overlap.
READ_BYTES = 1024 * 1024

#: How often a session is told that time has passed; heartbeats and silence are counted in seconds.
TICK_S = 1.0

#: Time the goodbye is given to arrive, and the peer to end its side. Longer would hold up whoever waits for the end.
FAREWELL_S = 1.0


class Observer(Protocol):
    """Hears what concerns more than one session."""

    def live(self, driver: SessionDriver) -> None:
        """The session exchanges events from now on."""

    def acknowledged(
        self, driver: SessionDriver, domain: str, positions: Mapping[StreamId, int]
    ) -> None:
        """Events are durable at a domain."""

    def passed(self, driver: SessionDriver, frame: sync_pb2.Frame) -> None:
        """A frame that is no part of syncing came: a forward, its reply, a chunk."""

    def arriving(self, driver: SessionDriver, runs: Sequence[event_pb2.Run]) -> None:
        """Runs from this peer are about to be proposed to the log."""


class SessionDriver:
    """One session over one stream. `run` returns how it ended."""

    def __init__(
        self,
        replica: Replica,
        journal: Journal,
        session: Session,
        observer: Observer,
        address: str,
        certificate: str = "",
    ) -> None:
        self.session = session
        self.address = address
        #: Fingerprint of the certificate that a child showed; empty without TLS.
        self.certificate = certificate
        self.last_seen_ms = 0
        #: As `last_seen_ms`, by the monotonic clock; None: nothing came yet.
        self.heard_s: float | None = None
        self.closed: Close | None = None
        #: Frames for the stream.
        self.outgoing = Outgoing()
        self._replica = replica
        self._journal = journal
        self._observer = observer
        self._examiner = Examiner(replica.state)
        #: Streams of which a run was quarantined: what follows in them cannot be taken in this session.
        self._quarantined: set[StreamId] = set()
        #: Of them, those that may be taken once what is held of them takes effect.
        self._no_room: set[StreamId] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._wake_scheduled = False
        self._tree_changed = False
        self._trace = SessionTrace(replica.telemetry.tracer)

    async def run(self, incoming: AsyncIterator[sync_pb2.Frame]) -> Close:
        """Runs the session until either side ends it."""
        with self._replica.changes.listen(self._on_applied):
            self._carry_out(self.session.opened(_now_ms(), self._clock()))
            receiving = self._spawn(self._receive(incoming))
            self._spawn(self._tick())
            try:
                await self._ended.wait()
                # A call whose reading is cancelled is cancelled as a whole, and what was written last with it.
                await asyncio.wait({receiving}, timeout=FAREWELL_S)
            finally:
                self._trace.over()
                await end(*self._tasks)
        return self.closed or Close(sync_pb2.GOODBYE_REASON_UNSPECIFIED, "the connection was lost")

    @property
    def last_level_wall_ms(self) -> int | None:
        """When both sides last were level, milliseconds since the epoch; None: not yet."""
        level_ms = self.session.last_level_ms
        return None if level_ms is None else _wall_ms() - (_now_ms() - level_ms)

    def send(self, frame: sync_pb2.Frame) -> None:
        """Sends a frame that is no part of syncing."""
        self._put(frame, frame.ByteSize())

    def durable_above(self, domain: str, positions: Mapping[StreamId, int]) -> None:
        """Passes on what a higher level acknowledged."""
        self._carry_out(self.session.durable_above(domain, positions, _now_ms()))

    def value_settled(self, digest: str) -> None:
        """A chunk is here, or is not to be had: what names it may be acknowledged."""
        self._carry_out(self.session.value_settled(digest, _now_ms()))

    def values_compared(self) -> None:
        """All telemetry received earlier was compared with the chunks that are here."""
        self._carry_out(self.session.values_compared(_now_ms()))

    def close(self, reason: int, message: str) -> None:
        """Ends the session from this side."""
        self._carry_out(self.session.close(reason, message))
        self._end()

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._put(effect.frame)
            elif isinstance(effect, Read):
                self._spawn(self._read(effect))
            elif isinstance(effect, Ingest):
                self._spawn(self._ingest(effect))
            elif isinstance(effect, Acknowledged):
                self._observer.acknowledged(self, effect.domain, effect.positions)
                self._tell_level()
            elif isinstance(effect, Passed):
                self._observer.passed(self, effect.frame)
            elif isinstance(effect, Live):
                self._observer.live(self)
                self._schedule_wake()
            else:
                self.closed = effect
                self._end()
        self._trace.note(self.session)

    def _put(self, frame: sync_pb2.Frame, size_bytes: int = 0) -> None:
        try:
            self.outgoing.put(frame, size_bytes)
        except TooSlow as error:
            # No goodbye: it would wait behind all the rest.
            self.session.close(sync_pb2.GOODBYE_REASON_UNSPECIFIED, str(error))
            self.closed = Close(sync_pb2.GOODBYE_REASON_UNSPECIFIED, str(error))
            self._end()

    async def _receive(self, incoming: AsyncIterator[sync_pb2.Frame]) -> None:
        """Takes frames until the peer ends its side."""
        message = "the connection was lost"
        try:
            async for frame in incoming:
                self.last_seen_ms = _wall_ms()
                self.heard_s = time.monotonic()
                self._carry_out(self.session.received(frame, _now_ms(), self._clock()))
        except OSError as error:
            message = str(error)
        except DecodeError as error:
            self.close(sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR, f"what came is no frame: {error}")
        self.close(sync_pb2.GOODBYE_REASON_UNSPECIFIED, message)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._carry_out(self.session.tick(_now_ms(), self._clock()))
            self._tell_level()

    async def _read(self, effect: Read) -> None:
        try:
            commits = await self._replica.read_commits(
                effect.reading.first_offset, READ_BYTES, control_only=effect.reading.control_only
            )
        except LogError as error:
            self._fail(f"the log cannot be read: {error}")
            return
        if not commits:
            self._fail(f"the log does not give commit {effect.reading.first_offset}")
            return
        self._carry_out(self.session.read(commits, _now_ms()))
        self._tell_level()

    async def _ingest(self, effect: Ingest) -> None:
        """Proposes runs and acknowledges them once durable. A gap ends the session: positions are compared anew."""
        peer = self.session.peer
        self._observer.arriving(self, effect.runs)
        examined = [self._examiner.examine(run) for run in effect.runs]

        def receive(proposal: Proposal) -> list[Receipt]:
            return [proposal.receive(peer, findings.run, findings) for findings in examined]

        try:
            with self._trace.ingest(effect.runs, effect.size) as span:
                committed = await self._journal.submit(receive, span.context)
        except (JournalError, LogError, InvalidWrite) as error:
            self._fail(f"runs were not taken: {error}")
            return
        streams = [stream_from_message(run.stream) for run in effect.runs]
        for stream, receipt in zip(streams, committed.value, strict=True):
            if receipt in (Receipt.QUARANTINED, Receipt.NO_ROOM):
                self._quarantined.add(stream)
                if receipt is Receipt.NO_ROOM:
                    self._no_room.add(stream)
            elif receipt is Receipt.GAP and stream not in self._quarantined:
                self._fail("events are missing before a run; positions are compared anew")
                return
        self._carry_out(self.session.ingested(streams, effect.size, _now_ms()))

    def _on_applied(self, applied: Applied) -> None:
        self._tree_changed = self._tree_changed or applied.authority_changed
        self._schedule_wake()

    def _schedule_wake(self) -> None:
        """Tells the session once for however many commits came in this turn of the loop."""
        if not self._wake_scheduled:
            self._wake_scheduled = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._wake_scheduled = False
        tree_changed, self._tree_changed = self._tree_changed, False
        if self._no_room and not self._no_room <= self._replica.state.blocked:
            self._fail("there is room again for what was held; positions are compared anew")
            return
        self._carry_out(self.session.advanced(_now_ms(), tree_changed=tree_changed))
        self._tell_level()

    def _tell_level(self) -> None:
        self._carry_out(self.session.level_told(_now_ms(), self._clock()))

    def _fail(self, message: str) -> None:
        _log.info("sync session ends", extra={"peer": self.session.peer, "reason": message})
        self.close(sync_pb2.GOODBYE_REASON_UNSPECIFIED, message)

    def _end(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self.outgoing.close()

    def _clock(self) -> int:
        return max(self._journal.clock.last, stamp_of(_wall_ms()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            error = task.exception()
            if error is not None:
                _log.error("sync session failed", exc_info=error)
                self._fail(f"the session failed: {type(error).__name__}")


def _now_ms() -> int:
    """What a session's silences and rates are measured by: a wall clock that jumps must not end a session."""
    return time.monotonic_ns() // 1_000_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
