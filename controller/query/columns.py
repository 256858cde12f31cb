"""All nodes in columns, one row each. Owns the rows and their interned values, and keeps the sums of each domain in
step with them; knows no facts and no clock.

Some hundred and forty bytes a node: a million stay within 150 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.query.ids import FIRST_ROWS, GROWTH, IdIndex
from controller.query.interning import Interner
from controller.query.summary import NEVER, NO_RELEASE, NodeSummary
from controller.query.totals import Totals

Column = npt.NDArray[Any]
Rows = slice | npt.NDArray[np.int64]

#: Columns that hold a number as it is, by field of `NodeSummary`.
NUMBERS: dict[str, tuple[Any, float]] = {
    "kind": (np.uint8, 0),
    "mode": (np.uint8, 0),
    "phase": (np.uint8, 0),
    "health": (np.uint8, 0),
    "drift_state": (np.uint8, 0),
    "drift_severity": (np.uint8, 0),
    "drift_unknown": (np.uint8, 0),
    "drift_score": (np.float64, 0.0),
    "drift_objects": (np.uint32, 0),
    "drift_waived": (np.uint32, 0),
    "mode_since_ms": (np.int64, NEVER),
    "report_ms": (np.int64, NEVER),
    "node_clock_ms": (np.int64, NEVER),
    "create_ms": (np.int64, NEVER),
    "update_ms": (np.int64, NEVER),
    "optimistic": (np.bool_, False),
    "conflicted": (np.bool_, False),
    "incident": (np.bool_, False),
}

#: Columns that hold codes, with the empty value of each.
INTERNED: dict[str, Any] = {
    "domain": "",
    "region": "",
    "zone": "",
    "component_type": "",
    "tags": (),
    "labels": (),
    "lifecycle_state": "",
    "release": NO_RELEASE,
    "policy_bundle": "",
    "target_version": "",
    "effective_version": "",
    "governing_policy": "",
}

_TIMES = ("mode_since_ms", "report_ms", "node_clock_ms", "create_ms", "update_ms")
_LARGEST_TIME = 2**63 - 1
_LARGEST_COUNT = 2**32 - 1


class NodeColumns:
    """The rows of all nodes. A row whose node does not exist (any more) is not `present`."""

    def __init__(self) -> None:
        self.ids = IdIndex()
        self.values: dict[str, Interner[Any]] = {n: Interner(v) for n, v in INTERNED.items()}
        self.totals = Totals()
        self._columns: dict[str, Column] = {
            **{name: np.full(FIRST_ROWS, empty, kind) for name, (kind, empty) in NUMBERS.items()},
            **{name: np.zeros(FIRST_ROWS, np.int32) for name in INTERNED},
            "present": np.zeros(FIRST_ROWS, np.bool_),
            "stale": np.zeros(FIRST_ROWS, np.bool_),
        }
        #: Rows whose waivers end, with the time of the next end.
        self._ends: dict[int, int] = {}

    def __len__(self) -> int:
        """Rows, present or not."""
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes held in arrays."""
        return self.ids.nbytes + sum(column.nbytes for column in self._columns.values())

    def reserve(self, rows: int) -> None:
        """Makes room for so many rows at once."""
        self.ids.reserve(rows)
        more = rows - len(self._columns["present"])
        if more <= 0:
            return
        for name, column in self._columns.items():
            empty = NUMBERS[name][1] if name in NUMBERS else 0
            self._columns[name] = np.concatenate([column, np.full(more, empty, column.dtype)])

    def column(self, name: str, rows: Rows = slice(None)) -> Column:
        """A column, or some rows of it; a view where the rows are a slice."""
        return self._columns[name][: len(self.ids)][rows]

    def put(self, node_id: str, summary: NodeSummary | None) -> bool:
        """Takes in a node as it is now; None: it does not exist. Tells whether anything changed."""
        row = self.ids.row_of(node_id)
        if row is None:
            if summary is None:
                return False
            row = self._new_row(node_id)
        before = self.summary(row)
        self._columns["stale"][row] = False
        if summary is None:
            self._ends.pop(row, None)
        else:
            summary = _bounded(summary)
            if summary.valid_until_ms == NodeSummary("").valid_until_ms:
                self._ends.pop(row, None)
            else:
                self._ends[row] = summary.valid_until_ms
        if before == summary:
            return False
        if before is not None:
            self._count(before, -1)
        self._columns["present"][row] = summary is not None
        if summary is not None:
            for name in NUMBERS:
                self._columns[name][row] = getattr(summary, name)
            for name, interner in self.values.items():
                self._columns[name][row] = interner.code(getattr(summary, name))
            self._count(summary, 1)
        return True

    def leave(self, node_id: str) -> None:
        """Leaves a node's row as it is, although it was to be read again."""
        row = self.ids.row_of(node_id)
        if row is not None:
            self._columns["stale"][row] = False

    def summary(self, row: int) -> NodeSummary | None:
        """What a row holds; None where no node is present."""
        columns = self._columns
        if not columns["present"][row]:
            return None
        fields: dict[str, Any] = {name: columns[name][row].item() for name in NUMBERS}
        for name, held in self.values.items():
            fields[name] = held.values[columns[name][row]]
        if row in self._ends:
            fields["valid_until_ms"] = self._ends[row]
        return NodeSummary(**fields)

    def mark_stale(self, rows: npt.NDArray[np.bool_]) -> None:
        """Marks rows to be read again."""
        self.column("stale")[rows & self.column("present")] = True

    def mark_domains_stale(self, domains: set[str]) -> None:
        """Marks the rows of some domains to be read again."""
        self.mark_stale(self.in_domains(domains))

    def mark_ended(self, now_ms: int) -> None:
        """Marks the rows of which a waiver has ended."""
        for row in [row for row, end in self._ends.items() if end <= now_ms]:
            self._columns["stale"][row] = True

    def stale_rows(self, most: int) -> npt.NDArray[np.int64]:
        """Some of the rows that are to be read again."""
        return np.flatnonzero(self.column("stale"))[:most]

    def stale_count(self) -> int:
        """Rows that are to be read again."""
        return int(np.count_nonzero(self.column("stale")))

    def in_domains(self, domains: set[str], rows: Rows = slice(None)) -> npt.NDArray[np.bool_]:
        """For each row whether it stands for a node in one of the domains."""
        codes = [
            c for c in (self.values["domain"].known(d) for d in domains) if c is not None and c
        ]
        held = self.column("domain", rows)
        present = self.column("present", rows)
        if len(codes) == 1:
            found: npt.NDArray[np.bool_] = (held == codes[0]) & present
            return found
        wanted = np.zeros(len(self.values["domain"]), np.bool_)
        wanted[codes] = True
        if len(codes) == len(wanted) - 1:
            return present.copy()
        return wanted[held] & present

    def rows(self) -> Iterator[int]:
        """Rows in which a node is present."""
        yield from np.flatnonzero(self.column("present")).tolist()

    def _count(self, summary: NodeSummary, by: int) -> None:
        self.totals.count(self.values["domain"].code(summary.domain), summary, by)

    def _new_row(self, node_id: str) -> int:
        row = self.ids.add(node_id)
        if row == len(self._columns["present"]):
            self.reserve(row + max(FIRST_ROWS, int(row * GROWTH)))
        return row


def _bounded(summary: NodeSummary) -> NodeSummary:
    """The summary with numbers that columns can hold: what peers send may say anything."""
    changed: dict[str, Any] = {
        name: min(max(getattr(summary, name), NEVER), _LARGEST_TIME)
        for name in _TIMES
        if not NEVER <= getattr(summary, name) <= _LARGEST_TIME
    }
    for name in ("drift_objects", "drift_waived"):
        if getattr(summary, name) > _LARGEST_COUNT:
            changed[name] = _LARGEST_COUNT
    for name in ("kind", "mode", "phase", "health"):
        if not 0 <= getattr(summary, name) <= 255:
            changed[name] = 0
    return summary._replace(**changed) if changed else summary
