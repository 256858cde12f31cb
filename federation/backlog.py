"""Where each stream's events stand in the log, and how many of which kind. Owns positions only, no bytes.

An entry a run: the number of its last event, the offset of its commit, and running counts by backlog kind. Arrays
keep it at 40 bytes an entry, so that fifty thousand one-event commits cost two megabytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from federation.codec import BACKLOG_KINDS
from federation.identifiers import StreamId


class StreamIndex:
    """Positions of one stream's runs, in order."""

    __slots__ = ("_counts", "_last", "_offset", "_time_ms")

    def __init__(self) -> None:
        self._last = array("Q")
        self._offset = array("Q")
        self._time_ms = array("Q")
        self._counts = {kind: array("Q") for kind in BACKLOG_KINDS}

    def add(self, last_sequence: int, offset: int, time_ms: int, kinds: Mapping[str, int]) -> None:
        """Takes note of a run that a commit holds."""
        self._last.append(last_sequence)
        self._offset.append(offset)
        self._time_ms.append(time_ms)
        for kind, counts in self._counts.items():
            counts.append((counts[-1] if counts else 0) + kinds.get(kind, 0))

    def __len__(self) -> int:
        return len(self._last)

    def columns(self, first: int, end: int) -> tuple[Sequence[int], ...]:
        """Runs from `first` to before `end` (places from 0): last numbers, offsets, times, then counts by kind."""
        held = (self._last, self._offset, self._time_ms, *self._counts.values())
        return tuple(column[first:end] for column in held)

    def extend(self, columns: Sequence[Sequence[int]]) -> None:
        """Appends runs as `columns` gave them."""
        held = (self._last, self._offset, self._time_ms, *self._counts.values())
        for column, further in zip(held, columns, strict=True):
            column.extend(further)

    def offset_of(self, sequence: int) -> int | None:
        """Offset of the commit that holds an event; None when it is not held."""
        at = bisect_left(self._last, sequence)
        return self._offset[at] if at < len(self._last) else None

    def last_at(self, offset: int) -> int | None:
        """Number of the last event that the commit at an offset holds; None when it holds none."""
        at = bisect_right(self._offset, offset) - 1
        return self._last[at] if at >= 0 and self._offset[at] == offset else None

    def last_before(self, time_ms: int) -> int:
        """Number of the last event whose commit was made here before a time; 0 when there is none. A clock that was set
        back makes it lower, never higher.
        """
        last = 0
        for sequence, at in zip(self._last, self._time_ms, strict=True):
            if at >= time_ms:
                break
            last = sequence
        return last

    def time_ms_of(self, sequence: int) -> int | None:
        """When the commit that holds an event was made here; None when it is not held."""
        at = bisect_left(self._last, sequence)
        return self._time_ms[at] if at < len(self._last) else None

    def counts_after(self, sequence: int) -> dict[str, int]:
        """Events beyond a sealed position, by kind."""
        at = bisect_right(self._last, sequence)
        if at >= len(self._last):
            return dict.fromkeys(BACKLOG_KINDS, 0)
        return {
            kind: counts[-1] - (counts[at - 1] if at else 0)
            for kind, counts in self._counts.items()
        }


@dataclass(frozen=True, slots=True)
class SyncDebt:
    """How far a peer is behind (seed 2): time and backlog by kind, with an estimate where a rate was measured."""

    behind_ms: int
    events: int
    by_kind: Mapping[str, int]
    rate_events_per_s: float
    #: None: level, or no rate measured.
    estimated_duration_ms: int | None


#: Weight of the newest sample in the measured rate: follows a change within some ten samples, and rides out bursts.
RATE_SMOOTHING = 0.2


class RateMeter:
    """Events a second that a peer acknowledges, smoothed. Time comes in as an argument."""

    __slots__ = ("_last_ms", "rate_events_per_s")

    def __init__(self) -> None:
        self._last_ms: int | None = None
        self.rate_events_per_s = 0.0

    def add(self, events: int, now_ms: int) -> None:
        """Takes note of acknowledged events."""
        if self._last_ms is not None and now_ms > self._last_ms and events > 0:
            sample = events * 1000 / (now_ms - self._last_ms)
            if self.rate_events_per_s == 0.0:
                self.rate_events_per_s = sample
            else:
                self.rate_events_per_s += RATE_SMOOTHING * (sample - self.rate_events_per_s)
        self._last_ms = now_ms


def sync_debt(
    oldest_ms: int | None, by_kind: Mapping[str, int], rate_events_per_s: float, now_ms: int
) -> SyncDebt:
    """The debt of a peer whose oldest unacknowledged event was committed at `oldest_ms` (None: it is level)."""
    events = sum(by_kind.values())
    if oldest_ms is None or events == 0:
        return SyncDebt(0, 0, dict.fromkeys(BACKLOG_KINDS, 0), rate_events_per_s, None)
    duration = int(events * 1000 / rate_events_per_s) if rate_events_per_s > 0 else None
    return SyncDebt(max(0, now_ms - oldest_ms), events, dict(by_kind), rate_events_per_s, duration)


class Held(Protocol):
    """What the debt needs of a stream that is held here."""

    @property
    def received(self) -> int:
        """Number of its last event."""

    @property
    def index(self) -> StreamIndex:
        """When its events were committed, and of which kinds they are."""


def debt_of(
    streams: Mapping[StreamId, Held],
    acked: Mapping[StreamId, int],
    is_sent: Callable[[StreamId], bool],
    rate_events_per_s: float,
    now_ms: int,
) -> SyncDebt:
    """The debt of a peer that acknowledged so much of the streams that are sent to it."""
    oldest: int | None = None
    by_kind = dict.fromkeys(BACKLOG_KINDS, 0)
    for stream, held in streams.items():
        done = acked.get(stream, 0)
        if done >= held.received or not is_sent(stream):
            continue
        for kind, count in held.index.counts_after(done).items():
            by_kind[kind] += count
        time_ms = held.index.time_ms_of(done + 1)
        if time_ms is not None and (oldest is None or time_ms < oldest):
            oldest = time_ms
    return sync_debt(oldest, by_kind, rate_events_per_s, now_ms)
