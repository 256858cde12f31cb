"""Filters over the columns: a tree of comparisons bound to fields, and evaluated for all rows at once. Owns what each
comparison means for each kind of field; the grammar is `filter_syntax`'s.

An unset field has its type's empty value. Times, durations and labels that are not there fulfil no comparison but `!=`,
which is true wherever `=` is not.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from controller.query.columns import Rows
from controller.query.fields import KNOWN, Field, Kind, field_of
from controller.query.filter_syntax import (
    Comparison,
    Conjunction,
    Disjunction,
    Expression,
    Negation,
    parse_filter,
    refused,
)
from controller.query.moment import ALL_ROWS, Moment
from controller.query.summary import NEVER
from controller.twin.versions import Version, prerelease_key, read_version
from federation.errors import InvalidWrite

Mask = npt.NDArray[np.bool_]
Test = Callable[[Any], bool]

_ORDERINGS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EQUALITIES = ("=", "!=", ":")
_ANY = "*"

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class Filter(Protocol):
    """Tells which rows fit."""

    def __call__(self, at: Moment, rows: Rows) -> Mask:
        """One truth value a row."""


def compile_filter(text: str) -> Filter:
    """The filter a text stands for. Raises `InvalidWrite` naming the position, what was expected, and the fields."""
    return _bind(parse_filter(text))


def matching(wanted: Filter, at: Moment, rows: Rows = ALL_ROWS) -> Mask:
    """Which rows fit, present or not."""
    return wanted(at, rows)


def _bind(expression: Expression) -> Filter:
    match expression:
        case Comparison():
            return _comparison(expression)
        case Negation(of):
            inner = _bind(of)
            return _not(inner)
        case Conjunction(parts):
            return all_of([_bind(part) for part in parts])
        case Disjunction(parts):
            return _any([_bind(part) for part in parts])


def all_of(parts: Sequence[Filter]) -> Filter:
    """What fits all of several; of none: everything."""

    def holds(at: Moment, rows: Rows) -> Mask:
        found = np.ones(len(at.columns.column("present", rows)), np.bool_)
        for part in parts:
            found &= part(at, rows)
            if not found.any():
                break
        return found

    return holds


def _not(part: Filter) -> Filter:
    return lambda at, rows: ~part(at, rows)


def _any(parts: list[Filter]) -> Filter:
    def holds(at: Moment, rows: Rows) -> Mask:
        return functools.reduce(np.logical_or, (part(at, rows) for part in parts))

    return holds


def _comparison(given: Comparison) -> Filter:
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
        inner = _BINDERS[field.kind](field, key, given, "=")
        return _not(inner)
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
    compare: Callable[[Any, Any], Mask] = _ORDERINGS.get(sign, operator.eq)
    return lambda at, rows: compare(at.column(column, rows), number)


def _time(field: Field, _: str, given: Comparison, sign: str) -> Filter:
    if _is_any(given):
        return lambda at, rows: at.column(field.column, rows) != NEVER
    found = _TIME.fullmatch(given.value)
    try:
        if found is None:
            raise ValueError
        offset = "+00:00" if found[4] in "zZ" else found[4]
        whole = datetime.fromisoformat(f"{found[1]}T{found[2]}{offset}").astimezone(UTC)
        milliseconds = int(whole.timestamp()) * 1000
    except (ValueError, OverflowError) as error:
        raise _wrong_value(given, "a time such as 2026-02-27T03:45:00Z") from error
    nanoseconds = int((found[3] or "").ljust(9, "0"))
    limit, rest = milliseconds + nanoseconds // 1_000_000, nanoseconds % 1_000_000
    return _of_milliseconds(field.column, sign, limit, between=rest > 0)


def _duration(field: Field, _: str, given: Comparison, sign: str) -> Filter:
    if _is_any(given):
        return lambda at, rows: at.column(field.column, rows) != NEVER
    if not _DURATION.fullmatch(given.value) or len(given.value) > 64:
        raise _wrong_value(given, "a duration such as 90s or 1h30m (units ms, s, m, h, d)")
    parts = _DURATION_PART.findall(given.value)
    milliseconds = sum(float(number) * _UNIT_MS[unit] for number, unit in parts)
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
    if field.part is None and sign not in _ORDERINGS and "*" not in given.value:
        return _equal_text(field.column, given.value)
    return _of_values(field, _text_test(given.value, sign))


def _equal_text(column: str, value: str) -> Filter:
    def holds(at: Moment, rows: Rows) -> Mask:
        code = at.columns.values[column].known(value)
        held = at.column(column, rows)
        if code is None:
            return np.zeros(len(held), np.bool_)
        found: Mask = held == code
        return found

    return holds


def _text_test(value: str, sign: str) -> Test:
    compare = _ORDERINGS.get(sign)
    if compare is not None:
        return lambda held: bool(compare(held, value))
    if "*" in value:
        pattern = re.compile(".*".join(map(re.escape, value.split("*"))), re.DOTALL)
        return lambda held: pattern.fullmatch(held) is not None
    return lambda held: bool(held == value)


def _version(field: Field, _: str, given: Comparison, sign: str) -> Filter:
    if _is_any(given):
        return _of_values(field, bool)
    return _of_values(field, _version_test(given, sign))


def _version_test(given: Comparison, sign: str) -> Test:
    text = given.value
    if "*" in text and sign not in _ORDERINGS:
        test = _text_test(text, "=")

        def fits(held: str) -> bool:
            read = read_version(held)
            return test(held) or (
                read is not None
                and bool(read.component)
                and test(held.strip()[len(read.component) + 1 :])
            )

        return fits
    wanted = read_version(text)
    if wanted is None:
        if sign in _ORDERINGS:
            raise _wrong_value(given, "a version such as 1.4.7 or souverix-rempart-1.4.7")
        return lambda held: bool(held == text)
    compare = _ORDERINGS.get(sign)

    def holds(held: str) -> bool:
        found = read_version(held)
        if found is None or not _comparable(found, wanted):
            return False
        if compare is not None:
            return bool(compare(_precedence(found), _precedence(wanted)))
        same_build = not wanted.build or wanted.build == found.build
        return same_build and _precedence(found) == _precedence(wanted)

    return holds


def _comparable(one: Version, other: Version) -> bool:
    return not one.component or not other.component or one.component == other.component


def _precedence(version: Version) -> Any:
    return version.release, prerelease_key(version.prerelease)


def _tags(field: Field, _: str, given: Comparison, __: str) -> Filter:
    _only_equality(given, field.kind, ":")
    if _is_any(given):
        return _of_values(field, bool)
    test = _text_test(given.value, "=")
    return _of_values(field, lambda tags: any(map(test, tags)))


def _labels(field: Field, key: str, given: Comparison, sign: str) -> Filter:
    if not key:
        _only_equality(given, field.kind, ":")
        if _is_any(given):
            return _of_values(field, bool)
        names = _text_test(given.value, "=")
        return _of_values(field, lambda labels: any(names(name) for name, _ in labels))
    if _is_any(given):
        return _of_values(field, lambda labels: any(name == key for name, _ in labels))
    test = _text_test(given.value, sign)
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
        if sign in _ORDERINGS:
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
