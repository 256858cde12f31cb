"""What each comparison of a filter means for each kind of field, for all rows at once. Owns the conditions by kind, and
refuses a value that does not suit the kind; the tree they stand in is `filter`'s.

An unset field has its type's empty value. Times, durations and labels that are not there fulfil no comparison but `!=`,
which is true wherever `=` is not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.query.columns import Rows
from controller.query.conditions import Filter, Mask, none_of, with_text
from controller.query.fields import KNOWN, Field, Kind, field_of
from controller.query.filter_syntax import Comparison, refused
from controller.query.filter_values import (
    ORDERINGS,
    Test,
    duration_of,
    text_test,
    time_of,
    version_test,
)
from controller.query.moment import ALL_ROWS, Moment
from controller.query.summary import NEVER
from federation.errors import InvalidWrite

_EQUALITIES = ("=", "!=", ":")
_ANY = "*"


def condition_of(given: Comparison) -> Filter:
    """What a comparison asks for. Raises `InvalidWrite` naming the position, what was expected, and the fields."""
    found = field_of(given.path)
    if found is None:
        raise refused(
            given.position, f"{'.'.join(given.path)[:80]!r} is no field; the fields are {KNOWN}"
        )
    field, key = found
    if not given.operator:
        if field.kind is not Kind.FLAG:
            raise refused(
                given.value_position,
                f'expected =, !=, <, <=, >, >= or ":" after {".".join(given.path)}, which is {field.kind.value}',
            )
        return lambda at, rows: at.column(field.column, rows).copy()
    if given.operator == "!=":
        return none_of(_BINDERS[field.kind](field, key, given, "="))
    return _BINDERS[field.kind](field, key, given, given.operator)


def _only_equality(given: Comparison, kind: Kind, *allowed: str) -> None:
    if given.operator not in allowed:
        raise refused(
            given.position,
            f"{'.'.join(given.path)} is {kind.value}: it is compared by {', '.join(allowed)}, not by {given.operator}",
        )


def _wrong_value(given: Comparison, expected: str) -> InvalidWrite:
    return refused(
        given.value_position,
        f"expected {expected} after {given.operator}, not {given.value[:80]!r}",
    )


# What is read as it is.


def _enum(field: Field, _: str, given: Comparison, sign: str) -> Filter:
    if _is_any(given):
        return lambda at, rows: at.column(field.column, rows) != 0
    names = {value.name: value.number for value in field.enum_type.values}
    prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
    word = given.value.upper()
    number = names.get(word, names.get(prefix + word))
    if number is None:
        legal = ", ".join(name.removeprefix(prefix) for name in names)
        raise _wrong_value(given, f"one of {legal}")
    return _compared(field.column, sign, number)


def _number(field: Field, _: str, given: Comparison, sign: str) -> Filter:
    if _is_any(given):
        return lambda at, rows: at.column(field.column, rows) != 0
    try:
        number = float(given.value)
    except ValueError as error:
        raise _wrong_value(given, "a number") from error
    return _compared(field.column, sign, number)


def _flag(field: Field, _: str, given: Comparison, sign: str) -> Filter:
    _only_equality(given, field.kind, *_EQUALITIES)
    word = given.value.lower()
    if _is_any(given):
        word = "true"
    if word not in ("true", "false"):
        raise _wrong_value(given, "true or false")
    if word == "true":
        return lambda at, rows: at.column(field.column, rows).copy()
    return lambda at, rows: ~at.column(field.column, rows)


def _compared(column: str, sign: str, number: float) -> Filter:
    compare: Callable[[Any, Any], Mask] = ORDERINGS.get(sign, operator.eq)
    return lambda at, rows: compare(at.column(column, rows), number)


def _time(field: Field, _: str, given: Comparison, sign: str) -> Filter:
    if _is_any(given):
        return lambda at, rows: at.column(field.column, rows) != NEVER
    read = time_of(given.value)
    if read is None:
        raise _wrong_value(given, "a time such as 2026-02-27T03:45:00Z")
    limit, between = read
    return _of_milliseconds(field.column, sign, limit, between=between)


def _duration(field: Field, _: str, given: Comparison, sign: str) -> Filter:
    if _is_any(given):
        return lambda at, rows: at.column(field.column, rows) != NEVER
    milliseconds = duration_of(given.value)
    if milliseconds is None:
        raise _wrong_value(given, "a duration such as 90s or 1h30m (units ms, s, m, h, d)")
    if milliseconds >= 2**62:
        raise _wrong_value(given, "a duration of less than a hundred million years")
    limit = int(milliseconds)
    return _of_milliseconds(field.column, sign, limit, between=milliseconds > limit)


def _of_milliseconds(column: str, sign: str, limit: int, *, between: bool) -> Filter:
    """Compares whole milliseconds with a limit, or with what is between it and the next."""

    def holds(at: Moment, rows: Rows) -> Mask:
        held = at.column(column, rows)
        match sign:
            case ">":
                found = held > limit
            case ">=":
                found = held >= limit + between
            case "<":
                found = held < limit + between
            case "<=":
                found = held <= limit
            case _:
                found = (held == limit) & (not between)
        known: Mask = found & (held != NEVER)
        return known

    return holds


# What is interned: the condition is tried on each distinct value, and looked up for each row.


def _text(field: Field, _: str, given: Comparison, sign: str) -> Filter:
    if _is_any(given):
        return _of_values(field, bool)
    if field.part is None and sign not in ORDERINGS and "*" not in given.value:
        return with_text(field.column, given.value)
    return _of_values(field, text_test(given.value, sign))


def _version(field: Field, _: str, given: Comparison, sign: str) -> Filter:
    if _is_any(given):
        return _of_values(field, bool)
    test = version_test(given.value, sign)
    if test is None:
        raise _wrong_value(given, "a version such as 1.4.7 or souverix-rempart-1.4.7")
    return _of_values(field, test)


def _tags(field: Field, _: str, given: Comparison, __: str) -> Filter:
    _only_equality(given, field.kind, ":")
    if _is_any(given):
        return _of_values(field, bool)
    test = text_test(given.value, "=")
    return _of_values(field, lambda tags: any(map(test, tags)))


def _labels(field: Field, key: str, given: Comparison, sign: str) -> Filter:
    if not key:
        _only_equality(given, field.kind, ":")
        if _is_any(given):
            return _of_values(field, bool)
        names = text_test(given.value, "=")
        return _of_values(field, lambda labels: any(names(name) for name, _ in labels))
    if _is_any(given):
        return _of_values(field, lambda labels: any(name == key for name, _ in labels))
    test = text_test(given.value, sign)
    return _of_values(field, lambda labels: any(n == key and test(v) for n, v in labels))


def _of_values(field: Field, test: Test) -> Filter:
    part = field.part
    whole = test if part is None else lambda value: test(value[part])

    def holds(at: Moment, rows: Rows) -> Mask:
        found: Mask = at.columns.values[field.column].where(whole)[at.column(field.column, rows)]
        return found

    return holds


# Ids, each of which is another.


def _id(_: Field, __: str, given: Comparison, sign: str) -> Filter:
    value = given.value
    if _is_any(given):
        return lambda at, rows: at.columns.ids.column(rows) != b""

    def holds(at: Moment, rows: Rows) -> Mask:
        ids = at.columns.ids
        whole = isinstance(rows, slice) and rows == ALL_ROWS
        if sign in ORDERINGS:
            found = _in_order(at, _range_of(at, sign, value))
            return found if whole else found[rows]
        if "*" in value:
            return _like(ids.column(rows), value.encode())
        found = np.zeros(len(ids), np.bool_)
        row = ids.row_of(value)
        if row is not None:
            found[row] = True
        return found if whole else found[rows]

    return holds


def _like(ids: npt.NDArray[np.bytes_], pattern: bytes) -> Mask:
    """Which ids fit a pattern with wildcards."""
    first, *middle, last = pattern.split(b"*")
    found: Mask = np.strings.startswith(ids, first)
    at = np.full(len(ids), len(first))
    for piece in middle:
        place = np.strings.find(ids, piece, at)
        found &= place >= 0
        at = np.maximum(place, 0) + len(piece)
    found &= np.strings.endswith(ids, last) & (np.strings.str_len(ids) - len(last) >= at)
    return found


def _range_of(at: Moment, sign: str, value: str) -> slice:
    ids = at.columns.ids
    match sign:
        case "<":
            return slice(0, ids.position_of(value))
        case "<=":
            return slice(0, ids.position_after(value))
        case ">":
            return slice(ids.position_after(value), None)
        case _:
            return slice(ids.position_of(value), None)


def _in_order(at: Moment, part: slice) -> Mask:
    found = np.zeros(len(at.columns.ids), np.bool_)
    found[at.columns.ids.order()[part]] = True
    return found


def _is_any(given: Comparison) -> bool:
    """Tells whether a comparison asks only that there is something."""
    return given.operator == ":" and given.value == _ANY and not given.quoted


_BINDERS: dict[Kind, Callable[[Field, str, Comparison, str], Filter]] = {
    Kind.ID: _id,
    Kind.TEXT: _text,
    Kind.VERSION: _version,
    Kind.ENUM: _enum,
    Kind.NUMBER: _number,
    Kind.FLAG: _flag,
    Kind.TIME: _time,
    Kind.DURATION: _duration,
    Kind.TAGS: _tags,
    Kind.LABELS: _labels,
}
