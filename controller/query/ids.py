"""Ids of nodes and the rows they stand in. Owns the rows' numbers and the order of ids; rows are never given to another
id, for ids are never used again.

Ids stand in one array of bytes, and their order beside it: some thirty bytes a node, where a dictionary takes a hundred
and fifty. New ids wait in a small dictionary until enough of them are sorted in together.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

#: New ids that are sorted in at once: the order of a million is copied for each lot, which takes some milliseconds.
LOT = 4096

FIRST_ROWS = 64

#: Rows added when the array is full, as a share of those held: a copy now and then, and little that stands empty.
GROWTH = 0.25

_Order = npt.NDArray[np.int32]


class IdIndex:
    """Rows by id, and ids by row. Ids are ASCII."""

    def __init__(self) -> None:
        self._ids = np.zeros(FIRST_ROWS, "S16")
        self._count = 0
        self._order: _Order = np.empty(0, np.int32)
        self._recent: dict[bytes, int] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes held in arrays."""
        return self._ids.nbytes + self._order.nbytes

    def reserve(self, rows: int) -> None:
        """Makes room for so many rows at once."""
        more = rows - len(self._ids)
        if more > 0:
            self._ids = np.concatenate([self._ids, np.zeros(more, self._ids.dtype)])

    def add(self, node_id: str) -> int:
        """A new row for an id that has none."""
        key = node_id.encode()
        if len(key) > self._ids.itemsize:
            self._ids = self._ids.astype(f"S{max(len(key), self._ids.itemsize + 8)}")
        row = self._count
        if row == len(self._ids):
            self.reserve(row + max(FIRST_ROWS, int(row * GROWTH)))
        self._ids[row] = key
        self._count += 1
        self._recent[key] = row
        if len(self._recent) >= LOT:
            self.order()
        return row

    def extend(self, node_ids: Sequence[str]) -> None:
        """New rows for many ids that have none, in their order."""
        keys = np.array([node_id.encode() for node_id in node_ids])
        if keys.dtype.itemsize > self._ids.itemsize:
            self._ids = self._ids.astype(keys.dtype)
        end = self._count + len(keys)
        if end > len(self._ids):
            self.reserve(max(end, len(self._ids) + int(len(self._ids) * GROWTH)))
        self.order()
        self._ids[self._count : end] = keys
        self._sort_in(np.arange(self._count, end, dtype=np.int32))
        self._count = end

    def row_of(self, node_id: str) -> int | None:
        """The row of an id; None when it has none."""
        key = node_id.encode()
        row = self._recent.get(key)
        if row is not None or len(key) > self._ids.itemsize:
            return row
        at = self._search(key, "left")
        if at < len(self._order):
            row = int(self._order[at])
            if self._ids[row] == key:
                return row
        return None

    def id_of(self, row: int) -> str:
        """The id that stands in a row."""
        return bytes(self._ids[row]).decode()

    def order(self) -> _Order:
        """All rows, ordered by id."""
        if self._recent:
            self._sort_in(np.fromiter(self._recent.values(), np.int32, len(self._recent)))
            self._recent.clear()
        return self._order

    def position_after(self, node_id: str) -> int:
        """How many ids come before or at one, whether or not it is held: where the next begins in `order`."""
        self.order()
        return self._search(node_id.encode(), "right")

    def position_of(self, node_id: str) -> int:
        """How many ids come before one, whether or not it is held."""
        self.order()
        return self._search(node_id.encode(), "left")

    def column(self, rows: npt.NDArray[np.int64] | slice) -> npt.NDArray[np.bytes_]:
        """The ids of some rows."""
        return self._ids[: self._count][rows]

    def _search(self, key: bytes, side: Literal["left", "right"]) -> int:
        """Where an id is or would be in the order. Rows that are sorted in are the first ones."""
        search = bisect_left if side == "left" else bisect_right
        return search(self._order, key, key=self._ids.__getitem__)

    def _sort_in(self, rows: _Order) -> None:
        """Takes rows into the order; rows that are in it are the first ones."""
        rows = rows[np.argsort(self._ids[rows], kind="stable")]
        held = self._ids[: len(self._order)]
        places = np.searchsorted(held, self._ids[rows], sorter=self._order)
        self._order = np.insert(self._order, places, rows)
