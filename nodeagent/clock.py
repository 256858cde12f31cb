"""The agent's two clocks: one that only runs forward, and one that tells the date.

Owns how time is read and how it becomes a protobuf Timestamp. Everything else is handed a Clock, so that tests
set the time. Inside the agent, dates are whole microseconds since 1970 (`_us`), spans are seconds (`_s`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

US_PER_S = 1_000_000


def _system_wall_us() -> int:
    return time.time_ns() // 1_000


@dataclass(frozen=True, slots=True)
class Clock:
    """Two ways to read the time, as functions."""

    monotonic_s: Callable[[], float] = time.monotonic
    wall_us: Callable[[], int] = _system_wall_us


def timestamp(wall_us: int) -> Timestamp:
    """The date as a protobuf Timestamp."""
    message = Timestamp()
    message.FromMicroseconds(wall_us)
    return message


def duration(span_s: float) -> Duration:
    """The span as a protobuf Duration, to the microsecond."""
    message = Duration()
    message.FromMicroseconds(round(span_s * US_PER_S))
    return message


def span_s(message: Duration) -> float:
    """The span of a protobuf Duration in seconds."""
    return message.seconds + message.nanos / 1e9
