"""The sweep of all links for modes that are due to change. Owns the table it is measured on, and the same in plain
SQLite; starts nothing.
"""

from __future__ import annotations

import random
import sqlite3
import time

from benchmarks.fleet import node_name
from controller.connectivity.due import OVERDUE_INTERVALS
from controller.connectivity.measurements import Gone
from controller.connectivity.spectrum import Mode
from controller.connectivity.table import ConnectivityTable
from controller.connectivity.thresholds import AUTONOMOUS_AFTER_S, DISCONNECTED_AFTER_S

_INTERVAL_S = 12 * 3600.0
_MODES = 12 * [Mode.EDGE_CACHED] + 2 * [Mode.AUTONOMOUS] + [Mode.DISCONNECTED]

#: What is due by time, of nodes without a link: they are asked for by mode.
_DUE = f"""
SELECT count(*) FROM links WHERE (mode = {int(Mode.EDGE_CACHED)} AND left_at <= :now - {OVERDUE_INTERVALS} * interval)
    OR (mode = {int(Mode.AUTONOMOUS)} AND last_seen <= :now - {DISCONNECTED_AFTER_S})
    OR (mode IN ({int(Mode.LIVE)}, {int(Mode.DELAYED)}, {int(Mode.RETURNING)}, {int(Mode.REPLAYING)})
        AND left_at <= :now - {AUTONOMOUS_AFTER_S})
"""  # noqa: S608


class Links:
    """The links of so many nodes, in the controller's table and in SQLite."""

    def __init__(self, nodes: int) -> None:
        self._table = ConnectivityTable()
        self._plain = sqlite3.connect(":memory:")
        self._plain.execute(
            "CREATE TABLE links (node TEXT PRIMARY KEY, mode INT, last_seen REAL, left_at REAL, interval REAL)"
        )
        self._plain.executemany(
            "INSERT INTO links VALUES (?, ?, ?, ?, ?)",
            (self._add(node_name(number), random.Random(number)) for number in range(nodes)),
        )

    def _add(self, node: str, chance: random.Random) -> tuple[str, int, float, float, float | None]:
        mode, seen_s = chance.choice(_MODES), -chance.uniform(3600.0, _INTERVAL_S)
        interval_s = _INTERVAL_S if mode is Mode.EDGE_CACHED else None
        self._table.known(node, "d", mode, seen_s, interval_s, 0.0, Gone("connection_lost", ""))
        return node, int(mode), seen_s, -AUTONOMOUS_AFTER_S, interval_s

    def sweep_s(self) -> float:
        """Seconds that a sweep takes in which nothing is due."""
        began_s = time.perf_counter()
        due = self._table.sweep(1.0)
        taken_s = time.perf_counter() - began_s
        assert not due
        return taken_s

    def plain_s(self) -> float:
        """Seconds that the same question takes SQLite."""
        began_s = time.perf_counter()
        [(due,)] = self._plain.execute(_DUE, {"now": 1.0})
        taken_s = time.perf_counter() - began_s
        assert not due
        return taken_s
