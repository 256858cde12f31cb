"""Two sessions wired directly: frames as bytes in queues, effects carried out at once, time moved by the test."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from federation.clock import stamp_of
from federation.codec import stream_from_message
from federation.identifiers import Key
from federation.receipt import Receipt
from federation.session import Session
from federation.session_effects import Acknowledged, Close, Effect, Ingest, Live, Passed, Read, Send
from federation.session_settings import PeerRole, Settings
from souverix.fleet.v1 import node_pb2
from souverix.sync.v1 import sync_pb2
from tests.federation_fixture import MemoryController

#: Commits handed over at a reading: few, so that tests of some dozen commits need several.
COMMITS_A_READING = 8

#: Frames in one exchange: more means that two sides never fall silent.
MAX_FRAMES = 10_000


class Side:
    """One side: a controller, its session, and what the session asked for."""

    def __init__(
        self,
        controller: MemoryController,
        peer: MemoryController,
        role: PeerRole,
        **settings: object,
    ) -> None:
        self.controller = controller
        self.session = Session(
            controller.state,
            Settings(
                controller=controller.name,
                replica="r1",
                domain=controller.identity.domain,
                incarnation=1,
                peer_role=role,
                **{"peers": {peer.name: peer.identity.domain}, **settings},  # type: ignore[arg-type]
            ),
        )
        self.outgoing: deque[bytes] = deque()
        self.sent: list[sync_pb2.Frame] = []
        self.acknowledged: list[Acknowledged] = []
        self.passed: list[sync_pb2.Frame] = []
        self.live = 0
        self.closed: Close | None = None
        self.receipts: list[Receipt] = []
        #: Ingests that wait for the log; only where a test holds them back.
        self.held: list[Ingest] = []
        self.holds_ingests = False

    @property
    def now_ms(self) -> int:
        """The controller's wall clock."""
        return self.controller.now_ms

    @property
    def clock(self) -> int:
        """The controller's hybrid clock, as a driver gives it."""
        return max(self.controller.clock.last, stamp_of(self.now_ms))

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Does what a driver does."""
        for effect in effects:
            if isinstance(effect, Send):
                self.sent.append(effect.frame)
                self.outgoing.append(effect.frame.SerializeToString())
            elif isinstance(effect, Read):
                first = effect.reading.first_offset
                commits = self.controller.commits[first : first + COMMITS_A_READING]
                self.carry_out(self.session.read(commits, self.now_ms))
            elif isinstance(effect, Ingest):
                if self.holds_ingests:
                    self.held.append(effect)
                else:
                    self.ingest(effect)
            elif isinstance(effect, Acknowledged):
                self.acknowledged.append(effect)
            elif isinstance(effect, Passed):
                self.passed.append(effect.frame)
            elif isinstance(effect, Live):
                self.live += 1
            else:
                self.closed = effect

    def ingest(self, effect: Ingest) -> None:
        """Makes received runs durable and says so."""
        peer = self.session.peer
        self.receipts += self.controller.submit(
            lambda proposal: [proposal.receive(peer, run) for run in effect.runs]
        )
        streams = [stream_from_message(run.stream) for run in effect.runs]
        self.carry_out(self.session.ingested(streams, effect.size, self.now_ms))
        self.wake()

    def wake(self) -> None:
        """Tells the session that the log may have grown."""
        self.carry_out(self.session.advanced(self.now_ms, tree_changed=True))
        self.carry_out(self.session.level_told(self.now_ms, self.clock))

    def take(self, frame: sync_pb2.Frame) -> None:
        """Gives the session a frame."""
        self.carry_out(self.session.received(frame, self.now_ms, self.clock))
        self.carry_out(self.session.level_told(self.now_ms, self.clock))

    def tick(self) -> None:
        """Tells the session the time."""
        self.carry_out(self.session.tick(self.now_ms, self.clock))

    def kinds_sent(self) -> list[str]:
        """Kinds of the frames sent, in order."""
        return [frame.WhichOneof("kind") or "none" for frame in self.sent]

    def runs_sent(self) -> list[sync_pb2.InternedRun]:
        """Runs sent, in order."""
        return [run for frame in self.sent for run in frame.runs.runs]


def exchange(*sides: Side) -> None:
    """Carries frames between two sides until both are quiet."""
    one, other = sides
    for _ in range(MAX_FRAMES):
        if one.outgoing:
            other.take(sync_pb2.Frame.FromString(one.outgoing.popleft()))
        elif other.outgoing:
            one.take(sync_pb2.Frame.FromString(other.outgoing.popleft()))
        else:
            return
    raise AssertionError(f"two sides exchanged {MAX_FRAMES} frames and were not done")


def opened(
    child: MemoryController,
    parent: MemoryController,
    child_settings: dict[str, object] | None = None,
    parent_settings: dict[str, object] | None = None,
) -> tuple[Side, Side]:
    """The two sides of a new session, nothing exchanged yet but the dialling side's greeting."""
    below = Side(child, parent, PeerRole.PARENT, **(child_settings or {}))
    above = Side(parent, child, PeerRole.CHILD, **(parent_settings or {}))
    for side in (below, above):
        side.carry_out(side.session.opened(side.now_ms, side.clock))
    return below, above


def connected(
    child: MemoryController,
    parent: MemoryController,
    parent_settings: dict[str, object] | None = None,
    **settings: object,
) -> tuple[Side, Side]:
    """The two sides of a session that has nothing more to do."""
    sides = opened(child, parent, settings, parent_settings)
    exchange(*sides)
    return sides


def write_node(controller: MemoryController, domain: str, size: int = 1) -> None:
    """Has a controller write the spec of a node, of about this many bytes."""
    spec = node_pb2.NodeSpec(display_name="x" * size)
    controller.submit(lambda p: p.write(domain, "nodes/n1", "node_spec", spec, principal="user:a"))


def versions(controller: MemoryController, domain: str) -> set[str]:
    """Versions of a domain's policy that stand at a controller."""
    return {
        w.body().version for w in controller.state.siblings(Key(domain, "policies/p1", "policy"))
    }
