"""Times and spans in requests: refused before any handler sees them where they are none. Owns the look into messages;
what a time means is the handler's.

Protobuf carries any number of seconds; its own conversions fail on those that are no time. New fields are covered by
themselves: they are found by their type.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from federation.errors import InvalidWrite

#: What a Timestamp may hold: the years 1 to 9999.
MIN_SECONDS, MAX_SECONDS = -62_135_596_800, 253_402_300_799

#: What a Duration may hold, either way: ten thousand years.
MAX_SPAN_SECONDS = 315_576_000_000

MAX_NANOS = 999_999_999

_TIMESTAMP = "google.protobuf.Timestamp"
_DURATION = "google.protobuf.Duration"


def check_times(request: Message) -> None:
    """Refuses a request with a Timestamp or Duration that is out of range, however deep. Raises `InvalidWrite`."""
    fields = _fields_with_times(request.DESCRIPTOR)
    if fields:
        _check(request, fields, "")


def _check(message: Any, fields: tuple[tuple[str, str, bool], ...], path: str) -> None:
    for name, kind, is_repeated in fields:
        if is_repeated:
            values = list(getattr(message, name))
        else:
            values = [getattr(message, name)] if message.HasField(name) else []
        for value in values:
            if kind == _TIMESTAMP:
                if not (
                    MIN_SECONDS <= value.seconds <= MAX_SECONDS and 0 <= value.nanos <= MAX_NANOS
                ):
                    _refuse(f"{path}{name}", "time between the years 1 and 9999")
            elif kind == _DURATION:
                if not _is_span(value.seconds, value.nanos):
                    _refuse(f"{path}{name}", "duration of at most 10,000 years")
            else:
                _check(value, _fields_with_times(value.DESCRIPTOR), f"{path}{name}.")


def _is_span(seconds: int, nanos: int) -> bool:
    """Both parts have one sign."""
    within = abs(seconds) <= MAX_SPAN_SECONDS and abs(nanos) <= MAX_NANOS
    return within and not (seconds < 0 < nanos or nanos < 0 < seconds)


def _refuse(field: str, what: str) -> None:
    raise InvalidWrite(f"{field} is no {what}", field=field)


@cache
def _fields_with_times(kind: Descriptor) -> tuple[tuple[str, str, bool], ...]:
    """Name, type and whether it is repeated, of the fields that are times or may hold some."""
    found = []
    for field in kind.fields:
        inner = field.message_type
        if inner is None or inner.GetOptions().map_entry or not _holds_times(inner):
            continue
        found.append((field.name, inner.full_name, field.is_repeated))
    return tuple(found)


@cache
def _holds_times(kind: Descriptor) -> bool:
    seen, left = {kind.full_name}, [kind]
    while left:
        at = left.pop()
        if at.full_name in (_TIMESTAMP, _DURATION):
            return True
        for field in at.fields:
            inner = field.message_type
            if inner is not None and inner.full_name not in seen:
                seen.add(inner.full_name)
                left.append(inner)
    return False
