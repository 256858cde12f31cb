"""The order of a list and its pages: which rows come next, without sorting all of them. Owns `order_by` (AIP-132) and
the places that page tokens name; a place is the last row's values, so that it holds although rows come and go.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from controller.query.columns import INTERNED
from controller.query.fields import BY_NAME, KNOWN, Field, Kind
from controller.query.moment import Moment
from controller.query.summary import NEVER
from controller.twin.versions import prerelease_key, read_version
from federation.errors import InvalidWrite

#: Fields in one order: more decide nothing.
MAX_FIELDS: Final = 4

#: Longest `order_by`.
MAX_ORDER_BYTES: Final = 512

#: Rows looked at together where the order is that of ids.
CHUNK: Final = 65_536

#: What a row is ordered by, and at the end its id.
Place = list[Any]

_Mask = npt.NDArray[np.bool_]
_Rows = npt.NDArray[np.int64]


class OrderField(NamedTuple):
    """One field of an order."""

    field: Field
    descending: bool


def parse_order(text: str) -> tuple[OrderField, ...]:
    """The fields of an `order_by`; what is equal in all of them is ordered by id. Raises `InvalidWrite`."""
    if len(text.encode()) > MAX_ORDER_BYTES:
        raise InvalidWrite(f"order_by is longer than {MAX_ORDER_BYTES} bytes", field="order_by")
    found = []
    for part in text.split(",") if text.strip() else ():
        words = part.split()
        descending = len(words) == 2 and words[1].lower() == "desc"
        if len(words) != 1 and not descending:
            raise InvalidWrite(
                f'order_by: expected a field, or a field and "desc", not {part.strip()[:80]!r}',
                field="order_by",
            )
        field = BY_NAME.get(words[0])
        if field is None or field.kind in (Kind.TAGS, Kind.LABELS):
            raise InvalidWrite(
                f"order_by: {words[0][:80]!r} is no field with an order; the fields are {KNOWN} without tags and "
                "labels",
                field="order_by",
            )
        if field.column == "stale_ms":
            # An age grows between two pages; the time it is counted from does not.
            field, descending = BY_NAME["report_time"], not descending
        found.append(OrderField(field, descending))
        if field.kind is Kind.ID:
            break
    if len(found) > MAX_FIELDS:
        raise InvalidWrite(f"order_by names more than {MAX_FIELDS} fields", field="order_by")
    return tuple(found)


def next_rows(
    at: Moment, fits: _Mask, order: tuple[OrderField, ...], after: Place | None, most: int
) -> _Rows:
    """The first rows that fit after a place, in order, at most so many."""
    descending = bool(order) and order[-1].field.kind is Kind.ID and order[-1].descending
    keys = [each for each in order if each.field.kind is not Kind.ID]
    if not keys:
        return _by_id(at, fits, after[-1] if after else None, most, descending=descending)
    columns = [_sort_key(at, each) for each in keys]
    if after is not None:
        fits = fits & _beyond(at, columns, keys, after, descending=descending)
    return _select(at, fits, columns, most, descending=descending)


def place_of(at: Moment, row: int, order: tuple[OrderField, ...]) -> Place:
    """Where a row stands, for a page token."""
    rows = np.array([row])
    place: Place = []
    for field, _ in order:
        if field.kind is not Kind.ID:
            held = at.column(field.column, rows)[0].item()
            place.append(_value(at, field, held) if field.column in at.columns.values else held)
    return [*place, at.columns.ids.id_of(row)]


def read_place(told: str, order: tuple[OrderField, ...]) -> Place:
    """The place that a page token holds. Raises `InvalidWrite` for one that was not made for this order."""
    try:
        place = json.loads(told)
    except ValueError:
        place = None
    keys = [each.field for each in order if each.field.kind is not Kind.ID]
    if (
        not isinstance(place, list)
        or len(place) != len(keys) + 1
        or not isinstance(place[-1], str)
        or not place[-1].isascii()
        or not all(map(_is_value, keys, place))
    ):
        raise InvalidWrite(
            "page_token is not one this service made; begin again without it", field="page_token"
        )
    return place


def _is_value(field: Field, value: Any) -> bool:
    if field.column in INTERNED:
        return isinstance(value, str)
    return isinstance(value, int | float) and NEVER <= value < -NEVER


def _value(at: Moment, field: Field, code: int) -> Any:
    value = at.columns.values[field.column].values[code]
    return value if field.part is None else value[field.part]


def _by_id(at: Moment, fits: _Mask, after: str | None, most: int, *, descending: bool) -> _Rows:
    ids = at.columns.ids
    order = ids.order()
    if descending:
        left = order[: ids.position_of(after)] if after is not None else order
        left = left[::-1]
    else:
        left = order[ids.position_after(after) :] if after is not None else order
    found: list[npt.NDArray[np.int32]] = []
    count = 0
    for start in range(0, len(left), CHUNK):
        chunk = left[start : start + CHUNK]
        hits = chunk[fits[chunk]][: most - count]
        found.append(hits)
        count += len(hits)
        if count >= most:
            break
    return np.concatenate(found).astype(np.int64) if found else np.empty(0, np.int64)


def _sort_key(at: Moment, by: OrderField) -> npt.NDArray[Any]:
    """A number a row that sorts as the field does, smallest first."""
    held = at.column(by.field.column)
    if by.field.column in at.columns.values:
        held = _ranks(at, by.field)[0][held]
    key: npt.NDArray[Any] = held.astype(np.float64 if held.dtype.kind == "f" else np.int64)
    return -np.maximum(key, NEVER + 1) if by.descending else key


def _ranks(at: Moment, field: Field) -> tuple[npt.NDArray[np.int64], list[Any]]:
    """The rank of each code among the distinct values, and the values' keys in their order."""
    values = at.columns.values[field.column].values
    keys = [_value_key(field, v if field.part is None else v[field.part]) for v in values]
    ordered = sorted(set(keys))
    rank = {key: number for number, key in enumerate(ordered)}
    # Twice the number, so that a value that is not there has its place between two.
    return np.array([2 * rank[key] for key in keys], np.int64), ordered


def _value_key(field: Field, value: str) -> Any:
    """Sorts versions by precedence, after texts that are none."""
    if field.kind is not Kind.VERSION:
        return value
    version = read_version(value)
    if version is None:
        return (0, (), (), value)
    is_release, parts = prerelease_key(version.prerelease)
    return (1, version.release, (is_release, tuple(parts)), value)


def _beyond(
    at: Moment,
    columns: list[npt.NDArray[Any]],
    keys: list[OrderField],
    after: Place,
    *,
    descending: bool,
) -> _Mask:
    """The rows that come after a place."""
    ids = at.columns.ids
    order = ids.order()
    found = np.zeros(len(order), np.bool_)
    rest = (
        order[: ids.position_of(after[-1])]
        if descending
        else order[ids.position_after(after[-1]) :]
    )
    found[rest] = True
    for column, by, value in zip(
        reversed(columns), reversed(keys), reversed(after[:-1]), strict=True
    ):
        limit = _limit(at, by, value)
        found = (column > limit) | ((column == limit) & found)
    return found


def _limit(at: Moment, by: OrderField, value: Any) -> Any:
    """The sort key of a value."""
    if by.field.column in at.columns.values:
        _, ordered = _ranks(at, by.field)
        key = _value_key(by.field, value)
        rank = bisect_left(ordered, key)
        value = 2 * rank - (rank == len(ordered) or ordered[rank] != key)
    return -max(value, NEVER + 1) if by.descending else value


def _select(
    at: Moment, fits: _Mask, columns: list[npt.NDArray[Any]], most: int, *, descending: bool
) -> _Rows:
    """The first rows by several keys: all below the key of the last one, and of those equal to it the first by the
    keys that are left.
    """
    if not columns:
        return _by_id(at, fits, None, most, descending=descending)
    rows = np.flatnonzero(fits)
    key = columns[0][rows]
    if len(rows) > most:
        limit = np.partition(key, most - 1)[most - 1]
        below = rows[key < limit]
        tied = np.zeros_like(fits)
        tied[rows[key == limit]] = True
        return np.concatenate(
            [
                _sorted(at, below, columns, descending=descending),
                _select(at, tied, columns[1:], most - len(below), descending=descending),
            ]
        )
    return _sorted(at, rows, columns, descending=descending)


def _sorted(at: Moment, rows: _Rows, columns: list[npt.NDArray[Any]], *, descending: bool) -> _Rows:
    by_id = np.argsort(at.columns.ids.column(rows), kind="stable")
    rows = rows[by_id[::-1] if descending else by_id]
    return rows[np.lexsort([column[rows] for column in reversed(columns)])]
