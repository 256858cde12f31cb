"""The hash of a configuration document. Owns its canonical spelling (RFC 8785), the same as the nodes' agents use, so
that desired and actual configuration can be compared by hash; never judges what a document says.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from decimal import Decimal

from google.protobuf.struct_pb2 import Struct, Value

from federation.errors import InvalidWrite

#: Below it every whole number is exact and spelled by its digits alone.
LARGEST_PLAIN_INTEGER = 2.0**53

#: Hashes kept of documents, by their bytes: one configuration is declared for many nodes, and reported by them. Larger
#: documents are hashed anew, so that what is kept stays below 4 MiB.
REMEMBERED_DOCUMENTS = 1024
MAX_REMEMBERED_BYTES = 4096

#: Deepest nesting of a configuration: the agents' own limit.
MAX_DEPTH = 16


def configuration_hash(document: Struct) -> str:
    """SHA-256 of the document in canonical JSON, as "sha256:" and 64 hexadecimal digits.

    Raises `InvalidWrite` for a document that no JSON stands for: too deep, a number that is not finite, an empty value.
    """
    if document.ByteSize() <= MAX_REMEMBERED_BYTES:
        return _remembered_hash(document.SerializeToString())
    return _hash(document)


@functools.lru_cache(maxsize=REMEMBERED_DOCUMENTS)
def _remembered_hash(data: bytes) -> str:
    return _hash(Struct.FromString(data))


def _hash(document: Struct) -> str:
    try:
        spelled = _spell_struct(document, MAX_DEPTH).encode()
    except UnicodeEncodeError as error:
        raise InvalidWrite("configuration holds text that is not Unicode") from error
    return f"sha256:{hashlib.sha256(spelled).hexdigest()}"


def _spell_struct(struct: Struct, depth_left: int) -> str:
    if depth_left <= 0:
        raise InvalidWrite(
            f"configuration nests deeper than {MAX_DEPTH} levels", field="configuration"
        )
    fields = struct.fields
    # Among ASCII texts, the usual case, the order of code points is that of UTF-16.
    keys = sorted(fields, key=None if "".join(fields).isascii() else _utf16)
    return (
        "{"
        + ",".join(f"{_spell_text(key)}:{_spell(fields[key], depth_left - 1)}" for key in keys)
        + "}"
    )


def _spell(value: Value, depth_left: int) -> str:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return _spell_text(value.string_value)
    if kind == "number_value":
        return _spell_number(value.number_value)
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind == "null_value":
        return "null"
    if kind == "struct_value":
        return _spell_struct(value.struct_value, depth_left)
    if kind == "list_value":
        if depth_left <= 0:
            raise InvalidWrite(
                f"configuration nests deeper than {MAX_DEPTH} levels", field="configuration"
            )
        items = (_spell(item, depth_left - 1) for item in value.list_value.values)
        return "[" + ",".join(items) + "]"
    raise InvalidWrite("configuration holds a value of no kind", field="configuration")


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")


#: As `json.dumps(text, ensure_ascii=False)`, without its choice of an encoder for each text.
_spell_text = json.encoder.encode_basestring


def _spell_number(number: float) -> str:
    """As ECMAScript's Number::toString: the shortest digits that read back, an exponent only when it is far."""
    if not math.isfinite(number):
        raise InvalidWrite("configuration holds a number that is not finite", field="configuration")
    if number.is_integer() and abs(number) < LARGEST_PLAIN_INTEGER:
        return str(int(number))
    sign, digit_tuple, exponent = Decimal(repr(number)).as_tuple()
    every_digit = "".join(map(str, digit_tuple))
    point = len(every_digit) + int(exponent)
    digits = every_digit.rstrip("0")
    if len(digits) <= point <= 21:
        spelled = digits.ljust(point, "0")
    elif 0 < point <= 21:
        spelled = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        spelled = f"0.{'0' * -point}{digits}"
    else:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        spelled = f"{digits[0]}{fraction}e{point - 1:+d}"
    return f"-{spelled}" if sign else spelled
