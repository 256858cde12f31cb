"""Makes a state from the parts of a checkpoint. Owns the reading of what `checkpoint` wrote; changes no part.

The subjects of the table are the store's to bring back; everything else is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from federation.applied import AuditItem
from federation.bounds import Foreknown
from federation.codec import stream_from_message
from federation.conflicts import DueConflict
from federation.errors import CorruptStore, InvalidWrite
from federation.identifiers import Dot, Key, StreamId
from federation.requests import RequestOutcome
from federation.state import State
from federation.stored_writes import unpack_writes
from federation.streams import ReceivedRun, RefusedRun, StreamState
from souverix.checkpoint.v1 import checkpoint_pb2 as stored
from souverix.federation.v1 import authority_pb2


def restore(state: State, parts: Mapping[str, bytes]) -> dict[StreamId, int]:
    """Fills a fresh state; returns the numbers that the parts' names give to streams. Raises `CorruptStore`."""
    try:
        return _Restoring(state, parts).run()
    except (DecodeError, InvalidWrite, KeyError, ValueError, IndexError) as error:
        raise CorruptStore(f"a part of the checkpoint cannot be read: {error}") from error


class _Restoring:
    def __init__(self, state: State, parts: Mapping[str, bytes]) -> None:
        self._state = state
        self._parts = parts
        self._kinds: dict[str, list[str]] = {}
        for name in sorted(parts):
            self._kinds.setdefault(name.partition("/")[0], []).append(name)

    def run(self) -> dict[StreamId, int]:
        state = self._state
        position = stored.Position.FromString(self._parts["position"])
        state.next_offset, state.clock = position.next_offset, position.clock
        self._authorities()
        numbers = self._streams()
        for part in self._each("index", stored.StreamIndexPart):
            index = state.streams[stream_from_message(part.stream)].index
            if len(index) != part.first:
                raise CorruptStore(f"runs from {part.first} follow {len(index)} of a stream")
            counts = (each.events for each in part.counts)
            index.extend([part.last_sequence, part.offset, part.time_ms, *counts])
        for part in self._each("control", stored.ControlOffsetsPart):
            state.control_offsets.extend(part.offsets)
        self._admissions()
        self._conflicts()
        self._requests()
        self._audits()
        return numbers

    def _each(self, kind: str, message: Any) -> Iterable[Any]:
        """The parts of one kind, in the order of their names."""
        for name in self._kinds.get(kind, ()):
            yield message.FromString(self._parts[name])

    def _authorities(self) -> None:
        state = self._state
        for part in self._each("authority", stored.Authorities):
            for record in part.records:
                kept = authority_pb2.AuthorityRecord()
                kept.CopyFrom(record)
                state.authority.put(kept)
            state.mastery_began.update(part.mastery_began)
            for grant in part.grants:
                state.keys.put(grant)
            for succession in part.successions:
                state.keys.succeed(succession)
            state.grounds.foreknow(_bounds(part.foreknown))
            state.grounds.restore(_bounds(part.bounds), outdated=part.outdated)

    def _streams(self) -> dict[StreamId, int]:
        state = self._state
        numbers = {}
        for name in self._kinds.get("stream", ()):
            part = stored.StreamPosition.FromString(self._parts[name])
            stream = stream_from_message(part.stream)
            numbers[stream] = int(name.partition("/")[2])
            state.streams[stream] = StreamState(
                part.received,
                part.chain_hash,
                part.applied,
                waiting_reason=part.waiting_reason,
                quarantine_reason=part.quarantine_reason,
                keys=[(each.first_sequence, each.key_id) for each in part.keys],
                skipped=[(each.first_sequence, each.last_sequence) for each in part.skipped],
            )
            if part.blocked:
                state.blocked.add(stream)
        for run in self._each("waiting", stored.WaitingRun):
            self._wait(run)
        for part in self._each("evidence", stored.AllEvidence):
            for each in part.streams:
                state.evidence[stream_from_message(each.stream)] = {
                    run.chain_hash: RefusedRun(
                        run.reason,
                        run.peer,
                        run.offset,
                        run.time_ms,
                        run.first_sequence,
                        run.last_sequence,
                        run.size_bytes,
                        run.discarded,
                    )
                    for run in each.runs
                }
        return numbers

    def _wait(self, run: stored.WaitingRun) -> None:
        stream = stream_from_message(run.stream)
        first = run.seal.sequence - len(run.events) + 1
        writes = [
            self._state.decoder.decode(stream, sequence, raw)
            for sequence, raw in enumerate(run.events, first)
        ]
        waiting = self._state.streams[stream].waiting
        waiting.append(ReceivedRun(run.seal, writes, run.verified, run.follows, tuple(run.events)))

    def _admissions(self) -> None:
        admissions = self._state.admissions
        for every in self._each("admissions", stored.AllAdmissions):
            for part in every.streams:
                stream = stream_from_message(part.stream)
                if part.ranges:
                    admissions.ranges[stream] = [
                        (each.first_sequence, each.last_sequence, each.received_stamp)
                        for each in part.ranges
                    ]
                if part.unadmitted:
                    admissions.unadmitted[stream] = list(part.unadmitted)

    def _conflicts(self) -> None:
        conflicts, decoder = self._state.conflicts, self._state.decoder
        for part in self._each("recorded", stored.RecordedConflict):
            [write] = unpack_writes(part.record, decoder)
            conflicts.saw_record(
                part.key.conflict_id, _key(part.key), write, self._dots(write.body().siblings)
            )
        for part in self._each("due", stored.DueConflict):
            siblings = unpack_writes(part.siblings, decoder)
            conflicts.restore_due(
                DueConflict(
                    _key(part.key),
                    part.key.conflict_id,
                    self._dots(part.dots),
                    {write.dot: write for write in siblings},
                    set(self._dots(part.gone)),
                )
            )
        for part in self._each("open", stored.OpenConflicts):
            for key in part.keys:
                conflicts.open_keys[_key(key)] = key.conflict_id

    def _requests(self) -> None:
        requests = self._state.requests
        for part in self._each("requests", stored.RequestsPart):
            if not requests.seen:
                requests.forgotten = part.first
            streams = [stream_from_message(stream) for stream in part.streams]
            for each in part.requests:
                stream = streams[each.stream]
                outcome = RequestOutcome(
                    each.subject, each.aspect, stream, each.sequence, each.offset
                )
                requests.restore(each.digest, outcome)

    def _audits(self) -> None:
        state = self._state
        for part in self._each("audit", stored.AuditPart):
            if not state.audits:
                state.audits_seen = part.first
            streams = [stream_from_message(stream) for stream in part.streams]
            for each in part.entries:
                state.audits.append(AuditItem(streams[each.origin], each.sequence, each.event))
            state.audits_seen += len(part.entries)

    def _dots(self, messages: Iterable[Any]) -> tuple[Dot, ...]:
        origin = self._state.decoder.origin
        return tuple(Dot(origin(m.controller, m.incarnation), m.sequence) for m in messages)


def _bounds(part: stored.Bounds) -> Foreknown:
    known = Foreknown()
    for aspect, bodies in (
        ("stream_sealed", part.sealed),
        ("run_decision", part.decisions),
        ("key_succession", part.successions),
    ):
        for body in bodies:
            known.add(aspect, body.SerializeToString(deterministic=True))
    known.contradicted.update(stream_from_message(stream) for stream in part.contradicted)
    return known


def _key(key: stored.ConflictKey) -> Key:
    return Key(key.domain, key.subject, key.aspect)
