"""JSON that a stranger wrote. Owns the bounds within which it is read at all; knows no format.

A document is measured before it is decoded: its size, how deep it nests, how many values it holds. So a few bytes can
neither exhaust the stack nor the memory. What two readers could read differently is refused (RFC 8259 §4, §8): the same
name twice in an object, numbers without a value, text that is no Unicode.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

#: An SBOM of a whole operating system nests seven deep; a provenance statement somewhat deeper.
MAX_DEPTH: Final = 32

#: Largest text in a document that is read as a number: longer ones cost time to convert and mean nothing.
MAX_DIGITS: Final = 32

#: Strings, of which nothing counts, and what opens, closes or follows.
_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]|,', re.DOTALL)


class BadDocument(ValueError):
    """Whoever made the document must change it. `reason` is short, stable and UPPER_SNAKE."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read_json(data: bytes, *, max_bytes: int, max_values: int) -> Any:
    """The document. Raises `BadDocument` for one that is too large, too deep, too full, or no strict JSON."""
    if len(data) > max_bytes:
        raise BadDocument(
            "DOCUMENT_TOO_LARGE", f"{len(data)} bytes; at most {max_bytes} are allowed"
        )
    _measure(data, max_values)
    try:
        text = data.decode("utf-8")
        document = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_int=_integer,
            parse_float=_real,
        )
        # Escapes can spell halves of characters, which no text may hold.
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except BadDocument:
        raise
    except UnicodeError as error:
        raise BadDocument("DOCUMENT_NO_UNICODE", "the text is no Unicode in UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise BadDocument("DOCUMENT_NO_JSON", f"no JSON: {str(error)[:200]}") from error
    return document


def _measure(data: bytes, max_values: int) -> None:
    depth = values = 0
    for found in _TOKENS.finditer(data):
        token = found[0]
        if token in (b"{", b"["):
            depth += 1
            values += 1
            if depth > MAX_DEPTH:
                raise BadDocument("DOCUMENT_TOO_DEEP", f"nests deeper than {MAX_DEPTH}")
        elif token in (b"}", b"]"):
            depth -= 1
        elif token == b",":
            values += 1
        if values > max_values:
            raise BadDocument("DOCUMENT_TOO_FULL", f"holds more than {max_values} values")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadDocument("DOCUMENT_AMBIGUOUS", f"{twice[:80]!r} stands twice in one object")
    return found


def _no_number(text: str) -> NoReturn:
    raise BadDocument("DOCUMENT_NO_JSON", f"{text} is no JSON number")


def _integer(text: str) -> int:
    _check_digits(text)
    return int(text)


def _real(text: str) -> float:
    _check_digits(text)
    number = float(text)
    if number in (float("inf"), float("-inf")):
        _no_number(text)
    return number


def _check_digits(text: str) -> None:
    if len(text) > MAX_DIGITS:
        raise BadDocument("DOCUMENT_NO_JSON", f"a number of {len(text)} characters")
