"""One commit in the making. Owns the drafts of local writes and the receipt of peers' runs, both read through an
overlay on committed state; never changes that state: only `State.apply` does, after the log has the commit.

A driver opens a proposal, lets every waiting request write or receive through it (taking a mark first, and
reverting to it when the request is refused), builds the bytes, appends them, and applies them. If the append fails,
the proposal is dropped, and with it the whole overlay.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple

from federation.acceptance import GRANTING_ASPECTS
from federation.causality import Context
from federation.chain import Signer, chain_start, extend, seal
from federation.clock import HybridClock
from federation.codec import ASPECTS, Write, dot_to_message, stream_from_message, stream_to_message
from federation.conflicts import resolves_of
from federation.errors import InvalidWrite
from federation.identifiers import Key, Origin, StreamId
from federation.merge import Siblings, context_of, rivals_of, winner_of
from federation.state import ReceivedRun, State
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2

#: Largest body of one event: an event, its run and its commit must fit into one etcd request (design §4).
MAX_EVENT_BYTES = 256 * 1024

#: Largest run a peer may hand over. Senders cut at half of it; above it a run would not share a commit with others.
MAX_RUN_BYTES = 512 * 1024

#: A proposal takes no further request beyond this, so that the commit stays below the log's limit of 1 MiB even after
#: one more run of the largest size.
FULL_BYTES = 448 * 1024


class Receipt(enum.Enum):
    """What became of a run at receipt."""

    TAKEN = "TAKEN"
    #: Every event was here already.
    REPEATED = "REPEATED"
    #: Events before it are missing; nothing was taken.
    GAP = "GAP"
    #: Refused and kept as evidence, without effect.
    QUARANTINED = "QUARANTINED"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who writes: a controller, the domain it serves, and the incarnation of its log."""

    controller: str
    domain: str
    incarnation: int

    @property
    def origin(self) -> Origin:
        """The origin of this writer's streams."""
        return Origin(self.controller, self.incarnation)


class Built(NamedTuple):
    """A finished proposal: the log's bytes, the message, and the runs already decoded for `State.apply`."""

    data: bytes
    commit: event_pb2.Commit
    prepared: dict[tuple[StreamId, int], ReceivedRun]


class Mark(NamedTuple):
    """A point to revert to."""

    drafts: int
    undo: int
    size: int


class Proposal:
    """Drafts of one commit over `state`."""

    def __init__(
        self, state: State, identity: Identity, clock: HybridClock, signer: Signer, wall_ms: int
    ) -> None:
        self.state = state
        self.identity = identity
        self.wall_ms = wall_ms
        self.size = 0
        self._clock = clock
        self._signer = signer
        self._overlay: dict[Key, Siblings] = {}
        self._drafts: list[tuple[StreamId, Write]] = []
        self._undo: list[tuple[Key, Siblings | None]] = []
        self._next: dict[StreamId, int] = {}
        self._runs: list[event_pb2.Run] = []
        self._quarantined: list[event_pb2.QuarantinedRun] = []
        self._prepared: dict[tuple[StreamId, int], ReceivedRun] = {}
        self._heads: dict[StreamId, tuple[int, bytes]] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._grants = False

    # Reading through the overlay.

    @property
    def empty(self) -> bool:
        """Tells whether there is nothing to append."""
        return not (self._drafts or self._runs or self._quarantined)

    @property
    def full(self) -> bool:
        """Tells whether further requests should wait for the next commit: it is large, or holds a grant that later
        decisions rest on and that reads through the overlay do not show.
        """
        return self.size >= FULL_BYTES or self._grants

    def siblings(self, key: Key) -> Siblings:
        """The siblings of a key as they will be after this commit's local writes."""
        held = self._overlay.get(key)
        return held if held is not None else self.state.siblings(key)

    def winner(self, key: Key) -> Write | None:
        """The write that counts, with this commit's local writes."""
        held = self.siblings(key)
        return winner_of(key, held, self.state.rank) if held else None

    def subject_of_request(self, principal: str, request_id: str) -> str | None:
        """The subject a request in this commit or a remembered one wrote first; None for a new request."""
        if not request_id:
            return None
        drafted = self._requests.get((principal, request_id))
        if drafted is not None:
            return drafted
        remembered = self.state.requests.get((principal, request_id))
        return remembered.subject if remembered else None

    def drafts(self) -> list[tuple[StreamId, Write]]:
        """This commit's local writes, in order."""
        return list(self._drafts)

    # Local writes.

    def write(
        self,
        domain: str,
        subject: str,
        aspect: str,
        body: Any,
        *,
        principal: str,
        request_id: str = "",
        optimistic: bool = False,
        report: tuple[str, int] | None = None,
        moved_from: event_pb2.MovedFrom | None = None,
        stamp: int | None = None,
    ) -> Write:
        """Drafts one event that has seen all that stands here of its key.

        `report` is (source, number) of a node's report. A moved event keeps its `stamp` and sees nothing of the old
        domain. Raises `InvalidWrite` when the event is larger than `MAX_EVENT_BYTES`.
        """
        key = Key(domain, subject, aspect)
        lane = ASPECTS[aspect].lane
        stream = StreamId(domain, self.identity.origin, lane)
        held: Siblings = self.siblings(key) if aspect != "audit" else ()
        context: Context = context_of(held)
        resolves = resolves_of(rivals_of(key, held, self.state.rank)) if len(held) > 1 else ()
        sequence = self._next.get(stream) or self.state.received(stream) + 1
        event = event_pb2.Event(
            stamp=stamp if stamp is not None else self._clock.tick(self.wall_ms),
            subject=subject,
            context=[dot_to_message(d) for d in context],
            term=self.state.authority.term_of(domain),
            request_id=request_id,
            principal=principal,
            optimistic=optimistic,
            resolves=[dot_to_message(d) for d in resolves],
            moved_from=moved_from,
            **{aspect: body},
        )
        if report is not None:
            event.report_source, event.report_sequence = report
        raw = event.SerializeToString()
        if len(raw) > MAX_EVENT_BYTES:
            raise InvalidWrite(
                f"the {aspect} of {subject} is {len(raw)} bytes as an event; at most {MAX_EVENT_BYTES} are allowed: "
                "keep large values outside (content-addressed), or split them"
            )
        write = Write(
            stream.origin,
            sequence,
            event.stamp,
            subject,
            aspect,
            context,
            tuple(event.term),
            request_id,
            principal,
            optimistic,
            resolves,
            raw,
        )
        self._next[stream] = sequence + 1
        self._drafts.append((stream, write))
        if request_id:
            self._requests.setdefault((principal, request_id), subject)
        self._grants = self._grants or aspect in GRANTING_ASPECTS
        self._undo.append((key, self._overlay.get(key)))
        self._overlay[key] = (write,)
        self.size += len(raw) + 8
        return write

    def mark(self) -> Mark:
        """A point to revert to when a request is refused after it drafted something."""
        return Mark(len(self._drafts), len(self._undo), self.size)

    def revert(self, mark: Mark) -> None:
        """Drops every draft since the mark."""
        for stream, write in self._drafts[mark.drafts :]:
            self._next[stream] = min(self._next[stream], write.sequence)
            self._requests.pop((write.principal, write.request_id), None)
        del self._drafts[mark.drafts :]
        for key, before in reversed(self._undo[mark.undo :]):
            if before is None:
                self._overlay.pop(key, None)
            else:
                self._overlay[key] = before
        del self._undo[mark.undo :]
        self._grants = any(w.aspect in GRANTING_ASPECTS for _, w in self._drafts)
        self.size = mark.size

    # Receipt.

    def receive(self, peer: str, run: event_pb2.Run) -> Receipt:
        """Takes in a run from a peer: checks numbers, chain and seal; a part held already is skipped.

        Raises `InvalidWrite` for a run that is malformed or too large.
        """
        stream = stream_from_message(run.stream)
        size = sum(map(len, run.events))
        if not run.events or run.first_sequence < 1:
            raise InvalidWrite(f"run of {stream} holds no events")
        if run.seal.sequence != run.first_sequence + len(run.events) - 1:
            raise InvalidWrite(f"run of {stream} does not end at its seal")
        if size > MAX_RUN_BYTES:
            raise InvalidWrite(
                f"run of {stream} is {size} bytes; at most {MAX_RUN_BYTES} are allowed"
            )
        received, chain_hash = self._heads.get(stream) or (
            self.state.received(stream),
            self.state.chain_hash(stream),
        )
        if run.seal.sequence <= received:
            return Receipt.REPEATED
        if run.first_sequence > received + 1:
            return Receipt.GAP
        if stream.origin.controller == self.identity.controller:
            return self._quarantine(peer, run, "OWN_STREAM_AHEAD")
        if run.first_sequence <= received:
            run = event_pb2.Run(
                stream=run.stream,
                first_sequence=received + 1,
                events=run.events[received + 1 - run.first_sequence :],
                seal=run.seal,
            )
        if extend(chain_hash, run.events) != run.seal.chain_hash:
            return self._quarantine(peer, run, "CHAIN_MISMATCH")
        verified = self.state.keys.knows(stream.origin.controller, run.seal.key_id)
        if verified and not self.state.keys.seal_is_good(stream, run.seal):
            return self._quarantine(peer, run, "SEAL_INVALID")
        writes = self._decode(stream, run)
        if writes is None:
            return self._quarantine(peer, run, "UNDECODABLE")
        self._heads[stream] = (run.seal.sequence, run.seal.chain_hash)
        self._runs.append(run)
        self._prepared[(stream, run.first_sequence)] = ReceivedRun(run.seal, writes, verified)
        self.size += size
        self._observe_stamps(stream, run, writes)
        return Receipt.TAKEN

    def _decode(self, stream: StreamId, run: event_pb2.Run) -> list[Write | None] | None:
        decode = self.state.decoder.decode
        try:
            return [
                decode(stream, number, raw)
                for number, raw in enumerate(run.events, run.first_sequence)
            ]
        except InvalidWrite:
            return None

    def _quarantine(self, peer: str, run: event_pb2.Run, reason: str) -> Receipt:
        self._quarantined.append(event_pb2.QuarantinedRun(run=run, reason=reason, peer=peer))
        self.size += run.ByteSize()
        return Receipt.QUARANTINED

    def _observe_stamps(
        self, stream: StreamId, run: event_pb2.Run, writes: list[Write | None]
    ) -> None:
        """Follows honest stamps; admits stamps from the future where this controller stands above their origin."""
        highest = max((w[2] for w in writes if w is not None), default=0)
        if not self._clock.is_from_future(highest, self.wall_ms):
            self._clock.observe(highest, self.wall_ms)
            return
        if not self._stands_above(stream):
            return
        ahead = [
            w.sequence
            for w in writes
            if w is not None and self._clock.is_from_future(w.stamp, self.wall_ms)
        ]
        received_stamp = self._clock.tick(self.wall_ms)
        origin = stream.origin
        self.write(
            stream.domain,
            f"admissions/{origin.controller}.{origin.incarnation}.{int(stream.lane)}.{ahead[0]}",
            "admission",
            authority_pb2.Admission(
                controller=origin.controller,
                incarnation=origin.incarnation,
                lane=int(stream.lane),
                first_sequence=ahead[0],
                last_sequence=ahead[-1],
                chain_hash=run.seal.chain_hash,
                received_stamp=received_stamp,
            ),
            principal=f"controller:{self.identity.controller}",
        )

    def _stands_above(self, stream: StreamId) -> bool:
        """Tells whether this controller may cap the stream: its domain holds the events' and is above the origin's."""
        own = self.identity.domain
        served = self.state.keys.domain_of(stream.origin.controller)
        table = self.state.authority
        return (
            served is not None
            and served != own
            and table.is_within(served, own)
            and table.is_within(stream.domain, own)
        )

    # The commit.

    def build(self, commit_id: bytes, replica: str, fencing_token: int) -> Built:
        """Seals the drafts and makes the commit for `state.next_offset`."""
        drafted: dict[StreamId, list[Write]] = {}
        for stream, write in self._drafts:
            drafted.setdefault(stream, []).append(write)
        prepared = dict(self._prepared)
        own_runs = []
        for stream, writes in sorted(drafted.items(), key=lambda item: item[0].lane):
            run = self._seal(stream, writes)
            own_runs.append(run)
            prepared[(stream, run.first_sequence)] = ReceivedRun(run.seal, writes, verified=True)
        commit = event_pb2.Commit(
            commit_id=commit_id,
            offset=self.state.next_offset,
            time_ms=self.wall_ms,
            replica=replica,
            fencing_token=fencing_token,
            runs=[*self._runs, *own_runs],
            quarantined=self._quarantined,
            clock=self._clock.last,
        )
        return Built(commit.SerializeToString(), commit, prepared)

    def _seal(self, stream: StreamId, writes: list[Write]) -> event_pb2.Run:
        held = self.state.streams.get(stream)
        start = held.chain_hash if held else chain_start(stream)
        events = [w.raw for w in writes]
        last = writes[-1].sequence
        return event_pb2.Run(
            stream=stream_to_message(stream),
            first_sequence=writes[0].sequence,
            events=events,
            seal=seal(self._signer, stream, last, extend(start, events)),
        )
