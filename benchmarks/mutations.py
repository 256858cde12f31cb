"""Faults put into bytes by chance. Owns the kinds of faults; the same seed makes the same ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

#: Most faults in one piece of data: with many more it is refused by its first bytes, and nothing further is tried.
MAX_FAULTS = 3

#: Longest piece that is dropped, repeated or moved.
MAX_PIECE = 64

#: What parsers stumble over: brackets and numbers of JSON, lengths of protobuf and DER beyond what follows.
SPLINTERS = (
    b"{",
    b"[",
    b'"',
    b"\\",
    b"\x00",
    b"\xff",
    b"null",
    b"1e999",
    b"-",
    b",",
    b'{"a":',
    b"\xff\xff\xff\xff\x7f",
    b"\x80" * 10,
    b"\x30\x84\xff\xff\xff\xff",
    b"\x0a\xff\xff\xff\xff\x0f",
)

#: How often a splinter is put in a row: deep nesting is what the last stands for.
REPEATS = (1, 2, 500)


def mutated(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The data with one to `MAX_FAULTS` faults; `others` lend pieces of theirs."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, MAX_FAULTS)):
        _spoil(chance, changed, others)
    return bytes(changed)


def _spoil(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    length = chance.randint(1, MAX_PIECE)
    match chance.randrange(8):
        case 0 | 1 if at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        case 2 if at < len(data):
            data[at] = chance.randrange(256)
        case 3:
            del data[at : at + length]
        case 4:
            data[at:at] = chance.choice(SPLINTERS) * chance.choice(REPEATS)
        case 5:
            data[at:at] = data[at : at + length]
        case 6:
            other = chance.choice(others)
            start = chance.randrange(len(other))
            data[at : at + length] = other[start : start + length]
        case _:
            del data[at:]
