"""What is measured of each node's link, in columns. Owns the measurements and each node's present mode; heartbeats
touch nothing else. Which evidence the passing of time makes of them is `due`'s; a sweep asks it for all nodes at once.

One row a node. Times are monotonic seconds, given as arguments; NaN is "never" or "not measured".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.connectivity.due import MIN_VISITS, evidence_due, measurement_behind
from controller.connectivity.measurements import Change, Gone, Measured
from controller.connectivity.spectrum import TRANSITIONS, Evidence, Mode
from controller.connectivity.thresholds import Thresholds

#: Weight of the newest round trip in the smoothed one (RFC 6298's SRTT).
RTT_WEIGHT = 0.125

#: Weight of the newest interval between visits: the pattern of the last few counts.
INTERVAL_WEIGHT = 0.3

#: Rows at the beginning; the table doubles when it is full.
FIRST_ROWS = 64

_NAN = math.nan

_COLUMNS: dict[str, tuple[Any, float]] = {
    "last_seen": (np.float64, _NAN),
    "rtt": (np.float64, _NAN),
    "interval": (np.float64, _NAN),
    "visits": (np.uint32, 0),
    "visit_at": (np.float64, _NAN),
    "linked_at": (np.float64, _NAN),
    "left_at": (np.float64, _NAN),
    "turned_at": (np.float64, _NAN),
    "level_at": (np.float64, _NAN),
    "backlog": (np.int64, 0),
    "replay_total": (np.int64, 0),
    "replay_done": (np.int64, 0),
    "replay_at": (np.float64, _NAN),
    "mode": (np.uint8, Mode.UNKNOWN),
    "profile": (np.uint16, 0),
    "domain": (np.int32, 0),
}

_NOT_BACK = Gone("connection_lost", "")


class ConnectivityTable:
    """All nodes of one controller. `domains` holds the thresholds that differ from `default`."""

    def __init__(
        self, default: Thresholds | None = None, domains: Mapping[str, Thresholds] | None = None
    ) -> None:
        domains = domains or {}
        self._profiles = [default or Thresholds(), *domains.values()]
        self._profile_of = {domain: number for number, domain in enumerate(domains, 1)}
        self._limits = {
            field.name: np.array([getattr(p, field.name) for p in self._profiles], np.float64)
            for field in fields(Thresholds)
        }
        self._rows: dict[str, int] = {}
        self._nodes: list[str] = []
        self._gone: list[Gone] = []
        self._free: list[int] = []
        self._columns: dict[str, npt.NDArray[Any]] = {}
        #: Changes whenever a row may come to stand for another node: rows looked up before are to be looked up anew.
        self.layout = 0
        self.clear()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, node: str) -> bool:
        return node in self._rows

    def clear(self) -> None:
        """Forgets all nodes."""
        self.layout += 1
        self._rows.clear()
        self._nodes.clear()
        self._gone.clear()
        self._free.clear()
        self._domains: dict[str, int] = {"": 0}
        self._columns = {n: np.full(FIRST_ROWS, v, k) for n, (k, v) in _COLUMNS.items()}

    def known(
        self,
        node: str,
        domain: str,
        mode: Mode,
        last_seen_s: float | None,
        interval_s: float | None,
        return_by_s: float,
        gone: Gone,
    ) -> None:
        """Takes in a node as it was recorded. It counts as lost when it has no link at `return_by_s`."""
        row = self._row(node, domain)
        columns = self._columns
        absent_from_s = return_by_s - self._profiles[columns["profile"][row]].autonomous_after_s
        if interval_s is not None:
            columns["interval"][row] = interval_s
            columns["visits"][row] = MIN_VISITS
            columns["visit_at"][row] = absent_from_s
        columns["mode"][row] = mode
        columns["last_seen"][row] = _NAN if last_seen_s is None else last_seen_s
        columns["left_at"][row] = absent_from_s
        self._gone[row] = gone

    def forget(self, node: str) -> None:
        """Drops a node."""
        row = self._rows.pop(node, None)
        if row is not None:
            self.layout += 1
            self._reset(row)
            self._nodes[row] = ""
            self._free.append(row)

    # What links tell.

    def linked(self, node: str, domain: str, waiting: int, now_s: float) -> Change | None:
        """A link opened; `waiting` reports at the node are not durable here yet."""
        row = self._row(node, domain)
        columns = self._columns
        limits = self._profiles[columns["profile"][row]]
        absent_s = now_s - columns["left_at"][row]
        is_first = math.isnan(absent_s) and math.isnan(columns["linked_at"][row])
        if is_first or absent_s >= limits.autonomous_after_s:
            self._note_visit(row, now_s)
        columns["linked_at"][row] = now_s
        columns["left_at"][row] = _NAN
        columns["last_seen"][row] = now_s
        columns["turned_at"][row] = _NAN
        self._note_backlog(row, waiting, now_s)
        with_backlog = waiting >= limits.replay_backlog
        columns["replay_total"][row] = waiting if with_backlog else 0
        columns["replay_done"][row] = 0
        columns["replay_at"][row] = now_s
        told = "1 report waits" if waiting == 1 else f"{waiting} reports wait"
        evidence = Evidence.LINKED_WITH_BACKLOG if with_backlog else Evidence.LINKED
        change = self._move(row, evidence, f"a link opened; {told} at the node", now_s)
        if change is None and not with_backlog:
            # Back within the grace: whatever was being replayed has arrived over the link before.
            change = self._move(row, Evidence.BACKLOG_REPLAYED, "nothing waits any more", now_s)
        return change

    def heard(self, node: str, rtt_s: float | None, waiting: int, now_s: float) -> None:
        """A heartbeat came."""
        row = self._rows.get(node)
        if row is None:
            return
        columns = self._columns
        columns["last_seen"][row] = now_s
        if rtt_s is not None:
            held = columns["rtt"][row]
            columns["rtt"][row] = rtt_s if math.isnan(held) else held + RTT_WEIGHT * (rtt_s - held)
        self._note_backlog(row, waiting, now_s)

    def rows_of(self, nodes: Iterable[str]) -> npt.NDArray[np.int64]:
        """The row of each node, -1 for one that is not known; they hold as long as `layout` does."""
        return np.array([self._rows.get(node, -1) for node in nodes], np.int64)

    def heard_all(
        self,
        rows: npt.NDArray[np.int64],
        rtts_s: npt.NDArray[np.float64],
        waiting: npt.NDArray[np.int64],
        now_s: float,
    ) -> None:
        """Heartbeats of many nodes came, each with its round trip (NaN: none measured) and its waiting reports."""
        columns = self._columns
        columns["last_seen"][rows] = now_s
        measured = ~np.isnan(rtts_s)
        if measured.any():
            fresh, measured_rows = rtts_s[measured], rows[measured]
            held = columns["rtt"][measured_rows]
            smoothed = held + RTT_WEIGHT * (fresh - held)
            columns["rtt"][measured_rows] = np.where(np.isnan(held), fresh, smoothed)
        columns["backlog"][rows] = waiting
        columns["level_at"][rows[waiting == 0]] = now_s

    def durable(self, node: str, reports: int, now_s: float) -> None:
        """So many more reports of the node are durable."""
        row = self._rows.get(node)
        if row is None:
            return
        self._columns["last_seen"][row] = now_s
        self._note_backlog(row, max(0, int(self._columns["backlog"][row]) - reports), now_s)

    def replay_begins(self, node: str, now_s: float) -> None:
        """The node's turn to replay has come; the rate is measured from the first one on."""
        row = self._rows.get(node)
        if row is not None and not self._columns["replay_done"][row]:
            self._columns["replay_at"][row] = now_s

    def arrived(self, node: str, reports: int, now_s: float) -> Change | None:
        """So many reports of the node's backlog, all together, have arrived."""
        row = self._rows.get(node)
        if row is None:
            return None
        columns = self._columns
        columns["last_seen"][row] = now_s
        total = int(columns["replay_total"][row])
        if not total or not reports:
            return None
        done = min(total, reports)
        columns["replay_done"][row] = done
        evidence = f"{done} of {total} reports have arrived"
        return self._move(row, Evidence.BACKLOG_ARRIVES, evidence, now_s)

    def reconciled(self, node: str, now_s: float) -> Change | None:
        """All that waited at the node is in effect."""
        row = self._rows.get(node)
        if row is None:
            return None
        columns = self._columns
        total = int(columns["replay_total"][row])
        columns["replay_total"][row] = columns["replay_done"][row] = 0
        took_s = max(0.0, now_s - columns["replay_at"][row])
        told = f"all {total} reports are in effect, {took_s:.1f} s after the replay began"
        return self._move(row, Evidence.BACKLOG_REPLAYED, told, now_s)

    def unlinked(self, node: str, gone: Gone, now_s: float, *, stopped: bool) -> Change | None:
        """The link ended. With `stopped`, the agent said that it stops."""
        row = self._rows.get(node)
        if row is None:
            return None
        columns = self._columns
        limits = self._profiles[columns["profile"][row]]
        if now_s - columns["linked_at"][row] >= limits.steady_after_s:
            self._forget_visits(row)
        columns["linked_at"][row] = _NAN
        columns["left_at"][row] = now_s
        columns["turned_at"][row] = _NAN
        columns["replay_total"][row] = columns["replay_done"][row] = 0
        self._gone[row] = gone
        if stopped:
            return self._move(row, Evidence.STOPPED, gone.evidence, now_s)
        return None

    # All nodes.

    def sweep(self, now_s: float) -> list[Change]:
        """What has become due by time."""
        used = len(self._nodes)
        columns = {name: column[:used] for name, column in self._columns.items()}
        limits = self._limits
        if len(self._profiles) > 1:
            limits = {name: values[columns["profile"]] for name, values in limits.items()}
        changes = []
        for evidence, rows in evidence_due(columns, limits, now_s):
            for row in np.flatnonzero(rows).tolist():
                profile = self._profiles[columns["profile"][row]]
                told = measurement_behind(evidence, columns, row, profile, self._gone[row], now_s)
                change = self._move(row, evidence, told, now_s)
                if change is not None:
                    changes.append(change)
        return changes

    def measured(self, node: str, now_s: float) -> Measured | None:
        """What is known of one node; None when it was never heard here."""
        row = self._rows.get(node)
        if row is None:
            return None
        columns = self._columns
        pattern = columns["visits"][row] >= MIN_VISITS
        interval_s = _number(columns["interval"][row]) if pattern else None
        visit_s = _number(columns["visit_at"][row])
        linked = not math.isnan(columns["linked_at"][row])
        done = int(columns["replay_done"][row])
        elapsed_s = now_s - columns["replay_at"][row]
        return Measured(
            Mode(columns["mode"][row]),
            linked,
            _number(columns["last_seen"][row]),
            _number(columns["rtt"][row]),
            interval_s,
            visit_s + interval_s if interval_s and visit_s is not None and not linked else None,
            _number(columns["level_at"][row]),
            int(columns["backlog"][row]),
            int(columns["replay_total"][row]),
            done,
            float(done / elapsed_s) if done and elapsed_s > 0 else None,
        )

    def waiting(self) -> dict[str, int]:
        """Reports that wait at the nodes of each domain, as they told when they were last heard."""
        sums = np.bincount(self._columns["domain"], self._columns["backlog"], len(self._domains))
        return {domain: int(sums[code]) for domain, code in self._domains.items() if sums[code]}

    def backlogs(self, least: int) -> list[tuple[str, int, float | None]]:
        """Linked nodes at which at least so many reports wait: with how many, and when nothing waited last."""
        columns = self._columns
        waiting = (columns["backlog"] >= least) & ~np.isnan(columns["linked_at"])
        return [
            (self._nodes[row], int(columns["backlog"][row]), _number(columns["level_at"][row]))
            for row in np.flatnonzero(waiting).tolist()
        ]

    # Rows.

    def _move(self, row: int, evidence: Evidence, words: str, now_s: float) -> Change | None:
        columns = self._columns
        before = Mode(columns["mode"][row])
        edge = TRANSITIONS.get((before, evidence))
        if edge is None:
            return None
        columns["mode"][row] = edge.to
        columns["turned_at"][row] = _NAN
        if evidence is Evidence.STEADY:
            self._forget_visits(row)
        reason = edge.reason
        if evidence in (Evidence.LOST, Evidence.STOPPED):
            reason = self._gone[row].reason
        interval = columns["interval"][row] if edge.to is Mode.EDGE_CACHED else _NAN
        return Change(
            self._nodes[row],
            before,
            edge.to,
            reason,
            words,
            now_s,
            _number(columns["last_seen"][row]),
            _number(columns["rtt"][row]),
            _number(interval),
            int(columns["backlog"][row]),
        )

    def _note_backlog(self, row: int, waiting: int, now_s: float) -> None:
        self._columns["backlog"][row] = waiting
        if not waiting:
            self._columns["level_at"][row] = now_s

    def _note_visit(self, row: int, now_s: float) -> None:
        columns = self._columns
        earlier = columns["visit_at"][row]
        if not math.isnan(earlier):
            gap_s, held = now_s - earlier, columns["interval"][row]
            columns["interval"][row] = (
                gap_s if math.isnan(held) else held + INTERVAL_WEIGHT * (gap_s - held)
            )
        columns["visit_at"][row] = now_s
        columns["visits"][row] += 1

    def _forget_visits(self, row: int) -> None:
        self._columns["visits"][row] = 0
        self._columns["interval"][row] = _NAN
        self._columns["visit_at"][row] = _NAN

    def _row(self, node: str, domain: str) -> int:
        row = self._rows.get(node)
        if row is None:
            row = self._free.pop() if self._free else self._new_row()
            self._rows[node] = row
            self._nodes[row] = node
        self._columns["profile"][row] = self._profile_of.get(domain, 0)
        self._columns["domain"][row] = self._domains.setdefault(domain, len(self._domains))
        return row

    def _new_row(self) -> int:
        row = len(self._nodes)
        if row == len(self._columns["mode"]):
            for name, (kind, empty) in _COLUMNS.items():
                fresh = np.full(row, empty, kind)
                self._columns[name] = np.concatenate([self._columns[name], fresh])
        self._nodes.append("")
        self._gone.append(_NOT_BACK)
        return row

    def _reset(self, row: int) -> None:
        for name, (_, empty) in _COLUMNS.items():
            self._columns[name][row] = empty
        self._gone[row] = _NOT_BACK


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
