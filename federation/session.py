"""One sync session between two controllers, as a machine. Owns the order of frames, credits, acknowledgements and
the end; never touches sockets, logs or tasks: a driver carries out its effects and reports back.

Theory of operation. Both sides greet, compare digests a domain, exchange positions where they differ, and then send
what the other lacks. What was received is proposed to the log; once durable it is acknowledged and its credit
returned. Resume is by position, so that any replica, any parent and any connection continue where another left off.

    inputs                               effects
    opened, received(frame), read,   ->  Send, Read, Ingest, Acknowledged, Passed, Close
    ingested, advanced, tick, values_compared, value_settled
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from federation.acknowledgement import Acknowledgements
from federation.backlog import SyncDebt
from federation.clock import wall_ms_of
from federation.codec import stream_from_message
from federation.comparison import Comparison
from federation.credit import Credit
from federation.errors import InvalidWrite, PeerError
from federation.greeting import hello_of, refusal_of
from federation.identifiers import StreamId
from federation.inbox import MAX_STREAMS, Inbox
from federation.link_scope import LinkScope
from federation.outbox import LogReading, Outbox
from federation.session_effects import (
    Acknowledged,
    Close,
    Effect,
    Ingest,
    Live,
    Passed,
    Read,
    Send,
)
from federation.session_phases import ALLOWED, TRANSITIONS, Phase, Step
from federation.session_settings import PeerRole, Settings
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2

#: A peer silent for this many of its heartbeats is gone.
SILENT_HEARTBEATS = 3

#: Samples of the difference of clocks kept: under a minute of heartbeats, so that a clock that was set shows.
SKEW_SAMPLES = 8

#: Time after a control fact in which further ones are reckoned with: a person at work, or a rollout, states several.
CONTROL_LIVE_MS = 1_000

#: Bytes of events read and put by while control overtakes them: a hundred thousand events towards the one parent, and
#: little towards children, of which there may be hundreds.
MAX_PUT_BY_BYTES = {PeerRole.PARENT: 32 * 1024 * 1024, PeerRole.CHILD: 1024 * 1024}


class Session:
    """The machine. Every input returns the effects to be carried out in order.

    `now_ms` is monotonic time, `clock` the hybrid clock.
    """

    def __init__(self, state: State, settings: Settings) -> None:
        self.phase = Phase.GREETING
        self.peer = ""
        self.peer_domain = ""
        self.peer_level = False
        #: Peer's clock minus ours, milliseconds; None until measured.
        self.skew_ms: int | None = None
        self._skews_ms: deque[int] = deque(maxlen=SKEW_SAMPLES)
        self.last_level_ms: int | None = None
        self._state = state
        self._settings = settings
        self._scope = LinkScope(
            state.authority,
            settings.domain,
            settings.peer_role,
            frozenset(settings.subscriptions),
        )
        self._comparison = Comparison(state, self._scope.is_shared)
        self._outbox = Outbox(
            state,
            self._scope.is_sent,
            settings.batch_events,
            MAX_PUT_BY_BYTES[settings.peer_role],
        )
        self._reading: LogReading | None = None
        self._credit = Credit()
        #: Until then the backlog leaves room for control that is being stated.
        self._control_live_until_ms = 0
        #: Events of the backlog the peer announced that are still to come; 0: it holds no place among the replays.
        self._replay_events = 0
        self._inbox = Inbox(self._scope.may_bring)
        self._acknowledgements = Acknowledgements(
            state,
            settings.domain,
            self._scope,
            self._outbox,
            self._inbox,
            keeps_values=settings.keeps_values,
        )
        self._last_sent_ms = 0
        self._last_received_ms = 0
        self._pong_ms = 0
        self._told_level = False
        self._greeted = False

    @property
    def peer_role(self) -> PeerRole:
        """What the peer is to this controller."""
        return self._settings.peer_role

    # Inputs.

    def opened(self, now_ms: int, clock: int) -> list[Effect]:
        """The connection stands. The dialling side greets first."""
        self._last_sent_ms = self._last_received_ms = now_ms
        if self._settings.peer_role is PeerRole.PARENT:
            return self._out([self._hello(clock)], now_ms)
        return []

    def received(self, frame: sync_pb2.Frame, now_ms: int, clock: int) -> list[Effect]:
        """A frame came. A frame out of place ends the session."""
        if self.phase is Phase.CLOSED:
            return []
        self._last_received_ms = now_ms
        kind = frame.WhichOneof("kind") or "none"
        if kind == "goodbye":
            self._take(Step.DISMISSED)
            said = frame.goodbye
            return [Close(said.reason, f"the peer said: {said.message}", said.retry_after_ms)]
        if kind not in ALLOWED[self.phase]:
            return self._protocol_error(f"frame {kind} is out of place while {self.phase.value}")
        try:
            effects = self._handle(kind, frame, now_ms, clock)
        except (PeerError, InvalidWrite) as error:
            return self._protocol_error(str(error))
        return self._out(effects, now_ms)

    def read(self, commits: Sequence[event_pb2.Commit], now_ms: int) -> list[Effect]:
        """Commits asked for by `Read`."""
        reading, self._reading = self._reading, None
        if reading is None or self.phase is not Phase.SYNCING:
            return []
        if self._outbox.take(reading, commits):
            self._control_live_until_ms = now_ms + CONTROL_LIVE_MS
        return self._out(self._pump(now_ms), now_ms)

    def advanced(self, now_ms: int, *, tree_changed: bool = False) -> list[Effect]:
        """The log has grown."""
        if self.phase is not Phase.SYNCING:
            return []
        if tree_changed:
            self._outbox.reposition()
        return self._out(self._pump(now_ms), now_ms)

    def ingested(self, streams: Iterable[StreamId], size: int, now_ms: int) -> list[Effect]:
        """Runs of an `Ingest` are durable here (or were before)."""
        if self.phase is Phase.CLOSED:
            return []
        self._credit.gave_back(size)
        credit = sync_pb2.Frame(credit=sync_pb2.Credit(bytes=size))
        return self._out(_sends([*self._acknowledgements.frames(streams), credit]), now_ms)

    def hold(self, stream: StreamId, sequence: int, digests: Iterable[str]) -> None:
        """The driver lacks chunks that a telemetry event names: it is not acknowledged until they are settled."""
        self._acknowledgements.withheld.hold(stream, sequence, digests)

    def value_settled(self, digest: str, now_ms: int) -> list[Effect]:
        """A chunk is stored here, or the peer has lost it."""
        streams = self._acknowledgements.withheld.settle(digest)
        if not streams or self.phase is not Phase.SYNCING:
            return []
        return self._out(_sends(self._acknowledgements.frames(sorted(streams))), now_ms)

    def values_compared(self, now_ms: int) -> list[Effect]:
        """The driver has said of all telemetry received before this session which chunks it lacks."""
        self._acknowledgements.withheld.known = True
        if self.phase is not Phase.SYNCING:
            return []
        return self._out(_sends(self._acknowledgements.telemetry_frames()), now_ms)

    def durable_above(
        self, domain: str, positions: Mapping[StreamId, int], now_ms: int
    ) -> list[Effect]:
        """A higher level acknowledged streams; the child is told of those of its subtree."""
        if self.phase is not Phase.SYNCING or self._settings.peer_role is not PeerRole.CHILD:
            return []
        frames = self._acknowledgements.frames_of_level(domain, positions, self.peer_domain)
        return self._out(_sends(frames), now_ms)

    def tick(self, now_ms: int, clock: int) -> list[Effect]:
        """Time has passed."""
        if self.phase is Phase.CLOSED:
            return []
        silence = now_ms - self._last_received_ms
        if silence >= SILENT_HEARTBEATS * self._settings.peer_heartbeat_ms:
            self._take(Step.SILENT)
            return [
                Close(sync_pb2.GOODBYE_REASON_UNSPECIFIED, f"the peer was silent for {silence} ms")
            ]
        effects = self._pump(now_ms) if self.phase is Phase.SYNCING else []
        if (
            now_ms - self._last_sent_ms >= self._settings.heartbeat_ms
            and self.phase is not Phase.GREETING
        ):
            effects.append(Send(self._heartbeat(clock, now_ms)))
        return self._out(effects, now_ms)

    def level_told(self, now_ms: int, clock: int) -> list[Effect]:
        """Tells the peer at once when this side has nothing more to send."""
        if self.phase is not Phase.SYNCING or self._told_level or not self.is_level:
            return []
        heartbeat = Send(self._heartbeat(clock, now_ms))
        return self._out([heartbeat, *self._end_if_level(now_ms)], now_ms)

    def close(self, reason: int, message: str) -> list[Effect]:
        """The driver wants to end."""
        if self.phase is Phase.CLOSED:
            return []
        return self._end(Step.ENDED, reason, message)

    # What others may know.

    @property
    def is_level(self) -> bool:
        """Tells whether the peer acknowledged all that this side holds for it."""
        return (
            self.phase is Phase.SYNCING
            and self._outbox.exhausted
            and self._acknowledgements.cover_all_sent
        )

    @property
    def acked(self) -> Mapping[StreamId, int]:
        """How far the peer acknowledged streams."""
        return self._acknowledgements.acked

    def debt(self, now_ms: int) -> SyncDebt:
        """How far the peer is behind."""
        return self._acknowledgements.debt(now_ms)

    # Frames.

    def _handle(self, kind: str, frame: sync_pb2.Frame, now_ms: int, clock: int) -> list[Effect]:
        if kind == "hello":
            return self._on_hello(frame.hello, clock)
        if kind == "have_digests":
            return self._on_digests(frame.have_digests)
        if kind == "have_positions":
            return self._on_positions(frame.have_positions, now_ms)
        if kind == "runs":
            return self._on_runs(frame.runs)
        if kind == "ack":
            return self._on_ack(frame.ack, now_ms)
        if kind == "credit":
            self._credit.came_back(frame.credit.bytes)
            return self._pump(now_ms)
        if kind == "heartbeat":
            self._pong_ms = frame.heartbeat.ping_ms
            self._note_clock(frame.heartbeat.clock, clock)
            self.peer_level = frame.heartbeat.level
            if self.peer_level:
                self._replay_ended()
            return self._end_if_level(now_ms)
        return [Passed(frame)]

    def _hello(self, clock: int) -> Send:
        self._greeted = True
        return Send(sync_pb2.Frame(hello=hello_of(self._state, self._settings, clock)))

    def _on_hello(self, hello: sync_pb2.Hello, clock: int) -> list[Effect]:
        refusal = refusal_of(hello, self._settings)
        if refusal is not None:
            return self._end(Step.REFUSED, refusal.reason, refusal.message, refusal.retry_after_ms)
        self.peer = hello.controller
        self.peer_domain = hello.domain
        self._scope.peer_domain = hello.domain
        self._scope.subscriptions |= frozenset(hello.subscriptions)
        self._credit.opened(hello.credit_bytes)
        self._replay_events = hello.backlog_events
        self._note_clock(hello.clock, clock)
        self._take(Step.ADMITTED)
        effects: list[Effect] = [] if self._greeted else [self._hello(clock)]
        effects.extend(
            Send(sync_pb2.Frame(have_digests=page)) for page in self._comparison.digests()
        )
        return effects

    def _on_digests(self, have: sync_pb2.HaveDigests) -> list[Effect]:
        if not self._comparison.take_digests(have):
            return []
        for stream, position in self._comparison.equal_positions().items():
            self._acknowledgements.position(stream, position)
        self._take(Step.COMPARED)
        return [Send(sync_pb2.Frame(have_positions=page)) for page in self._comparison.positions()]

    def _on_positions(self, have: sync_pb2.HavePositions, now_ms: int) -> list[Effect]:
        if len(self._outbox.sent) + len(have.positions) > MAX_STREAMS:
            raise PeerError(f"more than {MAX_STREAMS} streams were named")
        for position in have.positions:
            stream = stream_from_message(position.stream)
            self._acknowledgements.position(stream, position.sequence)
        if not have.last:
            return []
        self._take(Step.POSITIONED)
        self._outbox.reposition()
        held = Acknowledged(self.peer_domain, self._acknowledgements.of_sent())
        telemetry = _sends(self._acknowledgements.telemetry_frames())
        return [Live(), held, *telemetry, *self._pump(now_ms)]

    def _on_runs(self, runs: sync_pb2.Runs) -> list[Effect]:
        self._credit.check_granted()
        self.peer_level = False
        taken = self._inbox.take(runs)
        if not taken:
            raise PeerError("a frame of runs holds none")
        for stream, run in taken:
            self._acknowledgements.brought(stream, run.seal.sequence)
        size = sum(len(event) for _, run in taken for event in run.events)
        self._credit.received(size)
        self._replay_events -= sum(len(run.events) for _, run in taken)
        if self._replay_events <= 0:
            self._replay_ended()
        return [Ingest([run for _, run in taken], size)]

    def _on_ack(self, ack: sync_pb2.Ack, now_ms: int) -> list[Effect]:
        positions = self._acknowledgements.take(ack, self.peer_domain, now_ms)
        return [Acknowledged(ack.durable_at, positions)]

    # Deciding.

    def _pump(self, now_ms: int) -> list[Effect]:
        """Sends what credit allows, and asks for more of the log when nothing urgent waits."""
        effects: list[Effect] = []
        credit = self._credit
        while credit.may_send:
            taken = self._outbox.next_frame(
                credit.under_way_bytes, control_is_live=now_ms < self._control_live_until_ms
            )
            if taken is None:
                break
            frame, size = taken
            credit.sent(size)
            self._told_level = False
            effects.append(Send(frame))
        if self._reading is None and credit.may_send:
            self._reading = self._outbox.next_reading()
            if self._reading is not None:
                effects.append(Read(self._reading))
        return effects

    def _replay_ended(self) -> None:
        self._settings.admission.replayed(self.peer)

    def _end_if_level(self, now_ms: int) -> list[Effect]:
        if not (self.is_level and self.peer_level):
            return []
        self.last_level_ms = now_ms
        if self._settings.keep_open:
            return []
        return self._end(Step.LEVEL, sync_pb2.GOODBYE_REASON_LEVEL, "both sides are level")

    def _note_clock(self, theirs: int, ours: int) -> None:
        """A sample is the difference of clocks less the time the frame took, so the largest is nearest the truth."""
        self._skews_ms.append(wall_ms_of(theirs) - wall_ms_of(ours))
        self.skew_ms = max(self._skews_ms)

    def _heartbeat(self, clock: int, now_ms: int) -> sync_pb2.Frame:
        self._told_level = self.is_level
        return sync_pb2.Frame(
            heartbeat=sync_pb2.Heartbeat(
                clock=clock, ping_ms=now_ms, pong_ms=self._pong_ms, level=self._told_level
            )
        )

    def _protocol_error(self, message: str) -> list[Effect]:
        return self._end(Step.BROKEN, sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR, message)

    def _end(self, step: Step, reason: int, message: str, retry_after_ms: int = 0) -> list[Effect]:
        self._take(step)
        goodbye = sync_pb2.Goodbye(
            reason=reason,  # type: ignore[arg-type]
            message=message,
            retry_after_ms=retry_after_ms,
        )
        return [Send(sync_pb2.Frame(goodbye=goodbye)), Close(reason, message, retry_after_ms)]

    def _take(self, step: Step) -> None:
        self.phase = TRANSITIONS[self.phase, step].to

    def _out(self, effects: list[Effect], now_ms: int) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Send):
                self._last_sent_ms = now_ms
                break
        return effects


def _sends(frames: Iterable[sync_pb2.Frame]) -> list[Effect]:
    return [Send(frame) for frame in frames]
