"""Any message as indented lines: the long form of `describe`.

Owns how each kind of field reads. Works from the message's descriptor, so a field added to the
contract shows without a change here; never decides what is worth showing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from souverixctl.output import clean
from souverixctl.times import (
    clock_time,
    seconds_of,
    show_age,
    show_duration,
    show_exact,
)

INDENT = "  "


def enum_word(descriptor: Any, number: int) -> str:
    """The value's name without the enum's: LIVE for CONNECTIVITY_MODE_LIVE; "" when unspecified."""
    if number == 0:
        return ""
    value = descriptor.values_by_number.get(number)
    if value is None:
        return str(number)
    zero = descriptor.values_by_number.get(0)
    prefix = zero.name.removesuffix("UNSPECIFIED") if zero is not None else ""
    return str(value.name).removeprefix(prefix)


def field_word(message: Message, field: str) -> str:
    """The word of an enum field of a message."""
    descriptor = message.DESCRIPTOR.fields_by_name[field].enum_type
    if descriptor is None:
        raise TypeError(f"{field} is no enum")
    return enum_word(descriptor, getattr(message, field))


def describe(message: Message, now: datetime, depth: int = 0) -> Iterator[str]:
    """Lines "label: value", nested messages indented. Times have age and exact time."""
    pad = INDENT * depth
    for field, value in message.ListFields():
        label = field.name.replace("_", " ")
        if _is_map(field):
            yield f"{pad}{label}:"
            for key in sorted(value):
                yield from _field(clean(str(key)), _map_value(field), value[key], now, depth + 1)
        elif field.is_repeated:
            yield from _list(label, field, value, now, depth)
        else:
            yield from _field(label, field, value, now, depth)


def time_text(time: Timestamp, now: datetime) -> str:
    """A time as age with the exact time: "17h ago (2026-02-27T03:45:00Z)"."""
    age = show_age(time, now)
    return f"{age if age.startswith('in ') else f'{age} ago'} ({show_exact(time)})"


def _list(
    label: str, field: FieldDescriptor, values: Any, now: datetime, depth: int
) -> Iterator[str]:
    pad = INDENT * depth
    scalars = [_scalar(field, value, now) for value in values]
    if all(text is not None for text in scalars):
        separator = "." if label in {"term", "term path", "since"} else ", "
        yield f"{pad}{label}: {separator.join(str(text) for text in scalars)}"
        return
    yield f"{pad}{label}:"
    for value in values:
        lines = list(_nested(value, now, depth + 2))
        first = lines[0].lstrip() if lines else "(empty)"
        yield f"{pad}{INDENT}- {first}"
        yield from lines[1:]


def _field(
    label: str, field: FieldDescriptor, value: Any, now: datetime, depth: int
) -> Iterator[str]:
    pad = INDENT * depth
    text = _scalar(field, value, now)
    if text is not None:
        yield f"{pad}{label}: {text}"
        return
    yield f"{pad}{label}:"
    yield from _nested(value, now, depth + 1)


def _nested(value: Message, now: datetime, depth: int) -> Iterator[str]:
    if isinstance(value, (Struct, Value, ListValue)):
        text = yaml.safe_dump(
            _whole_numbers(MessageToDict(value)), sort_keys=False, allow_unicode=True
        )
        for line in text.removesuffix("...\n").splitlines():
            yield f"{INDENT * depth}{clean(line)}"
    else:
        yield from describe(value, now, depth)


def _scalar(field: FieldDescriptor, value: Any, now: datetime) -> str | None:
    """The value as one line; None when it takes several."""
    if isinstance(value, Timestamp):
        return time_text(value, now)
    if isinstance(value, Duration):
        return show_duration(seconds_of(value))
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return None
    if field.enum_type is not None:
        return enum_word(field.enum_type, value) or "unknown"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return value.hex() if len(value) <= 32 else f"{len(value)} bytes"
    if field.type == FieldDescriptor.TYPE_FIXED64:  # in the contract, always a hybrid clock
        return time_text(clock_time(value), now)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "yes" if value else "no"
    return clean(str(value))


def _whole_numbers(value: Any) -> Any:
    """The document with 3 for 3.0: a Struct knows floating point only, people wrote integers."""
    if isinstance(value, dict):
        return {key: _whole_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry


def _map_value(field: FieldDescriptor) -> FieldDescriptor:
    if field.message_type is None:
        raise TypeError(f"{field.name} is no map")
    return field.message_type.fields_by_name["value"]
