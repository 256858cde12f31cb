"""What of the log a peer still lacks, and in which frames it goes out. Owns cursors over the log, joining of runs and
stream numbers of the sending direction; never reads the log itself (a driver hands commits in).

Control overtakes. What a reading holds of the other lanes is put by until no more control lies ahead in the log; of it
only a little goes out meanwhile, so that the line is not idle. When so much is put by that memory bounds it, a second
cursor goes ahead for control alone, and the rest is read again in its turn.

Runs of a stream that stand in one reading are joined into one, which keeps the last seal: a thousand one-event commits
travel as one run with one signature to verify. A run lies within one key's range. Event bytes are never touched.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from federation.codec import stream_from_message, stream_to_message
from federation.identifiers import Lane, StreamId
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2

#: Joined runs are cut at this size: half the largest run a receiver takes, so that one more commit's run still fits.
MAX_JOINED_BYTES = 256 * 1024

#: Runs in one frame: small runs of many streams weigh more in names and seals than in events.
MAX_RUNS_A_FRAME = 512

#: Bytes of other lanes under way at most while control still lies ahead: half a peer's credit, what the peer takes in
#: while the next part of the log is read, and what an urgent fact waits for on a slow line.
LEAD_BYTES = 1024 * 1024

#: Size at which joined runs may be cut again. After control was sent in the midst of a backlog facts are being stated,
#: and each waits for what is under way: the backlog goes out in parts then, one at a time. A part is some ten
#: milliseconds of a receiver's work.
PART_BYTES = 32 * 1024

#: Commits between the next control fact and what is read next from which on it is fetched by itself: many more than lie
#: between two in a log that holds control everywhere, where reading on is as quick.
FAR_COMMITS = 256

#: Events in one joined run unless the sync strategy says otherwise: at 380 bytes an event, the size limit's equal.
DEFAULT_BATCH_EVENTS = 2000


@dataclass(frozen=True, slots=True)
class LogReading:
    """Where the driver is to read commits; `control_only` says which of their runs count."""

    first_offset: int
    control_only: bool


class _Cut(NamedTuple):
    """Where a joined run may be cut: how many of its events stand before, their bytes, and the seal of the last."""

    events: int
    size: int
    seal: event_pb2.Seal


@dataclass(slots=True)
class _Joined:
    """Consecutive events of one stream, under the seal of the last."""

    stream: StreamId
    first_sequence: int
    seal: event_pb2.Seal
    events: list[bytes] = field(default_factory=list)
    size: int = 0
    #: At least `PART_BYTES` apart, in order.
    cuts: list[_Cut] = field(default_factory=list)

    def append(self, events: list[bytes], size: int, seal: event_pb2.Seal) -> None:
        """Joins what follows, which ends at a seal."""
        if self.size - (self.cuts[-1].size if self.cuts else 0) >= PART_BYTES:
            self.cuts.append(_Cut(len(self.events), self.size, self.seal))
        self.events += events
        self.size += size
        self.seal = seal

    def take_part(self) -> _Joined:
        """Takes the first part out, up to the first cut; what is left follows it."""
        cut = self.cuts.pop(0)
        part = _Joined(
            self.stream, self.first_sequence, cut.seal, self.events[: cut.events], cut.size
        )
        self.first_sequence += cut.events
        self.events = self.events[cut.events :]
        self.size -= cut.size
        self.cuts = [_Cut(c.events - cut.events, c.size - cut.size, c.seal) for c in self.cuts]
        return part


@dataclass(slots=True)
class _Queue:
    """Joined runs in the order in which they go out."""

    runs: deque[_Joined] = field(default_factory=deque)
    size: int = 0

    def put(self, run: _Joined) -> None:
        self.runs.append(run)
        self.size += run.size

    def next_frames_runs(self) -> list[_Joined]:
        """Takes out what fits into one frame, at least one run."""
        taken = [self.runs.popleft()]
        size = taken[0].size
        while (
            self.runs
            and size + self.runs[0].size <= MAX_JOINED_BYTES
            and len(taken) < MAX_RUNS_A_FRAME
        ):
            taken.append(self.runs.popleft())
            size += taken[-1].size
        self.size -= size
        return taken

    def next_part(self) -> list[_Joined]:
        """Takes out the first part of the first run, all of it where it cannot be cut."""
        first = self.runs[0]
        part = first.take_part() if first.cuts else self.runs.popleft()
        self.size -= part.size
        return [part]


class Outbox:
    """The sending direction of one session. Reading goes on until `max_put_by_bytes` of events are put by."""

    def __init__(
        self,
        state: State,
        wanted: Callable[[StreamId], bool],
        batch_events: int,
        max_put_by_bytes: int,
    ) -> None:
        self.sent: dict[StreamId, int] = {}
        self._ready = _Queue()
        self._put_by = _Queue()
        self._max_put_by_bytes = max_put_by_bytes
        self.interned: list[StreamId] = []
        self._index: dict[StreamId, int] = {}
        self._state = state
        self._wanted = wanted
        self._batch_events = batch_events or DEFAULT_BATCH_EVENTS
        self._live_from = state.next_offset
        self._control_cursor = state.next_offset
        self._cursor = state.next_offset

    def peer_holds(self, stream: StreamId, sequence: int) -> None:
        """Takes note that the peer has a stream up to here, so that it is not sent again."""
        if self.sent.get(stream, 0) < sequence:
            self.sent[stream] = sequence

    def reposition(self) -> None:
        """Moves the cursors back to the first event the peer lacks: at the start, and when it comes to want more."""
        for stream, held in self._state.streams.items():
            sent = self.sent.get(stream, 0)
            if sent >= held.received or sent >= self._last_sent(stream):
                continue
            offset = held.index.offset_of(sent + 1)
            if offset is None:
                continue
            self._cursor = min(self._cursor, offset)
            if stream.lane is Lane.CONTROL:
                self._control_cursor = min(self._control_cursor, offset)

    @property
    def exhausted(self) -> bool:
        """Tells whether all of the log was read and every frame taken."""
        end = self._state.next_offset
        return not (self._ready.runs or self._put_by.runs) and self._cursor >= end

    def next_frame(
        self, under_way_bytes: int, *, control_is_live: bool = False
    ) -> tuple[sync_pb2.Frame, int] | None:
        """The frame that is to go out next, with its bytes of events; None when there is none, or it is to wait for
        control that lies ahead or may be stated any moment. `under_way_bytes` were sent and are not acknowledged.
        """
        if self._ready.runs:
            return self._frame(self._ready.next_frames_runs())
        if not self._put_by.runs:
            return None
        if control_is_live:
            return None if under_way_bytes else self._frame(self._put_by.next_part())
        waits = under_way_bytes >= LEAD_BYTES and self._control_lies_ahead()
        return None if waits else self._frame(self._put_by.next_frames_runs())

    def next_reading(self) -> LogReading | None:
        """What to read next: control alone where too much of the rest is put by already; None when nothing is to be
        read now.
        """
        end = self._state.next_offset
        if self._ready.runs:
            return None
        control = self._control_position()
        may_put_by = self._cursor < end and self._put_by.size < self._max_put_by_bytes
        if control < end and (not may_put_by or control - self._cursor > FAR_COMMITS):
            self._control_cursor = control
            return LogReading(control, control_only=True)
        return LogReading(self._cursor, control_only=False) if may_put_by else None

    def take(self, reading: LogReading, commits: Sequence[event_pb2.Commit]) -> bool:
        """Turns what was read into frames, and moves the cursors past it, unless `reposition` moved them meanwhile.

        Tells whether control stated in the course of the session overtakes other events.
        """
        next_offset = commits[-1].offset + 1 if commits else reading.first_offset
        if not reading.control_only and self._cursor == reading.first_offset:
            self._cursor = next_offset
        if reading.first_offset <= self._control_cursor < next_offset:
            self._control_cursor = next_offset
        overtaking = bool(self._put_by.runs) or self._cursor < self._state.next_offset
        joined: dict[StreamId, _Joined] = {}
        lasts: dict[StreamId, float] = {}
        control_only, control = reading.control_only, int(Lane.CONTROL)
        for commit in commits:
            for run in commit.runs:
                if control_only and run.stream.lane != control:
                    continue
                stream = stream_from_message(run.stream)
                last = lasts.get(stream)
                if last is None:
                    last = lasts[stream] = self._last_sent(stream)
                self._join(stream, run, last, joined, overtaking)
        for stream in list(joined):
            self._flush(joined, stream, overtaking)
        behind = bool(self._put_by.runs) or self._cursor < self._state.next_offset
        return behind and bool(self._ready.runs) and next_offset > self._live_from

    def _control_lies_ahead(self) -> bool:
        return self._control_position() < self._state.next_offset

    def _control_position(self) -> int:
        """Offset of the next commit with control runs; the log's end when there is none."""
        offsets = self._state.control_offsets
        at = bisect_left(offsets, self._control_cursor)
        return offsets[at] if at < len(offsets) else self._state.next_offset

    def _last_sent(self, stream: StreamId) -> float:
        """Number of the last event of a stream that may go out, 0 for none: what follows the end of a stream is void,
        and a peer that knows it would refuse it.
        """
        if not self._wanted(stream):
            return 0
        limit = self._state.limit(stream)
        return math.inf if limit is None else limit.last

    def _join(
        self,
        stream: StreamId,
        run: event_pb2.Run,
        last: float,
        joined: dict[StreamId, _Joined],
        overtaking: bool,
    ) -> None:
        sent, seal, first = self.sent.get(stream, 0), run.seal, run.first_sequence
        sequence = seal.sequence
        if sequence <= sent or sent >= last:
            return
        if first > sent + 1:
            return  # Wanted since a moment ago: `reposition` comes back for it from its first event on.
        events = run.events[:]
        if first <= sent:
            events = events[sent + 1 - first :]
            first = sent + 1
        size = sum(map(len, events))
        held = joined.get(stream)
        if held is not None and (
            held.seal.key_id != seal.key_id
            or held.size + size > MAX_JOINED_BYTES
            or len(held.events) + len(events) > self._batch_events
        ):
            self._flush(joined, stream, overtaking)
            held = None
        if held is None:
            held = joined[stream] = _Joined(stream, first, seal)
        held.append(events, size, seal)
        self.sent[stream] = sequence

    def _flush(self, joined: dict[StreamId, _Joined], stream: StreamId, overtaking: bool) -> None:
        waits = overtaking and stream.lane is not Lane.CONTROL
        (self._put_by if waits else self._ready).put(joined.pop(stream))

    def _frame(self, joined: list[_Joined]) -> tuple[sync_pb2.Frame, int]:
        """A frame of runs, which names each stream in full where it is the first of this session."""
        frame = sync_pb2.Frame()
        for run in joined:
            index = self._index.get(run.stream)
            if index is None:
                index = self._index[run.stream] = len(self.interned)
                self.interned.append(run.stream)
                frame.runs.interns.add(index=index, stream=stream_to_message(run.stream))
            frame.runs.runs.add(
                stream_index=index,
                first_sequence=run.first_sequence,
                events=run.events,
                seal=run.seal,
            )
        return frame, sum(run.size for run in joined)
