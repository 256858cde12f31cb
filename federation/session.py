"""One sync session between two controllers, as a machine. Owns the order of frames, credits, acknowledgements and
the end; never touches sockets, logs or tasks: a driver carries out its effects and reports back.

Theory of operation. Both sides greet, compare digests a domain, exchange positions where they differ, and then send
what the other lacks. What was received is proposed to the log; once durable it is acknowledged and its credit
returned. Resume is by position, so that any replica, any parent and any connection continue where another left off.

    inputs                               effects
    opened, received(frame), read,   ->  Send, Read, Ingest, Acknowledged, Passed, Close
    ingested, advanced, tick
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from federation.backlog import RateMeter, SyncDebt, sync_debt
from federation.clock import wall_ms_of
from federation.codec import BACKLOG_KINDS, stream_from_message, stream_to_message
from federation.errors import InvalidWrite, PeerError
from federation.identifiers import Lane, StreamId
from federation.outbox import LogReading, Outbox
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2

#: Versions of the protocol spoken here, best first.
VERSIONS = (1,)

#: Bytes of runs a peer may send before they are durable here: eight frames keep both disks busy, and bound memory.
CREDIT_BYTES = 2 * 1024 * 1024

#: Positions in one frame: 1,000 of about 100 bytes stay far below gRPC's message limit.
POSITIONS_A_FRAME = 1000

#: Silence after which a heartbeat is sent, unless the sync strategy says otherwise.
HEARTBEAT_MS = 5_000

#: A peer silent for this many heartbeats is gone.
SILENT_HEARTBEATS = 3

#: Streams one session may name: more than any domain tree on record, less than a hostile peer needs to fill memory.
MAX_INTERNED_STREAMS = 100_000


class PeerRole(enum.Enum):
    """What the peer is to this controller."""

    PARENT = "parent"
    CHILD = "child"


class Phase(enum.Enum):
    """How far a session is."""

    GREETING = "greeting"
    COMPARING = "comparing"
    POSITIONING = "positioning"
    SYNCING = "syncing"
    CLOSED = "closed"


#: phase -> frame kind -> why it is allowed there. What is missing ends the session as a protocol error.
ALLOWED: Mapping[Phase, Mapping[str, str]] = {
    Phase.GREETING: {"hello": "each side greets first"},
    Phase.COMPARING: {
        "have_digests": "digests follow the greeting",
        "heartbeat": "comparing may take long",
    },
    Phase.POSITIONING: {
        "have_positions": "positions follow where digests differ",
        "heartbeat": "positions may take many frames",
        "runs": "the peer may have had our positions before we have all of its",
        "ack": "as runs",
        "credit": "as runs",
    },
    Phase.SYNCING: {
        "runs": "events",
        "ack": "events are durable",
        "credit": "there is room for more",
        "forward": "a client's write for another controller",
        "forward_reply": "its outcome",
        "want_chunks": "large values named by events",
        "chunk": "their pieces",
        "heartbeat": "signs of life",
    },
    Phase.CLOSED: {},
}


# Effects.


@dataclass(frozen=True, slots=True)
class Send:
    """Send a frame."""

    frame: sync_pb2.Frame


@dataclass(frozen=True, slots=True)
class Read:
    """Read commits, and answer with `Session.read`."""

    reading: LogReading


@dataclass(frozen=True, slots=True)
class Ingest:
    """Propose runs to the log, and answer with `Session.ingested`."""

    runs: Sequence[event_pb2.Run]
    size: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Events are known to be durable at a domain."""

    domain: str
    positions: Mapping[StreamId, int]


@dataclass(frozen=True, slots=True)
class Passed:
    """A frame that concerns the driver: forwards, chunks."""

    frame: sync_pb2.Frame


@dataclass(frozen=True, slots=True)
class Live:
    """Both sides know what the other holds; events flow from here on."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the session."""

    reason: int
    message: str
    retry_after_ms: int = 0


Effect = Send | Read | Ingest | Acknowledged | Passed | Live | Close


class Admission(Protocol):
    """Bounds how many peers replay at once."""

    def try_admit(self, controller: str, backlog_events: int) -> int | None:
        """None: go on. A number: milliseconds after which to try again."""


class Unbounded:
    """Admits everyone; for the side that dials."""

    def try_admit(self, controller: str, backlog_events: int) -> int | None:
        """Always None."""
        return None


@dataclass(frozen=True, slots=True)
class Settings:
    """What a session is told at its start."""

    controller: str
    replica: str
    domain: str
    incarnation: int
    peer_role: PeerRole
    #: Peers that may be at the other end: controller -> domain it serves (empty domain: whatever it says).
    peers: Mapping[str, str]
    #: True in continuous mode. False: the session ends when both sides are level.
    keep_open: bool = True
    batch_events: int = 0
    heartbeat_ms: int = HEARTBEAT_MS
    subscriptions: tuple[str, ...] = ()
    admission: Admission = field(default_factory=Unbounded)


class Session:
    """The machine. Every input returns the effects to be carried out in order."""

    def __init__(self, state: State, settings: Settings) -> None:
        self.phase = Phase.GREETING
        self.peer = ""
        self.peer_domain = ""
        self.peer_level = False
        #: Peer's clock minus ours, milliseconds; None until measured.
        self.skew_ms: int | None = None
        self.rate = RateMeter()
        self.last_level_ms: int | None = None
        self.acked: dict[StreamId, int] = {}
        self._state = state
        self._settings = settings
        self._outbox = Outbox(state, self._is_wanted, settings.batch_events)
        self._reading: LogReading | None = None
        self._credit = 0
        self._incoming: list[StreamId] = []
        self._incoming_index: dict[StreamId, int] = {}
        self._digests: dict[str, bytes] = {}
        self._digest_positions: dict[StreamId, int] = {}
        self._peer_digests: dict[str, bytes] = {}
        self._peer_subscriptions: frozenset[str] = frozenset()
        self._last_sent_ms = 0
        self._last_received_ms = 0
        self._pong_ms = 0
        self._told_level = False
        self._greeted = False

    # Inputs.

    def opened(self, now_ms: int, clock: int) -> list[Effect]:
        """The connection stands. The dialling side greets first."""
        self._last_sent_ms = self._last_received_ms = now_ms
        if self._settings.peer_role is PeerRole.PARENT:
            return self._out([Send(self._hello(clock))], now_ms)
        return []

    def received(self, frame: sync_pb2.Frame, now_ms: int, clock: int) -> list[Effect]:
        """A frame came. A frame out of place ends the session."""
        if self.phase is Phase.CLOSED:
            return []
        self._last_received_ms = now_ms
        kind = frame.WhichOneof("kind") or "none"
        if kind == "goodbye":
            self.phase = Phase.CLOSED
            said = frame.goodbye
            return [Close(said.reason, f"the peer said: {said.message}", said.retry_after_ms)]
        if kind not in ALLOWED[self.phase]:
            return self._protocol_error(f"frame {kind} is out of place while {self.phase.value}")
        try:
            effects = self._handle(kind, frame, now_ms, clock)
        except (PeerError, InvalidWrite) as error:
            return self._protocol_error(str(error))
        return self._out(effects, now_ms)

    def read(self, commits: Iterable[event_pb2.Commit], now_ms: int) -> list[Effect]:
        """Commits asked for by `Read`."""
        reading, self._reading = self._reading, None
        if reading is None or self.phase is not Phase.SYNCING:
            return []
        self._outbox.take(reading, commits)
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
        acks = [
            sync_pb2.StreamAck(
                stream_index=self._incoming_index[stream], sequence=self._state.received(stream)
            )
            for stream in streams
            if stream in self._incoming_index
        ]
        ack = sync_pb2.Ack(durable_at=self._settings.domain, streams=acks)
        effects: list[Effect] = [
            Send(sync_pb2.Frame(ack=ack)),
            Send(sync_pb2.Frame(credit=sync_pb2.Credit(bytes=size))),
        ]
        return self._out(effects, now_ms)

    def durable_above(
        self, domain: str, positions: Mapping[StreamId, int], now_ms: int
    ) -> list[Effect]:
        """A higher level acknowledged streams; the child is told of those of its subtree."""
        if self.phase is not Phase.SYNCING or self._settings.peer_role is not PeerRole.CHILD:
            return []
        table = self._state.authority
        acks = [
            self._stream_ack(stream, sequence)
            for stream, sequence in positions.items()
            if table.is_within(stream.domain, self.peer_domain)
        ]
        if not acks:
            return []
        frame = sync_pb2.Frame(ack=sync_pb2.Ack(durable_at=domain, streams=acks))
        return self._out([Send(frame)], now_ms)

    def tick(self, now_ms: int, clock: int) -> list[Effect]:
        """Time has passed."""
        if self.phase is Phase.CLOSED:
            return []
        silence = now_ms - self._last_received_ms
        if silence >= SILENT_HEARTBEATS * self._settings.heartbeat_ms:
            self.phase = Phase.CLOSED
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
        self._told_level = True
        self.last_level_ms = now_ms
        return self._out([Send(self._heartbeat(clock, now_ms)), *self._end_if_level()], now_ms)

    def close(self, reason: int, message: str) -> list[Effect]:
        """The driver wants to end."""
        if self.phase is Phase.CLOSED:
            return []
        self.phase = Phase.CLOSED
        goodbye = sync_pb2.Goodbye(reason=reason, message=message)  # type: ignore[arg-type]
        return [Send(sync_pb2.Frame(goodbye=goodbye)), Close(reason, message)]

    # What others may know.

    @property
    def is_level(self) -> bool:
        """Tells whether the peer acknowledged all that this side holds for it."""
        return (
            self.phase is Phase.SYNCING
            and self._outbox.exhausted
            and all(self.acked.get(s, 0) >= n for s, n in self._outbox.sent.items())
        )

    def debt(self, now_ms: int) -> SyncDebt:
        """How far the peer is behind."""
        oldest: int | None = None
        by_kind = dict.fromkeys(BACKLOG_KINDS, 0)
        for stream, held in self._state.streams.items():
            acked = self.acked.get(stream, 0)
            if acked >= held.received or not self._is_wanted(stream):
                continue
            for kind, count in held.index.counts_after(acked).items():
                by_kind[kind] += count
            time_ms = held.index.time_ms_of(acked + 1)
            if time_ms is not None and (oldest is None or time_ms < oldest):
                oldest = time_ms
        return sync_debt(oldest, by_kind, self.rate.rate_events_per_s, now_ms)

    # Frames.

    def _handle(self, kind: str, frame: sync_pb2.Frame, now_ms: int, clock: int) -> list[Effect]:
        if kind == "hello":
            return self._on_hello(frame.hello, now_ms, clock)
        if kind == "have_digests":
            return self._on_digests(frame.have_digests)
        if kind == "have_positions":
            return self._on_positions(frame.have_positions, now_ms)
        if kind == "runs":
            return self._on_runs(frame.runs)
        if kind == "ack":
            return self._on_ack(frame.ack, now_ms)
        if kind == "credit":
            self._credit += frame.credit.bytes
            return self._pump(now_ms) if self.phase is Phase.SYNCING else []
        if kind == "heartbeat":
            self._pong_ms = frame.heartbeat.ping_ms
            self.skew_ms = wall_ms_of(frame.heartbeat.clock) - wall_ms_of(clock)
            self.peer_level = frame.heartbeat.level
            return self._end_if_level()
        return [Passed(frame)]

    def _hello(self, clock: int) -> sync_pb2.Frame:
        settings = self._settings
        self._greeted = True
        return sync_pb2.Frame(
            hello=sync_pb2.Hello(
                versions=VERSIONS,
                controller=settings.controller,
                replica=settings.replica,
                domain=settings.domain,
                incarnation=settings.incarnation,
                term=self._state.authority.term_of(settings.domain),
                clock=clock,
                credit_bytes=CREDIT_BYTES,
                subscriptions=settings.subscriptions,
            )
        )

    def _on_hello(self, hello: sync_pb2.Hello, now_ms: int, clock: int) -> list[Effect]:
        if not set(hello.versions) & set(VERSIONS):
            return self._refuse(
                sync_pb2.GOODBYE_REASON_VERSION, f"versions {VERSIONS} are spoken here"
            )
        expected = self._settings.peers.get(hello.controller)
        if expected is None or (expected and expected != hello.domain):
            return self._refuse(
                sync_pb2.GOODBYE_REASON_UNKNOWN_PEER,
                f"{hello.controller} of domain {hello.domain} is not configured as a peer of "
                f"{self._settings.controller}",
            )
        retry_after_ms = self._settings.admission.try_admit(hello.controller, hello.backlog_events)
        if retry_after_ms is not None:
            return self._refuse(
                sync_pb2.GOODBYE_REASON_BUSY, "too many peers replay at once", retry_after_ms
            )
        self.peer = hello.controller
        self.peer_domain = hello.domain
        self._peer_subscriptions = frozenset(hello.subscriptions)
        self._credit = hello.credit_bytes
        self.skew_ms = wall_ms_of(hello.clock) - wall_ms_of(clock)
        self.phase = Phase.COMPARING
        effects: list[Effect] = [] if self._greeted else [Send(self._hello(clock))]
        effects.extend(Send(frame) for frame in self._have_digests())
        return effects

    def _have_digests(self) -> list[sync_pb2.Frame]:
        by_domain: dict[str, list[StreamId]] = {}
        for stream in self._state.streams:
            if stream.lane is not Lane.AUDIT and self._is_shared(stream.domain):
                by_domain.setdefault(stream.domain, []).append(stream)
        digests = []
        for domain, streams in sorted(by_domain.items()):
            digest = hashlib.sha256()
            for stream in sorted(streams):
                held = self._state.streams[stream]
                self._digest_positions[stream] = held.received
                name = f"{stream.origin.controller}/{stream.origin.incarnation}/{int(stream.lane)}/{held.received}/"
                digest.update(name.encode() + held.chain_hash)
            self._digests[domain] = digest.digest()
            digests.append(sync_pb2.DomainDigest(domain=domain, digest=digest.digest()))
        pages = [
            digests[i : i + POSITIONS_A_FRAME] for i in range(0, len(digests), POSITIONS_A_FRAME)
        ] or [[]]
        return [
            sync_pb2.Frame(have_digests=sync_pb2.HaveDigests(digests=page, last=page is pages[-1]))
            for page in pages
        ]

    def _on_digests(self, have: sync_pb2.HaveDigests) -> list[Effect]:
        for entry in have.digests:
            self._peer_digests[entry.domain] = entry.digest
        if not have.last:
            return []
        equal = {d for d, digest in self._digests.items() if self._peer_digests.get(d) == digest}
        for stream, position in self._digest_positions.items():
            if stream.domain in equal:
                self._peer_holds(stream, position)
        self.phase = Phase.POSITIONING
        positions = [
            sync_pb2.StreamPosition(
                stream=stream_to_message(stream), sequence=held.received, chain_hash=held.chain_hash
            )
            for stream, held in self._state.streams.items()
            if self._is_shared(stream.domain)
            and (stream.lane is Lane.AUDIT or stream.domain not in equal)
        ]
        pages = [
            positions[i : i + POSITIONS_A_FRAME]
            for i in range(0, len(positions), POSITIONS_A_FRAME)
        ] or [[]]
        return [
            Send(
                sync_pb2.Frame(
                    have_positions=sync_pb2.HavePositions(positions=page, last=page is pages[-1])
                )
            )
            for page in pages
        ]

    def _on_positions(self, have: sync_pb2.HavePositions, now_ms: int) -> list[Effect]:
        for position in have.positions:
            self._peer_holds(stream_from_message(position.stream), position.sequence)
        if not have.last:
            return []
        self.phase = Phase.SYNCING
        self._outbox.reposition()
        held = {s: n for s, n in self.acked.items() if self._is_wanted(s)}
        return [Live(), Acknowledged(self.peer_domain, held), *self._pump(now_ms)]

    def _on_runs(self, runs: sync_pb2.Runs) -> list[Effect]:
        for intern in runs.interns:
            if intern.index != len(self._incoming) or intern.index >= MAX_INTERNED_STREAMS:
                raise PeerError(f"stream number {intern.index} is not the next")
            stream = stream_from_message(intern.stream)
            self._incoming_index[stream] = intern.index
            self._incoming.append(stream)
        taken = []
        size = 0
        for run in runs.runs:
            if run.stream_index >= len(self._incoming):
                raise PeerError(f"stream number {run.stream_index} was not named")
            stream = self._incoming[run.stream_index]
            if not self._may_bring(stream):
                raise PeerError(f"{self.peer} may not bring events of domain {stream.domain}")
            taken.append(
                event_pb2.Run(
                    stream=stream_to_message(stream),
                    first_sequence=run.first_sequence,
                    events=run.events,
                    seal=run.seal,
                )
            )
            size += sum(map(len, run.events))
            self._peer_holds(stream, run.seal.sequence)
        return [Ingest(taken, size)]

    def _on_ack(self, ack: sync_pb2.Ack, now_ms: int) -> list[Effect]:
        positions: dict[StreamId, int] = {}
        for entry in ack.streams:
            if entry.HasField("stream"):
                stream = stream_from_message(entry.stream)
            elif entry.stream_index < len(self._outbox.interned):
                stream = self._outbox.interned[entry.stream_index]
            else:
                raise PeerError(f"acknowledged stream number {entry.stream_index} was never used")
            positions[stream] = min(entry.sequence, self._state.received(stream))
        if ack.durable_at == self.peer_domain:
            gained = sum(max(0, n - self.acked.get(s, 0)) for s, n in positions.items())
            self.rate.add(gained, now_ms)
            for stream, sequence in positions.items():
                self.acked[stream] = max(self.acked.get(stream, 0), sequence)
        return [Acknowledged(ack.durable_at, positions)]

    # Deciding.

    def _is_shared(self, domain: str) -> bool:
        """Tells whether a domain's events flow on this link, in either direction."""
        child = self._child_domain
        table = self._state.authority
        path = table.path_of(child) or (child,)
        return domain in path or table.is_within(domain, child) or domain in self._all_subscriptions

    def _is_wanted(self, stream: StreamId) -> bool:
        """Tells whether the peer is to be sent a stream."""
        if self._settings.peer_role is PeerRole.PARENT:
            return self._state.authority.is_within(stream.domain, self._settings.domain)
        return stream.lane is not Lane.AUDIT and self._is_shared(stream.domain)

    def _may_bring(self, stream: StreamId) -> bool:
        """A child brings its subtree only; what a parent brings is judged by acceptance."""
        if self._settings.peer_role is PeerRole.PARENT:
            return True
        table = self._state.authority
        return (
            table.is_within(stream.domain, self.peer_domain) or table.path_of(stream.domain) is None
        )

    @property
    def _child_domain(self) -> str:
        parent_is_peer = self._settings.peer_role is PeerRole.PARENT
        return self._settings.domain if parent_is_peer else self.peer_domain

    @property
    def _all_subscriptions(self) -> frozenset[str]:
        return self._peer_subscriptions | frozenset(self._settings.subscriptions)

    def _peer_holds(self, stream: StreamId, sequence: int) -> None:
        self._outbox.peer_holds(stream, sequence)
        if self.acked.get(stream, 0) < sequence:
            self.acked[stream] = sequence

    def _pump(self, now_ms: int) -> list[Effect]:
        """Sends what credit allows, and asks for more of the log when nothing is ready."""
        effects: list[Effect] = []
        ready = self._outbox.ready
        while ready and self._credit > 0:
            frame, size = ready.popleft()
            self._credit -= size
            self._told_level = False
            effects.append(Send(frame))
        if not ready and self._reading is None and self._credit > 0:
            self._reading = self._outbox.next_reading()
            if self._reading is not None:
                effects.append(Read(self._reading))
        return effects

    def _end_if_level(self) -> list[Effect]:
        if self._settings.keep_open or not (self.is_level and self.peer_level):
            return []
        self.phase = Phase.CLOSED
        goodbye = sync_pb2.Goodbye(
            reason=sync_pb2.GOODBYE_REASON_LEVEL, message="both sides are level"
        )
        return [
            Send(sync_pb2.Frame(goodbye=goodbye)),
            Close(sync_pb2.GOODBYE_REASON_LEVEL, "both sides are level"),
        ]

    def _heartbeat(self, clock: int, now_ms: int) -> sync_pb2.Frame:
        return sync_pb2.Frame(
            heartbeat=sync_pb2.Heartbeat(
                clock=clock, ping_ms=now_ms, pong_ms=self._pong_ms, level=self.is_level
            )
        )

    def _stream_ack(self, stream: StreamId, sequence: int) -> sync_pb2.StreamAck:
        index = self._incoming_index.get(stream)
        if index is not None:
            return sync_pb2.StreamAck(stream_index=index, sequence=sequence)
        return sync_pb2.StreamAck(stream=stream_to_message(stream), sequence=sequence)

    def _refuse(self, reason: int, message: str, retry_after_ms: int = 0) -> list[Effect]:
        self.phase = Phase.CLOSED
        goodbye = sync_pb2.Goodbye(
            reason=reason,  # type: ignore[arg-type]
            message=message,
            retry_after_ms=retry_after_ms,
        )
        return [Send(sync_pb2.Frame(goodbye=goodbye)), Close(reason, message, retry_after_ms)]

    def _protocol_error(self, message: str) -> list[Effect]:
        return self._refuse(sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR, message)

    def _out(self, effects: list[Effect], now_ms: int) -> list[Effect]:
        if any(isinstance(effect, Send) for effect in effects):
            self._last_sent_ms = now_ms
        return effects
