"""All nodes in columns, one row each. Owns the rows and their interned values, and keeps the sums of each domain in
step with them; knows no facts and no clock.

Some hundred and sixty bytes a node: a million stay within 180 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.query.ids import FIRST_ROWS, GROWTH, IdIndex
from controller.query.interning import Interner
from controller.query.likeness import ALONE, DIGEST_BYTES, Basis, Comparison, Grounds
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
    "integrity": (np.uint8, 0),
    "attested_until_ms": (np.int64, NEVER),
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

#: Columns that say what the row was made from.
BASIS: dict[str, Any] = {"inputs": f"S{DIGEST_BYTES}", "grounds": np.int32}

#: Values of the column "stale": what of a row is to be made again.
COMPARE, READ = 1, 2

_TIMES = (
    "mode_since_ms",
    "report_ms",
    "node_clock_ms",
    "create_ms",
    "update_ms",
    "attested_until_ms",
)
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
            **{name: np.zeros(FIRST_ROWS, kind) for name, kind in BASIS.items()},
            "present": np.zeros(FIRST_ROWS, np.bool_),
            "stale": np.zeros(FIRST_ROWS, np.uint8),
            "unsaved": np.zeros(FIRST_ROWS, np.bool_),
        }
        self.grounds: Interner[Grounds] = Interner(Grounds())
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
            added = np.zeros(more, column.dtype)
            if name in NUMBERS:
                added.fill(NUMBERS[name][1])
            self._columns[name] = np.concatenate([column, added])

    def column(self, name: str, rows: Rows = slice(None)) -> Column:
        """A column, or some rows of it; a view where the rows are a slice."""
        return self._columns[name][: len(self.ids)][rows]

    def put(
        self,
        node_id: str,
        summary: NodeSummary | None,
        basis: Basis = Basis(),  # noqa: B008
    ) -> bool:
        """Takes in a node as it is now; None: it does not exist. Tells whether anything changed."""
        row = self.ids.row_of(node_id)
        if row is None:
            if summary is None:
                return False
            row = self._new_row(node_id)
        before = self.summary(row)
        self._columns["stale"][row] = 0
        self._columns["unsaved"][row] = True
        self._columns["inputs"][row] = basis.inputs
        self._columns["grounds"][row] = self.grounds.code(basis.grounds)
        if summary is None:
            self._ends.pop(row, None)
        else:
            summary = _bounded(summary)
            if summary.valid_until_ms == sys.maxsize:
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

    def load(
        self, node_ids: Sequence[str], summaries: Sequence[NodeSummary], bases: Sequence[Basis]
    ) -> None:
        """Takes in many nodes that have no row yet, as they were stored."""
        first, end = len(self.ids), len(self.ids) + len(node_ids)
        if end > len(self._columns["present"]):
            self.reserve(max(end, int(first * (1 + GROWTH))))
        self.ids.extend(node_ids)
        fields = dict(zip(NodeSummary._fields, zip(*summaries, strict=True), strict=True))
        columns = {name: column[first:end] for name, column in self._columns.items()}
        for name in NUMBERS:
            columns[name][:] = fields[name]
        for name, interner in self.values.items():
            columns[name][:] = list(map(interner.code, fields[name]))
        columns["inputs"][:] = [basis.inputs for basis in bases]
        columns["grounds"][:] = [self.grounds.code(basis.grounds) for basis in bases]
        columns["present"][:] = True
        for row, end_ms in enumerate(fields["valid_until_ms"], first):
            if end_ms != sys.maxsize:
                self._ends[row] = end_ms
        self._count_many(columns["domain"], columns, 1, whole=True)

    def take_comparisons(
        self,
        rows: npt.NDArray[np.int64],
        which: npt.NDArray[np.int64],
        made: Sequence[Comparison],
        grounds: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.int64]:
        """Takes in comparisons that were made anew: for each row which of those `made` is its own, and the code of its
        grounds. Returns the rows that are otherwise now.
        """
        before, after = {}, {}
        changed = np.zeros(len(rows), np.bool_)
        for name, values in zip(Comparison._fields, zip(*made, strict=True), strict=True):
            interner = self.values.get(name)
            coded = values if interner is None else list(map(interner.code, values))
            before[name] = self._columns[name][rows]
            after[name] = np.array(coded, before[name].dtype)[which]
            changed |= before[name] != after[name]
        changed_rows = rows[changed]
        domains = self._columns["domain"][changed_rows]
        self._count_many(domains, {n: held[changed] for n, held in before.items()}, -1)
        self._count_many(domains, {n: held[changed] for n, held in after.items()}, 1)
        for name, held in after.items():
            self._columns[name][rows] = held
        self._columns["grounds"][rows] = grounds
        self._columns["stale"][rows] = 0
        self._columns["unsaved"][rows] = True
        return changed_rows

    def leave(self, node_id: str) -> None:
        """Leaves a node's row as it is, although it was to be read again."""
        row = self.ids.row_of(node_id)
        if row is not None:
            self._columns["stale"][row] = 0

    def saved(self, rows: npt.NDArray[np.int64]) -> None:
        """Rows are stored as they are."""
        self._columns["unsaved"][rows] = False

    def summaries(self, rows: npt.NDArray[np.int64]) -> list[tuple[NodeSummary | None, Basis]]:
        """What some rows hold, with what it was made from."""
        held: dict[str, list[Any]] = {n: self._columns[n][rows].tolist() for n in NUMBERS}
        for name, interner in self.values.items():
            held[name] = [interner.values[code] for code in self._columns[name][rows].tolist()]
        held["valid_until_ms"] = [self._ends.get(row, sys.maxsize) for row in rows.tolist()]
        made = map(NodeSummary._make, zip(*(held[n] for n in NodeSummary._fields), strict=True))
        grounds = self._columns["grounds"][rows].tolist()
        return [
            (summary if present else None, Basis(self.grounds.values[code], inputs))
            for summary, present, code, inputs in zip(
                made,
                self._columns["present"][rows].tolist(),
                grounds,
                self._columns["inputs"][rows].tolist(),
                strict=True,
            )
        ]

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

    def mark_stale(self, rows: npt.NDArray[np.bool_], how: int = READ) -> None:
        """Marks rows to be read, or compared, again; what is compared alone is read."""
        stale = self.column("stale")
        rows = rows & self.column("present")
        alone = self.column("inputs", np.flatnonzero(rows)) == ALONE
        stale[rows] = np.maximum(stale[rows], np.where(alone, READ, how))

    def mark_domains_stale(self, domains: set[str], how: int = READ) -> None:
        """Marks the rows of some domains to be read, or compared, again."""
        self.mark_stale(self.in_domains(domains), how)

    def mark_ended(self, now_ms: int) -> None:
        """Marks the rows of which a waiver has ended."""
        for row in [row for row, end in self._ends.items() if end <= now_ms]:
            self._columns["stale"][row] = READ

    def stale_rows(self, how: int, most: int) -> npt.NDArray[np.int64]:
        """Some of the rows that are to be read, or compared, again."""
        return np.flatnonzero(self.column("stale") == how)[:most]

    def unsaved_rows(self, most: int) -> npt.NDArray[np.int64]:
        """Some of the rows that are not stored as they are."""
        return np.flatnonzero(self.column("unsaved"))[:most]

    def stale_count(self) -> int:
        """Rows that are to be read or compared again."""
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

    def _count_many(
        self,
        domains: npt.NDArray[np.int32],
        values: Mapping[str, npt.NDArray[Any]],
        by: int,
        *,
        whole: bool = False,
    ) -> None:
        spelled = {name: interner.values for name, interner in self.values.items()}
        self.totals.count_many(domains, values, spelled, by, whole=whole)

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
