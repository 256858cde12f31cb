"""Requests made by chance: any message of the contract, from its descriptor alone, and its bytes spoiled now and then.
Owns what is tried; sends nothing. The same chance and vocabulary make the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

#: Levels of messages within messages that are filled; documents (`Struct`) go deeper, see `_nested`.
MAX_LEVELS = 5

#: Words kept of each field, from what the controller answered.
MAX_WORDS = 40

#: Longest word that is worth being said again: ids, names, tokens, digests.
MAX_WORD_CHARACTERS = 600

HOSTILE_TEXTS = (
    "",
    " ",
    "/",
    "-",
    ".",
    "*",
    "..",
    "nodes/",
    "nodes//x",
    "nodes/../../etc/passwd",
    "domains/x/policies/",
    "a\x00b",
    "\x1b[31m\r\n",
    "ünïcödé \N{SNOWMAN} \U0010ffff",
    "%s%n{0}",
    "'; DROP TABLE twins; --",
    "2.1.0-rc.1+build",
    "v99999999999999999999.0.0",
    "=== >= < OR AND NOT (",
    "AAAA",
    "eyJhIjoxfQ==",
    "0" * 64,
)

INT_EDGES = (0, 1, -1, 2, 100, 1000, 1001, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**64 - 1)

FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1e308,
    -1e308,
    5e-324,
    float("inf"),
    -float("inf"),
    float("nan"),
)

#: (bits, signed) of the integer types.
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (32, True),
    FieldDescriptor.TYPE_SINT32: (32, True),
    FieldDescriptor.TYPE_SFIXED32: (32, True),
    FieldDescriptor.TYPE_UINT32: (32, False),
    FieldDescriptor.TYPE_FIXED32: (32, False),
    FieldDescriptor.TYPE_INT64: (64, True),
    FieldDescriptor.TYPE_SINT64: (64, True),
    FieldDescriptor.TYPE_SFIXED64: (64, True),
    FieldDescriptor.TYPE_UINT64: (64, False),
    FieldDescriptor.TYPE_FIXED64: (64, False),
}


class Vocabulary:
    """Words that mean something to the controller: given ones for every field, learnt ones for fields of that name."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = list(words)
        self._learnt: dict[str, list[str]] = {}

    def learn(self, message: Message) -> None:
        """Keeps the texts of an answer by the names of their fields; `next_page_token` is good as `page_token`."""
        for field, value in message.ListFields():
            values = value if field.is_repeated else [value]
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                if not _is_map(field):
                    for inner in values[:3]:
                        self.learn(inner)
            elif field.type == FieldDescriptor.TYPE_STRING:
                held = self._learnt.setdefault(field.name.removeprefix("next_"), [])
                for word in values[:3]:
                    if word not in held and len(word) <= MAX_WORD_CHARACTERS:
                        held.append(word)
                        del held[:-MAX_WORDS]

    def word(self, chance: random.Random, field: str) -> str:
        """A word that may fit a field."""
        learnt = self._learnt.get(field)
        return chance.choice(learnt if learnt and chance.random() < 0.6 else self._words)


class RequestMaker:
    """Makes one request after another by chance."""

    def __init__(self, chance: random.Random, vocabulary: Vocabulary) -> None:
        self._chance = chance
        self._vocabulary = vocabulary
        #: The request holds nothing but what an honest client might say: it gets further.
        self._honest = False

    def request(self, kind: Descriptor) -> bytes:
        """The bytes of a request, most often of a valid message."""
        self._honest = self._chance.random() < 0.4
        data: bytes = self.message(kind).SerializeToString()
        if self._honest or self._chance.random() < 0.8:
            return data
        return self._chance.choice(SPOILERS)(self._chance, kind, data)

    def message(self, kind: Descriptor, level: int = 0) -> Any:
        """A message with some of its fields set."""
        made: Any = message_factory.GetMessageClass(kind)()
        if kind.full_name in _SPECIAL:
            if not self._honest:
                _SPECIAL[kind.full_name](self._chance, made)
            return made
        share = self._chance.choice((0.2, 0.5, 0.8)) if level == 0 else 0.4
        for field in kind.fields:
            if self._chance.random() < share:
                self._set(made, field, level)
        return made

    def _set(self, made: Any, field: Any, level: int) -> None:
        if _is_map(field):
            self._fill_map(getattr(made, field.name), field)
        elif field.is_repeated:
            count = self._chance.choice((1, 1, 2, 3))
            if level == 0 and not self._honest and self._chance.random() < 0.1:
                count = 600
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                if level < MAX_LEVELS:
                    one = self.message(field.message_type, level + 1)
                    getattr(made, field.name).extend([one] * count)
            else:
                getattr(made, field.name).extend([self._scalar(field) for _ in range(count)])
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if level < MAX_LEVELS:
                getattr(made, field.name).CopyFrom(self.message(field.message_type, level + 1))
        else:
            setattr(made, field.name, self._scalar(field))

    def _fill_map(self, held: Any, field: Any) -> None:
        key, value = (
            field.message_type.fields_by_name["key"],
            field.message_type.fields_by_name["value"],
        )
        for _ in range(self._chance.choice((1, 2, 70))):
            if value.type == FieldDescriptor.TYPE_MESSAGE:
                held[self._scalar(key)].CopyFrom(self.message(value.message_type, MAX_LEVELS))
            else:
                held[self._scalar(key)] = self._scalar(value)

    def _scalar(self, field: Any) -> Any:
        chance = self._chance
        if self._honest and field.type in _INTEGERS:
            return chance.randint(0, 20)
        if field.type in _INTEGERS:
            bits, signed = _INTEGERS[field.type]
            least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
            fitting = [edge for edge in INT_EDGES if least <= edge <= most]
            return chance.choice([*fitting, chance.randint(least, most), chance.randint(0, 20)])
        if field.type == FieldDescriptor.TYPE_BOOL:
            return chance.random() < 0.5
        if field.type == FieldDescriptor.TYPE_ENUM:
            known = [value.number for value in field.enum_type.values]
            return chance.choice(known if self._honest else [*known, -1, 99, 2**31 - 1])
        if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            return chance.choice(
                [*FLOATS, chance.uniform(-1e6, 1e6)][: None if field.type == 1 else 5]
            )
        if field.type == FieldDescriptor.TYPE_BYTES:
            return chance.randbytes(chance.choice((0, 1, 16, 32, 70_000)))
        return self._text(field.name)

    def _text(self, field: str) -> str:
        chance = self._chance
        drawn = chance.random()
        if self._honest or drawn < 0.7:
            return self._vocabulary.word(chance, field)
        if drawn < 0.9:
            return chance.choice(HOSTILE_TEXTS)
        if drawn < 0.97:
            word = self._vocabulary.word(chance, field)
            at = chance.randrange(len(word) + 1)
            return (
                word[:at]
                + chance.choice(("", "x", "/", "\n", "é", "0"))
                + word[at + chance.randrange(2) :]
            )
        return chance.choice("xé/-") * chance.choice((64, 129, 5_000, 300_000))


def _is_map(field: Any) -> bool:
    return bool(
        field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type.GetOptions().map_entry
    )


# Messages with a meaning of their own.


def _time(chance: random.Random, made: Any) -> None:
    seconds = (0, 1, -1, 30, 3600, 1_700_000_000, 253_402_300_799, 253_402_300_800, 2**62, -(2**62))
    made.seconds = chance.choice(seconds)
    made.nanos = chance.choice((0, 0, 0, 1, 999_999_999, 10**9, -1, 2**31 - 1, -(2**31)))


def _mask(chance: random.Random, made: Any) -> None:
    paths = (
        "*",
        "",
        "spec",
        "desired_state",
        "spec.version",
        "no.such.field",
        "name",
        "a..b",
        "é",
        "spec.",
    )
    made.paths.extend(chance.choices(paths, k=chance.choice((0, 1, 1, 2, 500))))


def _document(chance: random.Random, made: Any) -> None:
    for _ in range(chance.choice((0, 1, 2, 5, 300))):
        key = chance.choice(("a", "b.c", "", "x" * 300, "é", "log", "nan"))
        value = made.fields[key]
        kind = chance.randrange(6)
        if kind == 0:
            value.number_value = chance.choice(FLOATS)
        elif kind == 1:
            value.string_value = chance.choice(HOSTILE_TEXTS)
        elif kind == 2:
            value.list_value.values.add(bool_value=True)
        elif kind == 3:
            inner = value
            for _ in range(chance.choice((1, 8, 15, 20))):
                inner = inner.struct_value.fields["n"]
        elif kind == 4:
            value.null_value = 0


_SPECIAL: dict[str, Callable[[random.Random, Any], None]] = {
    "google.protobuf.Timestamp": _time,
    "google.protobuf.Duration": _time,
    "google.protobuf.FieldMask": _mask,
    "google.protobuf.Struct": _document,
}


# Bytes that are no message, or not quite.


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _delimited(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _flip(chance: random.Random, kind: Descriptor, data: bytes) -> bytes:
    spoiled = bytearray(data or b"\0")
    for _ in range(chance.choice((1, 1, 3))):
        spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
    return bytes(spoiled)


def _cut(chance: random.Random, kind: Descriptor, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _insert(chance: random.Random, kind: Descriptor, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.randbytes(chance.choice((1, 4, 40))) + data[at:]


def _repeat(chance: random.Random, kind: Descriptor, data: bytes) -> bytes:
    return data * chance.choice((2, 3, 9))


def _no_utf8(chance: random.Random, kind: Descriptor, data: bytes) -> bytes:
    texts = [f.number for f in kind.fields if f.type == FieldDescriptor.TYPE_STRING] or [1]
    return data + _delimited(chance.choice(texts), b"a\xff\xfe\xc3(")


def _unknown(chance: random.Random, kind: Descriptor, data: bytes) -> bytes:
    number = chance.choice((99, 19_000, 2**29 - 1))
    return (
        data + _delimited(number, chance.randbytes(20)) + _varint(number << 3) + _varint(2**64 - 1)
    )


def _nested(chance: random.Random, kind: Descriptor, data: bytes) -> bytes:
    """One message field, nested as deep as no honest client would; parsers stop at a hundred levels."""
    fields = [f.number for f in kind.fields if f.type == FieldDescriptor.TYPE_MESSAGE] or [1]
    inner = b""
    for _ in range(chance.choice((50, 98, 150, 3_000))):
        # A Struct's field 1 is a map entry, whose field 2 is a Value, whose field 5 is a Struct.
        inner = _delimited(5, _delimited(1, _delimited(1, b"n") + _delimited(2, inner)))
    return data + _delimited(chance.choice(fields), inner)


SPOILERS = (_flip, _cut, _insert, _repeat, _no_utf8, _unknown, _nested)
