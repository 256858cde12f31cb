"""One commit in the making. Owns the drafts of local writes and the peers' runs taken in, both read through an overlay
on committed state; never changes that state: only `State.apply` does, after the log has the commit.

A driver opens a proposal, lets every waiting request write or receive through it (taking a mark first, and
reverting to it when the request is refused), builds the bytes, appends them, and applies them. If the append fails,
the proposal is dropped, and with it the whole overlay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from federation.acceptance import GRANTING_ASPECTS
from federation.admissions import admission_key, admission_of, stands_above
from federation.barred import key_not_in_force, why_barred
from federation.causality import Context, covers
from federation.chain import Signer, key_id_of
from federation.clock import HybridClock
from federation.codec import Term, Write, as_write, encode_event, stream_from_message
from federation.conflicts import resolves_of
from federation.errors import InvalidWrite, WrongState
from federation.examination import Findings
from federation.identifiers import Key, Lane, Origin, StreamId, as_key
from federation.merge import Siblings, context_of, merge, rivals_of, winner_of
from federation.receipt import Head, Receipt, judge
from federation.sealing import sealed_runs
from federation.state import State
from federation.streams import ReceivedRun, own_stream
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2

#: Largest body of one event: an event, its run and its commit must fit into one etcd request (design §4).
MAX_EVENT_BYTES = 256 * 1024

#: A proposal takes no further request beyond this, so that the commit stays below the log's limit of 1 MiB even after
#: one more run of the largest size.
FULL_BYTES = 448 * 1024

#: Facts after which a commit takes no further request: what is decided next rests on them.
CLOSING_ASPECTS = GRANTING_ASPECTS | {"key_succession"}

#: What a commit holds beside its events, estimated from above: tags and lengths of one event, and of one run its
#: stream's name, numbers and seal.
EVENT_OVERHEAD_BYTES = 8
RUN_OVERHEAD_BYTES = 384


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
    received: int
    refused: int
    size: int
    grants: bool


class _Drafted(NamedTuple):
    stream: StreamId
    write: Write
    key: Key
    #: What the overlay held of the key before; None: nothing.
    before: Siblings | None
    #: The first draft of its request, by which the request is found again.
    is_first: bool


class _Received(NamedTuple):
    stream: StreamId
    run: event_pb2.Run
    #: Where the stream stood in this proposal before; None: where the state has it.
    before: Head | None


class Proposal:
    """Drafts of one commit over `state`."""

    def __init__(
        self, state: State, identity: Identity, clock: HybridClock, signer: Signer, wall_ms: int
    ) -> None:
        self.state = state
        self.identity = identity
        self.wall_ms = wall_ms
        #: Bytes of the commit, estimated from above.
        self.size = 0
        self._origin = identity.origin
        self._clock = clock
        self._signer = signer
        self._overlay: dict[Key, Siblings] = {}
        self._drafts: list[_Drafted] = []
        self._next: dict[StreamId, int] = {}
        self._received: list[_Received] = []
        self._refused: list[event_pb2.QuarantinedRun] = []
        self._prepared: dict[tuple[StreamId, int], ReceivedRun] = {}
        self._heads: dict[StreamId, Head] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._grants = False
        #: Why nothing may be written here now; empty when it may.
        self.barred = why_barred(state, identity.origin, identity.domain, signer.key_id)
        #: Terms that records drafted here begin: what follows them in this commit has seen them.
        self._terms: dict[str, Term] = {}

    # Reading through the overlay.

    @property
    def empty(self) -> bool:
        """Tells whether there is nothing to append."""
        return not (self._drafts or self._received or self._refused)

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
        return self.drafts_since(Mark(0, 0, 0, 0, grants=False))

    def drafts_since(self, mark: Mark) -> list[tuple[StreamId, Write]]:
        """Local writes drafted after a mark, in order."""
        return [(drafted.stream, drafted.write) for drafted in self._drafts[mark.drafts :]]

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
        context: Context | None = None,
    ) -> Write:
        """Drafts one event that has seen all that stands here of its key. Raises `KeyNotInForce` where nothing may be
        sealed now.

        `report` is (source, number) of a node's report. A moved event keeps its `stamp`, sees nothing of the old
        domain, and names as its `context` what it has seen of the new one. Raises `InvalidWrite` when the event is
        larger than `MAX_EVENT_BYTES`.
        """
        if self.barred:
            raise key_not_in_force(self.barred)
        if self._changes_key:
            raise WrongState(
                "the signing key changes with this commit, and nothing may follow in it; retry"
            )
        key = as_key((domain, subject, aspect))
        stream = own_stream(domain, self._origin, aspect)
        held: Siblings = self.siblings(key) if aspect != "audit" else ()
        seen = context_of(held) if context is None else context
        resolves = self._resolved(key, held, seen) if len(held) > 1 else ()
        sequence = self._next.get(stream) or self.state.received(stream) + 1
        term = self._terms.get(domain) or self.state.authority.term_of(domain)
        if stamp is None:
            stamp = self._clock.tick(self.wall_ms)
        raw = encode_event(
            self._origin,
            subject,
            aspect,
            body,
            stamp=stamp,
            context=seen,
            term=term,
            request_id=request_id,
            principal=principal,
            optimistic=optimistic,
            resolves=resolves,
            report=report,
            moved_from=moved_from,
        )
        if len(raw) > MAX_EVENT_BYTES:
            raise InvalidWrite(
                f"the {aspect} of {subject} is {len(raw)} bytes as an event; at most {MAX_EVENT_BYTES} are allowed: "
                "keep large values outside (content-addressed), or split them"
            )
        write = as_write(
            (
                self._origin,
                sequence,
                stamp,
                subject,
                aspect,
                seen,
                term,
                request_id,
                principal,
                optimistic,
                resolves,
                raw,
            )
        )
        self._put(_Drafted(stream, write, key, self._overlay.get(key), self._is_first(write)))
        self._overlay[key] = merge(held, write) if held else (write,)
        if stream.lane is Lane.CONTROL:
            self._note_control(domain, aspect, body)
        return write

    def _is_first(self, write: Write) -> bool:
        """Tells whether a write is the first of a request with an id."""
        request = (write.principal, write.request_id)
        return bool(write.request_id) and request not in self._requests

    def _put(self, drafted: _Drafted) -> None:
        """Puts a draft in its stream."""
        stream, write = drafted.stream, drafted.write
        if drafted.is_first:
            self._requests[(write.principal, write.request_id)] = write.subject
        self.size += len(write.raw) + EVENT_OVERHEAD_BYTES
        if stream not in self._next:
            self.size += RUN_OVERHEAD_BYTES
        self._next[stream] = write.sequence + 1
        self._drafts.append(drafted)

    def _note_control(self, domain: str, aspect: str, body: Any) -> None:
        """Facts that later decisions rest on, some of them in this very commit."""
        self._grants = self._grants or aspect in CLOSING_ASPECTS
        if aspect == "authority":
            self._terms[domain] = (*self.state.authority.term_of(body.parent), body.term)
        elif aspect == "genesis":
            self._terms[domain] = (body.authority.term,)

    def succeed(self, public_key: bytes, *, principal: str, request_id: str = "") -> Write:
        """Drafts that this controller goes on under another signing key, which seals from the next commit on. It is the
        last event of this commit; the signer is to be exchanged once the commit stands.
        """
        origin, domain = self._origin, self.identity.domain
        own = own_stream(domain, origin, "key_succession")
        succession = authority_pb2.KeySuccession(
            controller=origin.controller,
            domain=domain,
            incarnation=origin.incarnation,
            old_key_id=self._signer.key_id,
            key_id=key_id_of(public_key),
            public_key=public_key,
        )
        last = {s: held.received for s, held in self.state.streams.items() if s.origin == origin}
        last |= {stream: following - 1 for stream, following in self._next.items()}
        last[own] = last.get(own, 0) + 1
        for stream, sequence in sorted(last.items()):
            if self.state.authority.is_within(stream.domain, domain):
                succession.ends.add(
                    domain=stream.domain,
                    incarnation=origin.incarnation,
                    lane=int(stream.lane),
                    last_sequence=sequence,
                )
        return self.write(
            domain,
            f"controllers/{origin.controller}",
            "key_succession",
            succession,
            principal=principal,
            request_id=request_id,
        )

    def _resolved(self, key: Key, held: Siblings, seen: Context) -> Context:
        """What a write resolves: all rivals, when its writer saw every sibling."""
        if not all(covers(seen, sibling.dot) for sibling in held):
            return ()
        return resolves_of(rivals_of(key, held, self.state.rank))

    def mark(self) -> Mark:
        """A point to revert to when a request is refused after it drafted or received something."""
        return Mark(
            len(self._drafts), len(self._received), len(self._refused), self.size, self._grants
        )

    def revert(self, mark: Mark) -> None:
        """Drops everything drafted and received since the mark."""
        for stream, write, key, before, is_first in reversed(self._drafts[mark.drafts :]):
            self._next[stream] = write.sequence
            if write.aspect in ("authority", "genesis"):
                self._terms.pop(key.domain, None)
            if is_first:
                del self._requests[(write.principal, write.request_id)]
            if before is None:
                del self._overlay[key]
            else:
                self._overlay[key] = before
        for stream, run, head in reversed(self._received[mark.received :]):
            del self._prepared[(stream, run.first_sequence)]
            if head is None:
                del self._heads[stream]
            else:
                self._heads[stream] = head
        del self._drafts[mark.drafts :]
        del self._received[mark.received :]
        del self._refused[mark.refused :]
        self.size = mark.size
        self._grants = mark.grants

    # Receipt.

    def receive(self, peer: str, run: event_pb2.Run, findings: Findings | None = None) -> Receipt:
        """Takes in a run from a peer where it is good; a part held already is skipped. `findings` on this run, made
        earlier, save the work where they still fit. Raises `InvalidWrite` for a run that is malformed or too large.
        """
        stream = stream_from_message(run.stream)
        state, drafted = self.state, self._heads.get(stream)
        head = drafted or Head(state.received(stream), state.chain_hash(stream))
        receipt, run, reason, writes, verified = judge(
            peer, self._origin, stream, run, head, state, findings
        )
        if receipt is Receipt.QUARANTINED:
            self._keep_evidence(peer, run, reason)
        if receipt is not Receipt.TAKEN:
            return receipt
        self._heads[stream] = Head(run.seal.sequence, run.seal.chain_hash)
        self._received.append(_Received(stream, run, drafted))
        self._prepared[(stream, run.first_sequence)] = ReceivedRun(run.seal, writes, verified)
        self.size += run.ByteSize() + EVENT_OVERHEAD_BYTES
        self._observe_stamps(stream, run, writes)
        return receipt

    def _keep_evidence(self, peer: str, run: event_pb2.Run, reason: str) -> None:
        evidence = event_pb2.QuarantinedRun(run=run, reason=reason, peer=peer)
        if self.state.wants_evidence(run) and evidence not in self._refused:
            self._refused.append(evidence)
            self.size += evidence.ByteSize() + EVENT_OVERHEAD_BYTES

    def _observe_stamps(
        self, stream: StreamId, run: event_pb2.Run, writes: Sequence[Write | None]
    ) -> None:
        """Follows honest stamps; admits stamps from the future where this controller stands above their origin."""
        highest = max([w[2] for w in writes if w is not None], default=0)
        if not self._clock.is_from_future(highest, self.wall_ms):
            self._clock.observe(highest, self.wall_ms)
            return
        if not self._stands_above(stream) or self.barred or self._changes_key:
            return
        ahead = [
            w.sequence
            for w in writes
            if w is not None and self._clock.is_from_future(w.stamp, self.wall_ms)
        ]
        record = admission_of(stream, ahead, run.seal.chain_hash, self._clock.tick(self.wall_ms))
        principal = f"controller:{self.identity.controller}"
        self.write(*admission_key(stream.domain, record), record, principal=principal)

    @property
    def _changes_key(self) -> bool:
        return bool(self._drafts) and self._drafts[-1].write.aspect == "key_succession"

    def _stands_above(self, stream: StreamId) -> bool:
        state = self.state
        served = state.keys.domain_of(stream.origin.controller)
        return stands_above(state.authority, self.identity.domain, served, stream)

    # The commit.

    def build(self, commit_id: bytes, replica: str, fencing_token: int) -> Built:
        """Seals the drafts and makes the commit for `state.next_offset`."""
        by_stream: dict[StreamId, list[Write]] = {}
        for drafted in self._drafts:
            by_stream.setdefault(drafted.stream, []).append(drafted.write)
        prepared = dict(self._prepared)
        own_runs = []
        for stream, writes in sorted(by_stream.items(), key=lambda item: item[0].lane):
            for run, sealed in sealed_runs(
                self._signer, stream, self.state.chain_hash(stream), writes
            ):
                own_runs.append(run)
                prepared[(stream, run.first_sequence)] = ReceivedRun(
                    run.seal, sealed, verified=True
                )
        commit = event_pb2.Commit(
            commit_id=commit_id,
            offset=self.state.next_offset,
            time_ms=self.wall_ms,
            replica=replica,
            fencing_token=fencing_token,
            runs=[*(received.run for received in self._received), *own_runs],
            quarantined=self._refused,
            clock=self._clock.last,
        )
        return Built(commit.SerializeToString(), commit, prepared)
