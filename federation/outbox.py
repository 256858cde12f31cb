"""What of the log a peer still lacks, and in which frames it goes out. Owns cursors over the log, joining of runs and
stream numbers of the sending direction; never reads the log itself (a driver hands commits in).

Two cursors run over the log: one for the control lane, which overtakes, and one for everything. Runs of a stream
that stand in one reading are joined into one, which keeps the last seal: a thousand one-event commits travel as one
run with one signature to verify. Event bytes are never touched.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from federation.codec import stream_from_message, stream_to_message
from federation.identifiers import Lane, StreamId
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2

#: Joined runs are cut at this size: half the largest run a receiver takes, so that one more commit's run still fits.
MAX_JOINED_BYTES = 256 * 1024

#: Runs in one frame: small runs of many streams weigh more in names and seals than in events.
MAX_RUNS_A_FRAME = 512

#: Events in one joined run unless the sync strategy says otherwise: at 380 bytes an event, the size limit's equal.
DEFAULT_BATCH_EVENTS = 2000


@dataclass(frozen=True, slots=True)
class LogReading:
    """Where the driver is to read commits; `control_only` says which of their runs count."""

    first_offset: int
    control_only: bool


@dataclass(slots=True)
class _Joined:
    stream: StreamId
    first_sequence: int
    seal: event_pb2.Seal
    events: list[bytes] = field(default_factory=list)
    size: int = 0


class Outbox:
    """The sending direction of one session."""

    def __init__(self, state: State, wanted: Callable[[StreamId], bool], batch_events: int) -> None:
        self.sent: dict[StreamId, int] = {}
        self.ready: deque[tuple[sync_pb2.Frame, int]] = deque()
        self.interned: list[StreamId] = []
        self._index: dict[StreamId, int] = {}
        self._state = state
        self._wanted = wanted
        self._batch_events = batch_events or DEFAULT_BATCH_EVENTS
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
            if sent >= held.received or not self._wanted(stream):
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
        return not self.ready and self._cursor >= end and self._control_position() >= end

    def next_reading(self) -> LogReading | None:
        """What to read next: control ahead of the rest; None when all was read."""
        end = self._state.next_offset
        control = self._control_position()
        if control < end and control > self._cursor:
            self._control_cursor = control
            return LogReading(control, control_only=True)
        if self._cursor < end:
            return LogReading(self._cursor, control_only=False)
        return None

    def take(self, reading: LogReading, commits: Iterable[event_pb2.Commit]) -> None:
        """Turns what was read into frames, and moves the cursors past it, unless `reposition` moved them meanwhile."""
        joined: dict[StreamId, _Joined] = {}
        control_only, control = reading.control_only, int(Lane.CONTROL)
        next_offset = reading.first_offset
        for commit in commits:
            next_offset = commit.offset + 1
            for run in commit.runs:
                if control_only and run.stream.lane != control:
                    continue
                self._join(run, joined)
        for stream in list(joined):
            self._flush(joined, stream)
        if not reading.control_only and self._cursor == reading.first_offset:
            self._cursor = next_offset
        if reading.first_offset <= self._control_cursor < next_offset:
            self._control_cursor = next_offset

    def _control_position(self) -> int:
        """Offset of the next commit with control runs; the log's end when there is none."""
        offsets = self._state.control_offsets
        at = bisect_left(offsets, self._control_cursor)
        return offsets[at] if at < len(offsets) else self._state.next_offset

    def _join(self, run: event_pb2.Run, joined: dict[StreamId, _Joined]) -> None:
        stream = stream_from_message(run.stream)
        sent = self.sent.get(stream, 0)
        if run.seal.sequence <= sent or not self._wanted(stream):
            return
        if run.first_sequence > sent + 1:
            return  # Wanted since a moment ago: `reposition` comes back for it from its first event on.
        events = list(run.events)
        first = run.first_sequence
        if first <= sent:
            events = events[sent + 1 - first :]
            first = sent + 1
        size = sum(map(len, events))
        held = joined.get(stream)
        if held is not None and (
            held.size + size > MAX_JOINED_BYTES
            or len(held.events) + len(events) > self._batch_events
        ):
            self._flush(joined, stream)
            held = None
        if held is None:
            held = joined[stream] = _Joined(stream, first, run.seal)
        held.events += events
        held.size += size
        held.seal = run.seal
        self.sent[stream] = run.seal.sequence

    def _flush(self, joined: dict[StreamId, _Joined], stream: StreamId) -> None:
        done = joined.pop(stream)
        interns = []
        index = self._index.get(stream)
        if index is None:
            index = self._index[stream] = len(self.interned)
            self.interned.append(stream)
            interns.append(sync_pb2.StreamIntern(index=index, stream=stream_to_message(stream)))
        run = sync_pb2.InternedRun(
            stream_index=index,
            first_sequence=done.first_sequence,
            events=done.events,
            seal=done.seal,
        )
        last = self.ready[-1] if self.ready else None
        if (
            last is not None
            and last[1] + done.size <= MAX_JOINED_BYTES
            and len(last[0].runs.runs) < MAX_RUNS_A_FRAME
        ):
            last[0].runs.runs.append(run)
            last[0].runs.interns.extend(interns)
            self.ready[-1] = (last[0], last[1] + done.size)
        else:
            frame = sync_pb2.Frame(runs=sync_pb2.Runs(interns=interns, runs=[run]))
            self.ready.append((frame, done.size))
