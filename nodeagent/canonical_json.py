"""Canonical JSON: one spelling for one document, so that its hash means something (RFC 8785).

Owns the spelling and the way from a protobuf Struct to a document. Knows nothing of what documents say.
"""

from __future__ import annotations

import hashlib
import json
import math
from decimal import Decimal

from google.protobuf.struct_pb2 import Struct, Value

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

LARGEST_EXACT_INTEGER = 2**53 - 1
"""Beyond it a double cannot tell neighbours apart, and RFC 8785 numbers are doubles."""


def canonical_json(document: Json) -> bytes:
    """The document in canonical JSON, UTF-8.

    Raises ValueError for what has no such spelling: NaN, infinities, integers that a double cannot hold, lone
    surrogates.
    """
    return _spell(document).encode()


def sha256_digest(data: bytes) -> str:
    """The digest as the contract writes it: "sha256:" and 64 lower-case hex digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def document_of(struct: Struct, max_depth: int) -> dict[str, Json]:
    """A Struct as a document. Raises ValueError when it nests deeper than `max_depth` or holds an empty Value."""
    return {key: _value(value, max_depth - 1) for key, value in struct.fields.items()}


def struct_of(document: dict[str, Json]) -> Struct:
    """A document as a Struct."""
    struct = Struct()
    struct.update(document)
    return struct


def _value(value: Value, depth_left: int) -> Json:
    match value.WhichOneof("kind"):
        case "null_value":
            return None
        case "bool_value":
            return value.bool_value
        case "number_value":
            return value.number_value
        case "string_value":
            return value.string_value
    if depth_left <= 0:
        raise ValueError("it nests too deeply")
    match value.WhichOneof("kind"):
        case "list_value":
            return [_value(item, depth_left - 1) for item in value.list_value.values]
        case "struct_value":
            return document_of(value.struct_value, depth_left)
    raise ValueError("it holds a value of no kind")


def _spell(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        if abs(value) > LARGEST_EXACT_INTEGER:
            raise ValueError(f"{value} is beyond what a double holds exactly")
        return str(value)
    if isinstance(value, float):
        return _spell_number(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_spell, value)) + "]"
    by_utf16 = sorted(value, key=lambda key: key.encode("utf-16-be"))
    return "{" + ",".join(f"{_spell(key)}:{_spell(value[key])}" for key in by_utf16) + "}"


def _spell_number(number: float) -> str:
    """ECMAScript's Number::toString: shortest digits that read back, exponent only when it is far."""
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    if number == 0:
        return "0"
    sign = "-" if number < 0 else ""
    _, digit_tuple, exponent = Decimal(repr(abs(number))).as_tuple()
    all_digits = "".join(map(str, digit_tuple))
    point = len(all_digits) + int(exponent)
    digits = all_digits.rstrip("0")
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    mantissa = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{sign}{mantissa}e{point - 1:+d}"
