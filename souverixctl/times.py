"""Times and durations as people read and write them.

Owns ages ("17h"), durations ("3.75h"), exact times, and the reading of durations and times. Never asks the
clock: the present time comes in.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from souverixctl.errors import BadInput

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
# From this many of a unit on, it reads better than the next smaller one.
_AGE_UNITS = (("d", 86400.0, 2.0), ("h", 3600.0, 1.0), ("m", 60.0, 1.0), ("s", 1.0, 0.0))
_DURATION_UNITS = (("d", 86400.0, 2.0), ("h", 3600.0, 1.0), ("m", 60.0, 1.0), ("s", 1.0, 1.0))
# google.protobuf.Duration holds about ten thousand years; a century is more than anyone means.
MAX_DURATION_S = 100 * 365 * 86400.0

NOTHING = "-"
_CLOCK_COUNTER_BITS = 16


def parse_duration(text: str) -> Duration:
    """Reads "17h", "3.75h", "1h30m", "250ms", "2d". Raises BadInput."""
    given = text.strip().lower()
    if not _DURATION.fullmatch(given):
        raise BadInput(
            f"{text!r} is not a duration",
            "write a number with a unit (ms, s, m, h, d), such as 90s, 5m, 3.75h or 1h30m",
        )
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(given))
    if seconds > MAX_DURATION_S:
        raise BadInput(f"{text!r} is more than a century", "write a shorter duration")
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def parse_time(text: str, now: datetime) -> Timestamp:
    """A time as written, or a duration before now. Raises BadInput."""
    time = Timestamp()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = now - timedelta(seconds=seconds_of(parse_duration(text)))
        except BadInput as error:
            raise BadInput(
                f"{text!r} is neither a time nor a duration",
                "write a time such as 2026-02-27T03:45:00Z, or how long ago, such as 2h",
            ) from error
    time.FromDatetime(moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC))
    return time


def seconds_of(duration: Duration) -> float:
    """Seconds of a protobuf duration."""
    return duration.seconds + duration.nanos / 1e9


def show_duration(seconds: float) -> str:
    """A duration in its best unit, at most two decimals: "250ms", "45s", "3.75h", "2.5d"."""
    if seconds < 0:
        return f"-{show_duration(-seconds)}"
    if seconds == 0:
        return "0"
    for unit, size_s, least in _DURATION_UNITS:
        if seconds / size_s >= least:
            return f"{_trim(seconds / size_s)}{unit}"
    return f"{_trim(seconds * 1000)}ms"


def show_age(time: Timestamp | None, now: datetime) -> str:
    """How long ago, in whole units: "17h". A time ahead of `now` reads "in 5m"; none reads "-"."""
    if time is None or not (time.seconds or time.nanos):
        return NOTHING
    seconds = now.timestamp() - (time.seconds + time.nanos / 1e9)
    # Clocks differ by a little: less than a second ahead is the present.
    return f"in {_whole(-seconds)}" if seconds <= -1 else _whole(max(seconds, 0.0))


def show_exact(time: Timestamp) -> str:
    """The time in UTC, as RFC 3339 with milliseconds at most."""
    moment = datetime.fromtimestamp(time.seconds, UTC) + timedelta(microseconds=time.nanos // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").replace(".000Z", "Z")


def clock_time(stamp: int) -> Timestamp:
    """The wall part of a hybrid clock: milliseconds since the epoch above 16 bits of counter."""
    milliseconds = stamp >> _CLOCK_COUNTER_BITS
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def _whole(seconds: float) -> str:
    unit, size_s, _ = next(each for each in _AGE_UNITS if seconds / each[1] >= each[2])
    return f"{int(seconds / size_s)}{unit}"


def _trim(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
