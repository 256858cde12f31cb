"""One end of a connection: the core's session and what carries out its effects. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from federation.clock import stamp_of
from federation.codec import stream_from_message
from federation.examination import Findings, examine
from federation.identifiers import StreamId
from federation.proposal import Proposal
from federation.receipt import Receipt
from federation.session import Session
from federation.session_effects import Acknowledged, Close, Effect, Ingest, Live, Read, Send
from federation.session_phases import Phase
from federation.session_settings import PeerRole, Settings
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2
from tests.simulation.network import DOWN, UP, Connection
from tests.simulation.world import InvariantViolated

if TYPE_CHECKING:
    from tests.simulation.replica import Replica

#: Sessions are told that time passes this much faster than it does, so that most partitions outlast the silence that
#: ends a session.
SESSION_SPEED = 10

#: Chance that the log takes its time to be read, so that other things happen in between.
SLOW_READ = 0.15


#: What a parent that is busy tells its child.
RETRY_AFTER_MS = 500

#: Chance that a parent has too many children replaying at once.
BUSY = 0.05


class Crowd:
    """Now and then too many peers replay at once, until the fleet is healed."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def try_admit(self, controller: str, backlog_events: int) -> int | None:
        """A number: milliseconds after which to try again."""
        if self._replica.controller.fleet.healed or not self._replica.world.happens(BUSY):
            return None
        return RETRY_AFTER_MS

    def replayed(self, controller: str) -> None:
        """Places are a matter of chance here."""


class Endpoint:
    """A session of one replica over one connection."""

    def __init__(
        self,
        replica: Replica,
        connection: Connection,
        role: PeerRole,
        peers: Mapping[str, str],
        *,
        keep_open: bool,
        batch_events: int,
    ) -> None:
        self.replica = replica
        self.role = role
        self.open = True
        self.child = connection.link.child
        self.session = Session(
            replica.state,
            Settings(
                controller=replica.controller.name,
                replica=replica.name,
                domain=replica.controller.domain,
                incarnation=replica.controller.origin(replica.state).incarnation,
                peer_role=role,
                peers=peers,
                keep_open=keep_open,
                batch_events=batch_events,
                admission=Crowd(replica),
            ),
        )
        self._connection = connection
        self._direction = UP if role is PeerRole.PARENT else DOWN
        self._chains: dict[StreamId, bytes] = {}
        self._quarantined: set[StreamId] = set()
        connection.ends.append(self)
        replica.endpoints.append(self)

    @property
    def is_syncing(self) -> bool:
        """Tells whether events flow."""
        return self.open and self.session.phase is Phase.SYNCING

    # Inputs.

    def start(self) -> None:
        """The connection stands."""
        self._perform(self.session.opened(self._now(), self._clock()))

    def arrive(self, frames: Sequence[bytes]) -> None:
        """Frames came; a replica that is paused sees them when it wakes."""
        self.replica.when_awake(self._take, frames)

    def lost(self) -> None:
        """The connection is gone."""
        self.replica.when_awake(self._end)

    def tick(self) -> None:
        """Time has passed."""
        if self.open:
            now_ms, clock = self._now(), self._clock()
            self._perform(self.session.tick(now_ms, clock))
            self._perform(self.session.level_told(now_ms, clock))

    def advanced(self, *, tree_changed: bool) -> None:
        """The log has grown."""
        if self.open:
            self._perform(self.session.advanced(self._now(), tree_changed=tree_changed))
            self._tell_level()

    def durable_above(self, domain: str, positions: Mapping[StreamId, int]) -> None:
        """A level above the parent acknowledged events."""
        if self.open:
            self._perform(self.session.durable_above(domain, positions, self._now()))

    def close(self, message: str) -> None:
        """Ends the session from this side."""
        if self.open:
            self._perform(self.session.close(sync_pb2.GOODBYE_REASON_UNSPECIFIED, message))

    def connection_lost(self) -> None:
        """This end's process died: the other end finds out by itself, or is told by its host."""
        self._connection.cut(silently=self.replica.world.happens(0.3))

    # Effects.

    def _take(self, frames: Sequence[bytes]) -> None:
        now_ms, clock = self._now(), self._clock()
        for data in frames:
            if not self.open:
                return
            frame = sync_pb2.Frame.FromString(data)
            self._perform(self.session.received(frame, now_ms, clock))

    def _perform(self, effects: Iterable[Effect]) -> None:
        sends: list[bytes] = []
        pending = list(effects)
        if not pending:
            return
        closed = False
        for effect in pending:
            if isinstance(effect, Send):
                self._bound_credit(effect.frame)
                sends.append(effect.frame.SerializeToString())
            elif isinstance(effect, Read):
                pending.extend(self._read(effect))
            elif isinstance(effect, Ingest):
                self._ingest(effect)
            elif isinstance(effect, Acknowledged):
                self._acknowledged(effect)
            elif isinstance(effect, Live):
                self.replica.controller.dial_attempts = 0
            elif isinstance(effect, Close):
                closed = True
                self._note_protocol_error(effect)
        if sends:
            self._connection.send(self._direction, sends)
        if closed:
            self._connection.cut()
            self._end()

    def _bound_credit(self, frame: sync_pb2.Frame) -> None:
        """Events here are small: a receiver that grants what production grants would never make a sender wait."""
        credit = self.replica.controller.credit_bytes
        if credit and frame.HasField("hello"):
            frame.hello.credit_bytes = credit

    def _read(self, effect: Read) -> Iterable[Effect]:
        world = self.replica.world
        if world.happens(SLOW_READ):
            self.replica.later(world.between(1, 8), self._read_late, effect)
            return ()
        return self._read_now(effect)

    def _read_late(self, effect: Read) -> None:
        if self.open:
            self._perform(self._read_now(effect))
            self._tell_level()

    def _read_now(self, effect: Read) -> Iterable[Effect]:
        first = effect.reading.first_offset
        commits = self.replica.controller.log.commits[
            first : first + self.replica.controller.read_commits
        ]
        return self.session.read(commits, self._now())

    def _ingest(self, effect: Ingest) -> None:
        peer = self.session.peer
        examined = [self._examine(run) for run in effect.runs]

        def receive(proposal: Proposal) -> list[Receipt]:
            return [proposal.receive(peer, findings.run, findings) for findings in examined]

        def answer(receipts: list[Receipt] | None, error: Exception | None) -> None:
            if not self.open:
                return
            if receipts is None:
                self.close(f"runs were not taken: {error}")
                return
            streams = [stream_from_message(run.stream) for run in effect.runs]
            for stream, run, receipt in zip(streams, effect.runs, receipts, strict=True):
                if receipt is Receipt.QUARANTINED:
                    self._quarantined.add(stream)
                    if not self._may_be_refused(stream, run):
                        forged = stream in self.replica.controller.fleet.history.forged
                        raise InvariantViolated(
                            "I11" if forged else "I15",
                            f"{self.replica.name} refuses an honest run of {stream} by {peer}",
                        )
            if any(
                receipt is Receipt.GAP and stream not in self._quarantined
                for stream, receipt in zip(streams, receipts, strict=True)
            ):
                self.replica.controller.gaps += 1
                self.close("events are missing before a run")
                return
            self._perform(self.session.ingested(streams, effect.size, self._now()))

        self.replica.submit(receive, answer)

    def _may_be_refused(self, stream: StreamId, run: event_pb2.Run) -> bool:
        """What lies above a seal that is known here, or comes by a detour under a key that is not."""
        state = self.replica.state
        limit = state.limit(stream)
        if limit is not None and run.seal.sequence > limit.last:
            return True
        return not state.keys.knows(stream.origin.controller, run.seal.key_id)

    def _examine(self, run: event_pb2.Run) -> Findings:
        state = self.replica.state
        stream = stream_from_message(run.stream)
        follows = self._chains.get(stream) or state.chain_hash(stream)
        self._chains[stream] = run.seal.chain_hash
        return examine(stream, run, follows, state.keys, state.decoder)

    def _acknowledged(self, effect: Acknowledged) -> None:
        fleet = self.replica.controller.fleet
        durable = fleet.controller_of_domain[effect.domain].log.durable
        for stream, sequence in effect.positions.items():
            if durable.get(stream, 0) < sequence:
                raise InvariantViolated(
                    "I3",
                    f"{stream} {sequence} was acknowledged for {effect.domain}, which holds {durable.get(stream, 0)}",
                )
        if self.role is PeerRole.PARENT:
            for endpoint in list(self.replica.endpoints):
                if endpoint.role is PeerRole.CHILD:
                    endpoint.durable_above(effect.domain, effect.positions)

    def _note_protocol_error(self, effect: Close) -> None:
        if effect.reason == sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR:
            raise InvariantViolated(
                "I15", f"{self.replica.name} and {self.session.peer}: {effect.message}"
            )

    def _tell_level(self) -> None:
        if self.open and not self.replica.controller.keep_open:
            self._perform(self.session.level_told(self._now(), self._clock()))

    def _end(self) -> None:
        if self.open:
            self.open = False
            self.replica.forget(self)

    def _now(self) -> int:
        return self.replica.world.now_ms * SESSION_SPEED

    def _clock(self) -> int:
        replica = self.replica
        return max(replica.clock.last, stamp_of(replica.controller.wall_ms()))
