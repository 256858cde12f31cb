"""All a controller knows: the fold of its log. Owns streams, merged keys, authority, keys, conflicts and requests;
changes only by `apply`, commit by commit, and is the same for the same log.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence

from federation.acceptance import (
    ACCEPTED,
    RULING_ASPECTS,
    Outcome,
    Verdict,
    adopt_genesis,
    judge_event,
    judge_ruling,
    judge_run,
)
from federation.admissions import Admissions, admission_key, stands_above
from federation.applied import TRANSITION_ASPECTS, as_audit_item
from federation.applied import Applied as Applied
from federation.applied import AuditItem as AuditItem
from federation.authority import AuthorityTable
from federation.bounds import Foreknown, Limit, decided_stream
from federation.chain import Verifier, chain_start
from federation.codec import ASPECTS, EventDecoder, Term, Write, stream_from_message
from federation.conflicts import ConflictLedger
from federation.errors import CorruptLog, InvalidWrite
from federation.grounds import BOUNDING_ASPECTS, FINAL_REASONS, Grounds
from federation.identifiers import Dot, Key, Lane, Origin, StreamId, as_key
from federation.keys import KeyRing
from federation.merge import Siblings, merge, rivals_of, winner_of
from federation.requests import RememberedRequests
from federation.streams import ReceivedRun, RefusedRun, StreamState
from federation.table import Table
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2

#: Refused runs of one stream kept in the log: enough to see what went wrong, too few for a peer that repeats them at
#: each contact to fill it.
MAX_EVIDENCE_A_STREAM = 16

#: Streams of which refused runs are kept: a peer may name as many as it likes.
MAX_EVIDENCE_STREAMS = 1_024

#: Facts that hold for good, whatever is written after them: of admissions the lowest counts, and a key's seals stand.
ACCUMULATING_ASPECTS = BOUNDING_ASPECTS | {"admission", "key_grant"}

#: Audit entries kept at hand for listing; older ones are read from the log by verification and export.
MAX_AUDIT_AT_HAND = 100_000


class State:
    """The fold of one log.

    `controller` is the one whose log this is: its own streams need no verdict, since they were decided here. When a
    fact voids what is in effect already, it is to be made anew from the log (`federation.grounds`).
    """

    def __init__(
        self,
        controller: str,
        verifier: Verifier,
        root_key: bytes,
        foreknown: Foreknown | None = None,
    ) -> None:
        self.controller = controller
        self.streams: dict[StreamId, StreamState] = {}
        self.table = Table()
        self._siblings = self.table.siblings
        self.authority = AuthorityTable()
        self.keys = KeyRing(verifier, root_key)
        self.admissions = Admissions()
        self.conflicts = ConflictLedger()
        self.requests = RememberedRequests()
        #: subject -> domains something was written of it in.
        self.domains_of_subject = self.table.domains_of_subject
        self.audits: deque[AuditItem] = deque(maxlen=MAX_AUDIT_AT_HAND)
        #: Audit entries that ever came into effect.
        self.audits_seen = 0
        self.decoder = EventDecoder()
        self.next_offset = 0
        #: Hybrid clock of the log's writers, for the next one to go on from. Peers' stamps count only as far as a
        #: writer's clock followed them, which is bounded.
        self.clock = 0
        #: Offsets of commits that hold runs of the control lane, in order.
        self.control_offsets = array("Q")
        #: stream -> refused runs that the log holds, by chain hash.
        self.evidence: dict[StreamId, dict[bytes, RefusedRun]] = {}
        #: domain -> stamp of the record by which its present master's unbroken mastership began.
        self.mastery_began: dict[str, int] = {}
        #: Streams that are judged again whenever control facts change.
        self.blocked: set[StreamId] = set()
        #: A control fact came into effect that blocked streams may have waited for.
        self._judge_again = False
        #: What the effects rest on beside these.
        self.grounds = Grounds(controller, self.keys, self.authority, self.streams)
        if foreknown is not None:
            self.grounds.foreknow(foreknown)

    # Reading.

    def siblings(self, key: Key) -> Siblings:
        """The writes of a key of which none saw another; empty when it was never written."""
        return self._siblings(key)

    def winner(self, key: Key) -> Write | None:
        """The write that counts; None when the key was never written."""
        held = self._siblings(key)
        if not held:
            return None
        return held[0] if len(held) == 1 else winner_of(key, held, self.rank)

    def rank(self, key: Key, write: Write) -> tuple[Term, int]:
        """What a write counts for among its siblings."""
        lane = ASPECTS[write.aspect].lane
        effective = self.admissions.effective_stamp(key.domain, lane, write)
        if write.aspect == "authority":
            return write.term, effective
        return self.authority.rank_term(key.domain, write), effective

    def received(self, stream: StreamId) -> int:
        """Number of the last event held of a stream; 0 when there is none."""
        held = self.streams.get(stream)
        return held.received if held else 0

    def chain_hash(self, stream: StreamId) -> bytes:
        """Chain hash at `received`."""
        held = self.streams.get(stream)
        return held.chain_hash if held else chain_start(stream)

    def positions_at(self, stream: StreamId, offset: int) -> tuple[tuple[StreamId, int], ...]:
        """How far the commit at an offset brought a stream and its origin's others of the domain, without audit."""
        found = []
        for lane in (Lane.CONTROL, Lane.STATE, Lane.TELEMETRY):
            sibling = StreamId(stream.domain, stream.origin, lane)
            held = self.streams.get(sibling)
            last = held.index.last_at(offset) if held is not None else None
            if last is not None:
                found.append((sibling, last))
        return tuple(found)

    def wants_evidence(self, refused: event_pb2.Run) -> bool:
        """Tells whether a refused run is to be kept: not when it is held already, nor without bound."""
        held = self.evidence.get(stream_from_message(refused.stream))
        if held is None:
            return len(self.evidence) < MAX_EVIDENCE_STREAMS
        return len(held) < MAX_EVIDENCE_A_STREAM and refused.seal.chain_hash not in held

    def refused_runs(self, stream: StreamId) -> int:
        """Runs of a stream that were refused at receipt and that nobody has decided to discard."""
        return sum(not run.discarded for run in self.evidence.get(stream, {}).values())

    def limit(self, stream: StreamId) -> Limit | None:
        """How far a stream counts; None: it does not end."""
        return self.grounds.limit(stream)

    def own_incarnation(self) -> int:
        """The highest incarnation this log holds of its own controller; 0 when it wrote nothing yet."""
        return max(
            (s.origin.incarnation for s in self.streams if s.origin.controller == self.controller),
            default=0,
        )

    def control_offsets_within(self, first: int, last: int) -> frozenset[int]:
        """Of the commits from `first` to `last`, the offsets of those that hold events of the control lane."""
        offsets = self.control_offsets
        return frozenset(offsets[bisect_left(offsets, first) : bisect_right(offsets, last)])

    def subjects_of(self, domain: str, kind: str) -> Iterator[str]:
        """Subjects of one kind ("nodes", "policies", …) something was written of in a domain."""
        return iter(self.table.subjects.get((domain, kind), ()))

    def subjects_everywhere(self, kind: str) -> Iterator[tuple[str, str]]:
        """Subjects of one kind in all domains: (domain, subject)."""
        for (domain, its_kind), subjects in list(self.table.subjects.items()):
            if its_kind == kind:
                for subject in subjects:
                    yield domain, subject

    def admissions_due(self, own_domain: str) -> list[tuple[Key, authority_pb2.Admission]]:
        """Admissions the controller of `own_domain` owes for events that came before it knew whose they were."""
        return [
            (admission_key(stream.domain, record), record)
            for stream, waiting in self.admissions.unadmitted.items()
            if stands_above(
                self.authority, own_domain, self.keys.domain_of(stream.origin.controller), stream
            )
            for record in waiting
        ]

    def take_over(self, other: State) -> None:
        """Becomes what another state of the same controller holds, which is not to be used any more."""
        vars(self).update(vars(other))

    # Folding.

    def apply(
        self,
        offset: int,
        commit: event_pb2.Commit,
        prepared: dict[tuple[StreamId, int], ReceivedRun] | None = None,
    ) -> Applied:
        """Takes in the commit at `offset`. `prepared` holds runs this process decoded already, by (stream, first).

        Raises `CorruptLog` when offsets or stream numbers are not dense.
        """
        if offset != self.next_offset:
            raise CorruptLog(f"commit {offset} follows {self.next_offset - 1}")
        applied = Applied(offset)
        for run in commit.runs:
            stream = stream_from_message(run.stream)
            ready = prepared.get((stream, run.first_sequence)) if prepared else None
            if ready is None:
                ready = self._decode(stream, run)
            self._take(stream, run, ready, commit, applied)
        for refused in commit.quarantined:
            self._keep_evidence(refused, commit, applied)
        self.next_offset = offset + 1
        self.clock = max(self.clock, commit.clock)
        return applied

    def _keep_evidence(
        self, refused: event_pb2.QuarantinedRun, commit: event_pb2.Commit, applied: Applied
    ) -> None:
        run = refused.run
        stream = stream_from_message(run.stream)
        chain_hash = run.seal.chain_hash
        self.evidence.setdefault(stream, {})[chain_hash] = RefusedRun(
            refused.reason,
            refused.peer,
            applied.offset,
            commit.time_ms,
            run.first_sequence,
            run.seal.sequence,
            sum(map(len, run.events)),
            any(
                d.discards and d.chain_hash == chain_hash
                for d in self.grounds.bounds.decisions(stream)
            ),
        )
        applied.quarantined.append((stream, refused.reason))

    def _decode(self, stream: StreamId, run: event_pb2.Run) -> ReceivedRun:
        events = run.events[:]
        try:
            return ReceivedRun(run.seal, self.decoder.decode_run(stream, run, events), False)
        except InvalidWrite:
            writes = [
                self._decode_one(stream, n, e) for n, e in enumerate(events, run.first_sequence)
            ]
            return ReceivedRun(run.seal, writes, verified=False)

    def _decode_one(self, stream: StreamId, sequence: int, raw: bytes) -> Write | None:
        try:
            return self.decoder.decode(stream, sequence, raw)
        except InvalidWrite:
            return None

    def _take(
        self,
        stream: StreamId,
        run: event_pb2.Run,
        ready: ReceivedRun,
        commit: event_pb2.Commit,
        applied: Applied,
    ) -> None:
        offset = applied.offset
        state = self.streams.get(stream)
        if state is None:
            state = self.streams[stream] = StreamState(0, chain_start(stream))
        if run.first_sequence != state.received + 1:
            raise CorruptLog(f"run of {stream} at {run.first_sequence} follows {state.received}")
        follows = state.chain_hash
        state.received = run.seal.sequence
        state.chain_hash = run.seal.chain_hash
        kinds: dict[str, int] = {}
        for write in ready.writes:
            kind = ASPECTS[write[4]][2] if write is not None else "message"
            kinds[kind] = kinds.get(kind, 0) + 1
        state.index.add(state.received, offset, commit.time_ms, kinds)
        if self.grounds.bounds.concern(stream):
            ready = ready.kept(run.events, follows)
        state.waiting.append(ready)
        if stream.origin.controller != self.controller:
            self.admissions.note_ahead(
                stream, run.seal.chain_hash, ready.writes, commit.time_ms, commit.clock
            )
        applied.streams.add(stream)
        control = self.control_offsets
        if stream.lane is Lane.CONTROL and not (control and control[-1] == offset):
            control.append(offset)
        self._advance(stream, state, offset, applied)
        if state.waiting and state.waiting[-1] is ready:
            state.waiting[-1] = ready.kept(run.events, follows)
        while self._judge_again:
            self._judge_again = False
            for blocked in sorted(self.blocked, key=lambda s: (s.lane, s)):
                self._advance(blocked, self.streams[blocked], offset, applied)

    def _advance(self, stream: StreamId, state: StreamState, offset: int, applied: Applied) -> None:
        """Brings into effect what may, in the stream's order."""
        waiting = state.waiting
        if not waiting:
            return
        told, state.quarantine_reason = state.quarantine_reason, ""
        while waiting:
            verdict = self._run_into_effect(stream, state, waiting[0], offset, applied)
            state.waiting_reason = verdict.reason
            if verdict.outcome is not Outcome.ACCEPTED:
                break
            waiting.popleft()
        else:
            self.blocked.discard(stream)
            return
        self.blocked.add(stream)
        if verdict.outcome is Outcome.QUARANTINED:
            state.quarantine_reason = verdict.reason
            if verdict.reason != told:
                applied.quarantined.append((stream, verdict.reason))
            if verdict.reason in FINAL_REASONS:
                waiting.clear()
                self.blocked.discard(stream)

    def _run_into_effect(
        self,
        stream: StreamId,
        state: StreamState,
        run: ReceivedRun,
        offset: int,
        applied: Applied,
    ) -> Verdict:
        if self.grounds.bounds.concern(stream):
            return self._bounded_into_effect(stream, state, run, offset, applied)
        done = state.applied + len(run.writes) - run.seal.sequence
        own = stream[1][0] == self.controller
        if not own:
            verdict = self._judge(stream, state, run, done)
            if verdict is not ACCEPTED:
                return verdict
        writes = run.writes[done:] if done else run.writes
        return self._bring_into_effect(stream, state, run, writes, own, offset, applied)

    def _judge(self, stream: StreamId, state: StreamState, run: ReceivedRun, done: int) -> Verdict:
        """Judges a run from the event `done` of it on by the key that sealed it."""
        verdict = judge_run(
            stream,
            run.seal,
            run.writes[done],
            state.applied + 1,
            self.keys,
            self.authority,
            verified=run.verified,
        )
        if verdict.outcome is not Outcome.ACCEPTED:
            return verdict
        state.note_key(run.seal.key_id)
        return ACCEPTED

    def _bounded_into_effect(
        self,
        stream: StreamId,
        state: StreamState,
        run: ReceivedRun,
        offset: int,
        applied: Applied,
    ) -> Verdict:
        """As `_run_into_effect`, for a stream that ends, or on whose events there are decisions."""
        own = stream[1][0] == self.controller
        last = run.seal.sequence
        before = last - len(run.writes)
        while state.applied < last:
            at = state.applied
            part = self.grounds.next_part(stream, state, run)
            verdict = part.verdict
            if verdict is ACCEPTED and part.skipped:
                state.pass_over(part.last)
                continue
            if verdict is ACCEPTED and part.vouched:
                state.note_key("")
            elif verdict is ACCEPTED and not own:
                verdict = self._judge(stream, state, run, at - before)
            if verdict is ACCEPTED:
                writes = run.writes[at - before : part.last - before]
                verdict = self._bring_into_effect(stream, state, run, writes, own, offset, applied)
            if verdict is not ACCEPTED:
                return verdict
        return ACCEPTED

    def _bring_into_effect(
        self,
        stream: StreamId,
        state: StreamState,
        run: ReceivedRun,
        writes: Sequence[Write | None],
        own: bool,
        offset: int,
        applied: Applied,
    ) -> Verdict:
        control = stream[2] is Lane.CONTROL
        term = self.authority.term_of(stream[0])
        merge_in = self._merge
        for write in writes:
            if write is not None:
                if not own and (control or write[6] > term):
                    verdict = judge_event(stream, write, run.seal, self.keys, self.authority)
                    if verdict.outcome is not Outcome.ACCEPTED:
                        return verdict
                state.applied += 1
                merge_in(stream, write, offset, applied)
            else:
                state.applied += 1
        return ACCEPTED

    def _merge(self, stream: StreamId, write: Write, offset: int, applied: Applied) -> None:
        aspect = write[4]
        if aspect == "audit":
            item = as_audit_item((stream, write[1], write[11]))
            self.audits.append(item)
            self.audits_seen += 1
            applied.audits.append(item)
            return
        key = as_key((stream[0], write[3], aspect))
        if aspect in TRANSITION_ASPECTS:
            applied.transitions.append((key, write))
        aspects = self.table.aspects_to_change(key[0], key[1])
        held = aspects.get(aspect)
        if held is None:
            aspects[aspect] = (write,)
        else:
            siblings = merge(held, write)
            if siblings is held:
                self._note_covered(stream, key, write, held, offset, applied)
                return
            aspects[aspect] = siblings
            if len(held) > 1 or len(siblings) > 1:
                self.conflicts.saw_rivals(key, rivals_of(key, siblings, self.rank))
        if write[10]:
            self.conflicts.saw_resolution(key, write, held or (), self._is_applied)
        applied.keys.append(key)
        if write[7]:
            self.requests.note(write[8], write[7], write[3], aspect, stream, write[1], offset)
        if ASPECTS[aspect][1] and write[6] < self.authority.term_of(key[0]):
            self._note_superseded(key, write, applied)
        if stream[2] is Lane.CONTROL:
            self._control(stream, key, write, applied)
        elif aspect == "conflict":
            self._note_conflict_record(write)

    def _note_covered(
        self,
        stream: StreamId,
        key: Key,
        write: Write,
        held: Siblings,
        offset: int,
        applied: Applied,
    ) -> None:
        """A write came after one that had seen it. Its value counts no more; what it says beside its value does."""
        self.conflicts.saw_covered(key, write)
        if write.resolves:
            self.conflicts.saw_resolution(key, write, held, self._is_applied)
        if write.request_id:
            self.requests.note(
                write.principal,
                write.request_id,
                write.subject,
                write.aspect,
                stream,
                write.sequence,
                offset,
            )
        if write.aspect in ACCUMULATING_ASPECTS:
            self._control(stream, key, write, applied)

    def _note_superseded(self, key: Key, write: Write, applied: Applied) -> None:
        """A superseded master's write is late when it was made after its successor's mastership began; what it wrote
        before that may arrive at any time.
        """
        if write.optimistic or key.aspect == "authority":
            return
        term = self.authority.term_of(key.domain)
        if self.authority.rank_term(
            key.domain, write
        ) < term and write.stamp > self.mastery_began.get(key.domain, 0):
            applied.superseded.append((key, write))

    def _is_applied(self, key: Key, dot: Dot) -> bool:
        lane = ASPECTS[key.aspect].lane
        stream = self.streams.get(StreamId(key.domain, dot.origin, lane))
        return stream is not None and dot.sequence <= stream.applied

    def _note_conflict_record(self, write: Write) -> None:
        record = write.body()
        key = Key(record.domain, record.subject, record.aspect)
        dots = tuple(Dot(Origin(s.controller, s.incarnation), s.sequence) for s in record.siblings)
        self.conflicts.saw_record(record.conflict_id, key, write, dots)

    def _control(self, stream: StreamId, key: Key, write: Write, applied: Applied) -> None:
        """Facts that others rest on. Waiting streams are judged again once the run at hand is through: one of them
        may be the very stream this fact came in.
        """
        aspect = write.aspect
        if aspect == "admission":
            capped = self.admissions.put(stream.domain, write.body())
            self._rivals_may_turn(capped, applied)
            return
        if aspect == "authority":
            self._put_authority(key, applied)
        elif aspect == "key_grant":
            self.keys.put(write.body())
        elif aspect == "genesis":
            adopt_genesis(write, stream, self.keys, self.authority)
        elif aspect in BOUNDING_ASPECTS:
            self._bound(stream, write)
        else:
            return
        applied.authority_changed = True
        self._judge_again = True

    def _bound(self, stream: StreamId, write: Write) -> None:
        """A fact of `BOUNDING_ASPECTS` came into effect. One's own word on oneself counts for nothing here, either."""
        if (
            write.aspect in RULING_ASPECTS
            and judge_ruling(stream, write, self.keys, self.authority) is not ACCEPTED
        ):
            return
        aspect, body = write.aspect, write.body()
        self.grounds.take(aspect, body)
        if aspect == "run_decision" and body.ruling == authority_pb2.RULING_DISCARD:
            refused = self.evidence.get(decided_stream(body), {})
            if body.chain_hash in refused:
                refused[body.chain_hash] = refused[body.chain_hash]._replace(discarded=True)

    def _put_authority(self, key: Key, applied: Applied) -> None:
        winner = self.winner(key)
        if winner is None:
            return
        record = winner.body()
        before = self.authority.records.get(record.domain)
        if before is None or before.since != record.since:
            self.mastery_began[record.domain] = winner.stamp
        self.authority.put(record)
        applied.keys.extend(
            open_key
            for open_key in self.conflicts.open_keys
            if self.authority.is_within(open_key.domain, record.domain)
        )

    def _rivals_may_turn(self, capped: StreamId, applied: Applied) -> None:
        """An admission may change who wins where rivals stand; among them may be records of authority."""
        for key in self.conflicts.open_keys:
            if key.domain == capped.domain and ASPECTS[key.aspect].lane is capped.lane:
                applied.keys.append(key)
        authority = Key(capped.domain, f"domains/{capped.domain}", "authority")
        if authority in self.conflicts.open_keys and capped.lane is Lane.CONTROL:
            self._put_authority(authority, applied)
            applied.authority_changed = True
            self._judge_again = True
