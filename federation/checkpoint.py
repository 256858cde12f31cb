"""The state of the core beside its table, as named parts that a store keeps. Owns which parts there are and which of
them a commit changed; stores nothing itself (`restoring` makes a state of them).

What grows with the log (positions of runs, requests, audit entries) is cut into parts that fill up one after another,
so that a checkpoint writes what is new and the last part again, not everything. Invariant: a state restored from the
parts and the subjects, and the commits after them, are together what a replay of the whole log gives (design §13, I13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from federation.applied import Applied, AuditItem
from federation.bounds import Foreknown
from federation.codec import dot_to_message, stream_to_message
from federation.conflicts import DueConflict
from federation.identifiers import Key, StreamId
from federation.requests import RememberedRequests
from federation.state import State
from federation.stored_writes import pack_writes
from federation.streams import StreamState
from souverix.checkpoint.v1 import checkpoint_pb2 as stored

#: Entries in one part: the last part is written again with each checkpoint, some ten kilobytes on average.
RUNS_A_PART = 512
OFFSETS_A_PART = 4_096
REQUESTS_A_PART = 256
AUDITS_A_PART = 64


class Parts(NamedTuple):
    """What changed since the checkpoint before."""

    #: By name.
    put: dict[str, bytes]
    #: By name, parts that are copied already and only to be encoded, which any thread may do.
    encode: dict[str, Callable[[], bytes]]
    #: Names of parts that are no more.
    dropped: list[str]


class CheckpointRecorder:
    """Follows a state commit by commit, and gives what of it changed."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._numbers: dict[StreamId, int] = {}
        self._changed: set[StreamId] = set(state.streams)
        self._indexed: dict[StreamId, int] = {}
        self._waiting: dict[StreamId, set[int]] = {}
        self._blocked: frozenset[StreamId] = frozenset()
        self._authority_changed = True
        self._evidence_changed = bool(state.evidence)
        self._admissions = b""
        self._offsets = 0
        self._records = 0
        self._due: dict[str, tuple[int, int]] = {}
        self._open: dict[Key, str] = {}
        self._requests = 0
        self._requests_dropped = 0
        self._audits = 0
        self._audits_dropped = 0

    def take_note(self, applied: Applied) -> None:
        """Follows one commit, after it was applied."""
        self._changed |= applied.streams
        self._changed |= self._blocked
        self._blocked = frozenset(self._state.blocked)
        self._authority_changed |= applied.authority_changed
        if applied.quarantined:
            self._evidence_changed = True
            self._changed.update(stream for stream, _ in applied.quarantined)

    def is_stored(self, numbers: dict[StreamId, int]) -> None:
        """The state was made from parts just now: nothing of it is new. `numbers` are those of the parts' names."""
        state = self._state
        self._numbers = numbers
        self._changed.clear()
        self._indexed = {stream: len(held.index) for stream, held in state.streams.items()}
        self._waiting = {
            stream: {run.seal.sequence for run in held.waiting}
            for stream, held in state.streams.items()
            if held.waiting
        }
        self._blocked = frozenset(state.blocked)
        self._authority_changed = self._evidence_changed = False
        self._admissions = _admissions(state)
        self._offsets = len(state.control_offsets)
        self._records = state.conflicts.records_seen
        self._due = {i: _fill(due) for i, due in state.conflicts.due.items()}
        self._open = dict(state.conflicts.open_keys)
        self._requests = state.requests.seen
        self._requests_dropped = state.requests.forgotten // REQUESTS_A_PART
        self._audits = state.audits_seen
        self._audits_dropped = (state.audits_seen - len(state.audits)) // AUDITS_A_PART

    def changed(self) -> Parts:
        """What changed since this was asked last."""
        state = self._state
        parts = Parts({}, {}, [])
        position = stored.Position(next_offset=state.next_offset, clock=state.clock)
        parts.put["position"] = position.SerializeToString()
        for stream in self._changed:
            held = state.streams.get(stream)
            if held is not None:
                self._put_stream(parts, stream, held)
        self._changed.clear()
        if self._authority_changed:
            # A decision may be on evidence.
            self._evidence_changed = self._evidence_changed or bool(state.evidence)
            parts.put["authority"] = _authorities(state)
        if self._evidence_changed:
            parts.put["evidence"] = _evidence(state)
        self._authority_changed = self._evidence_changed = False
        admissions = _admissions(state)
        if admissions != self._admissions:
            self._admissions = parts.put["admissions"] = admissions
        self._put_control_offsets(parts)
        self._put_conflicts(parts)
        self._put_requests(parts)
        self._put_audits(parts)
        return parts

    def _put_stream(self, parts: Parts, stream: StreamId, held: StreamState) -> None:
        number = self._numbers.setdefault(stream, len(self._numbers))
        parts.put[f"stream/{number:08}"] = stored.StreamPosition(
            stream=stream_to_message(stream),
            received=held.received,
            chain_hash=held.chain_hash,
            applied=held.applied,
            waiting_reason=held.waiting_reason,
            quarantine_reason=held.quarantine_reason,
            blocked=stream in self._state.blocked,
            keys=[stored.KeyUse(first_sequence=n, key_id=key_id) for n, key_id in held.keys],
            skipped=[
                stored.SkippedEvents(first_sequence=first, last_sequence=last)
                for first, last in held.skipped
            ],
        ).SerializeToString()
        self._put_waiting(parts, stream, held, number)
        end = len(held.index)
        for first in _firsts(self._indexed.get(stream, 0), end, RUNS_A_PART):
            columns = held.index.columns(first, min(end, first + RUNS_A_PART))
            name = f"index/{number:08}/{first:012}"
            parts.encode[name] = partial(_index_part, stream, first, columns)
        self._indexed[stream] = end

    def _put_waiting(self, parts: Parts, stream: StreamId, held: StreamState, number: int) -> None:
        before = self._waiting.pop(stream, set())
        if not held.waiting and not before:
            return
        now = {run.seal.sequence: run for run in held.waiting}
        for sequence, run in now.items():
            if sequence not in before:
                parts.put[f"waiting/{number:08}/{sequence:012}"] = stored.WaitingRun(
                    stream=stream_to_message(stream),
                    seal=run.seal,
                    events=run.events,
                    verified=run.verified,
                    follows=run.follows,
                ).SerializeToString()
        parts.dropped.extend(f"waiting/{number:08}/{s:012}" for s in before - now.keys())
        if now:
            self._waiting[stream] = set(now)

    def _put_control_offsets(self, parts: Parts) -> None:
        offsets = self._state.control_offsets
        for first in _firsts(self._offsets, len(offsets), OFFSETS_A_PART):
            parts.put[f"control/{first:012}"] = stored.ControlOffsetsPart(
                first=first, offsets=offsets[first : first + OFFSETS_A_PART]
            ).SerializeToString()
        self._offsets = len(offsets)

    def _put_conflicts(self, parts: Parts) -> None:
        conflicts = self._state.conflicts
        fresh = conflicts.records_seen - self._records
        for conflict_id in islice(reversed(conflicts.recorded), fresh):
            key, write = conflicts.recorded[conflict_id]
            parts.put[f"recorded/{conflict_id}"] = stored.RecordedConflict(
                key=_conflict_key(conflict_id, key), record=pack_writes([write])
            ).SerializeToString()
        self._records = conflicts.records_seen
        now = {conflict_id: _fill(due) for conflict_id, due in conflicts.due.items()}
        if now != self._due:
            for conflict_id, fill in now.items():
                if self._due.get(conflict_id) != fill:
                    parts.put[f"due/{conflict_id}"] = _due_part(conflicts.due[conflict_id])
            parts.dropped.extend(f"due/{i}" for i in self._due.keys() - now.keys())
            self._due = now
        if conflicts.open_keys != self._open:
            self._open = dict(conflicts.open_keys)
            keys = [_conflict_key(i, key) for key, i in self._open.items()]
            parts.put["open"] = stored.OpenConflicts(keys=keys).SerializeToString()

    def _put_requests(self, parts: Parts) -> None:
        requests = self._state.requests
        if requests.seen == self._requests:
            return
        begin = max(self._requests // REQUESTS_A_PART * REQUESTS_A_PART, requests.forgotten)
        entries = requests.packed(requests.seen - begin)
        for first, end in _cuts(begin, requests.seen, REQUESTS_A_PART):
            some = entries[first - begin : end - begin]
            name = f"requests/{first // REQUESTS_A_PART:012}"
            parts.encode[name] = partial(_requests_part, requests, first, some)
        self._requests = requests.seen
        gone = requests.forgotten // REQUESTS_A_PART
        parts.dropped.extend(f"requests/{n:012}" for n in range(self._requests_dropped, gone))
        self._requests_dropped = gone

    def _put_audits(self, parts: Parts) -> None:
        seen, held = self._state.audits_seen, self._state.audits
        if seen == self._audits:
            return
        forgotten = seen - len(held)
        begin = max(self._audits // AUDITS_A_PART * AUDITS_A_PART, forgotten)
        entries = [*islice(reversed(held), seen - begin)][::-1]
        for first, end in _cuts(begin, seen, AUDITS_A_PART):
            some = entries[first - begin : end - begin]
            name = f"audit/{first // AUDITS_A_PART:012}"
            parts.encode[name] = partial(_audit_part, first, some)
        self._audits = seen
        gone = forgotten // AUDITS_A_PART
        parts.dropped.extend(f"audit/{n:012}" for n in range(self._audits_dropped, gone))
        self._audits_dropped = gone


def _firsts(written: int, end: int, size: int) -> range:
    """First places of the parts that hold what lies between `written` and `end`."""
    return range(written // size * size, end, size) if end > written else range(0)


def _cuts(begin: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """From `begin` to `end`, cut at multiples of `size`."""
    while begin < end:
        cut = min(end, (begin // size + 1) * size)
        yield begin, cut
        begin = cut


def _number(numbers: dict[StreamId, int], streams: Any, stream: StreamId) -> int:
    number = numbers.get(stream)
    if number is None:
        number = numbers[stream] = len(numbers)
        streams.append(stream_to_message(stream))
    return number


def _index_part(stream: StreamId, first: int, columns: Sequence[Sequence[int]]) -> bytes:
    last, offset, time_ms, *counts = columns
    return stored.StreamIndexPart(
        stream=stream_to_message(stream),
        first=first,
        last_sequence=last,
        offset=offset,
        time_ms=time_ms,
        counts=[stored.RunningCounts(events=each) for each in counts],
    ).SerializeToString()


def _requests_part(
    requests: RememberedRequests, first: int, entries: Sequence[tuple[bytes, bytes]]
) -> bytes:
    part = stored.RequestsPart(first=first)
    numbers: dict[StreamId, int] = {}
    for digest, packed in entries:
        outcome = requests.unpacked(packed)
        part.requests.add(
            digest=digest,
            subject=outcome.subject,
            aspect=outcome.aspect,
            stream=_number(numbers, part.streams, outcome.stream),
            sequence=outcome.sequence,
            offset=outcome.offset,
        )
    return part.SerializeToString()


def _audit_part(first: int, entries: Sequence[AuditItem]) -> bytes:
    part = stored.AuditPart(first=first)
    numbers: dict[StreamId, int] = {}
    for stream, sequence, raw in entries:
        number = _number(numbers, part.streams, stream)
        part.entries.add(origin=number, sequence=sequence, event=raw)
    return part.SerializeToString()


def _authorities(state: State) -> bytes:
    return stored.Authorities(
        records=state.authority.records.values(),
        mastery_began=state.mastery_began,
        grants=state.keys.grants(),
        successions=state.keys.successions(),
        bounds=_bounds(state.grounds.knows),
        foreknown=_bounds(state.grounds.foreknown),
        outdated=state.grounds.outdated,
    ).SerializeToString()


def _bounds(known: Foreknown) -> stored.Bounds:
    return stored.Bounds(
        sealed=known.sealed(),
        decisions=known.decisions(),
        successions=known.successions(),
        contradicted=[stream_to_message(stream) for stream in sorted(known.contradicted)],
    )


def _evidence(state: State) -> bytes:
    return stored.AllEvidence(
        streams=[
            stored.Evidence(
                stream=stream_to_message(stream),
                runs=[
                    stored.RefusedRun(chain_hash=chain_hash, **run._asdict())
                    for chain_hash, run in runs.items()
                ],
            )
            for stream, runs in state.evidence.items()
        ]
    ).SerializeToString()


def _admissions(state: State) -> bytes:
    ranges, unadmitted = state.admissions.ranges, state.admissions.unadmitted
    every = stored.AllAdmissions()
    for stream in dict.fromkeys([*ranges, *unadmitted]):
        part = every.streams.add(stream=stream_to_message(stream))
        part.unadmitted.extend(unadmitted.get(stream, ()))
        for first, last, stamp in ranges.get(stream, ()):
            part.ranges.add(first_sequence=first, last_sequence=last, received_stamp=stamp)
    return every.SerializeToString()


def _conflict_key(conflict_id: str, key: Key) -> stored.ConflictKey:
    return stored.ConflictKey(
        conflict_id=conflict_id, domain=key.domain, subject=key.subject, aspect=key.aspect
    )


def _fill(due: DueConflict) -> tuple[int, int]:
    """Grows with all that a due conflict takes in."""
    return len(due.siblings), len(due.gone)


def _due_part(due: DueConflict) -> bytes:
    return stored.DueConflict(
        key=_conflict_key(due.conflict_id, due.key),
        dots=[dot_to_message(dot) for dot in due.dots],
        siblings=pack_writes(due.siblings.values()),
        gone=[dot_to_message(dot) for dot in sorted(due.gone)],
    ).SerializeToString()
