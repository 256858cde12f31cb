"""Conditions over the columns and how they are joined, whether a filter's text or a field of a request asks for them.
Owns what each means for all rows at once; reads no text.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from controller.query.columns import Rows
from controller.query.moment import Moment

Mask = npt.NDArray[np.bool_]

#: Numbers that a column of enums holds.
_BYTES = 256


class Filter(Protocol):
    """Tells which rows fit."""

    def __call__(self, at: Moment, rows: Rows) -> Mask:
        """One truth value a row."""


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


def any_of(parts: Sequence[Filter]) -> Filter:
    """What fits one of several, at least one."""

    def holds(at: Moment, rows: Rows) -> Mask:
        return functools.reduce(np.logical_or, (part(at, rows) for part in parts))

    return holds


def none_of(part: Filter) -> Filter:
    """What does not fit."""
    return lambda at, rows: ~part(at, rows)


def one_of(column: str, numbers: Iterable[int]) -> Filter:
    """Rows whose enum has one of some values."""
    wanted = np.zeros(_BYTES, np.bool_)
    wanted[[number for number in numbers if 0 <= number < _BYTES]] = True

    def holds(at: Moment, rows: Rows) -> Mask:
        found: Mask = wanted[at.column(column, rows)]
        return found

    return holds


def with_tags(tags: frozenset[str]) -> Filter:
    """Rows that have all of some tags."""

    def holds(at: Moment, rows: Rows) -> Mask:
        fitting = at.columns.values["tags"].where(lambda held: tags <= set(held))
        found: Mask = fitting[at.column("tags", rows)]
        return found

    return holds


def with_text(column: str, text: str) -> Filter:
    """Rows whose text is this one."""

    def holds(at: Moment, rows: Rows) -> Mask:
        code = at.columns.values[column].known(text)
        # No code is negative: a text that no node has fits none.
        found: Mask = at.column(column, rows) == (-1 if code is None else code)
        return found

    return holds


def at_least(column: str, number: float) -> Filter:
    """Rows whose number is this one or more."""

    def holds(at: Moment, rows: Rows) -> Mask:
        found: Mask = at.column(column, rows) >= number
        return found

    return holds


def within(column: str, start_ns: int | None, end_ns: int | None) -> Filter:
    """Rows whose time is at or after the start and before the end, in nanoseconds; None: no bound."""

    def holds(at: Moment, rows: Rows) -> Mask:
        held = at.column(column, rows)
        found = np.ones(len(held), np.bool_)
        if start_ns is not None:
            found &= held >= _up(start_ns)
        if end_ns is not None:
            found &= held < _up(end_ns)
        return found

    return holds


def _up(nanoseconds: int) -> int:
    """The first whole millisecond that is not before a time."""
    return -(-nanoseconds // 1_000_000)
