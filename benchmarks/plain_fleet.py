"""The same fleet in plain SQLite, asked by hand-written SQL: what the product's queries are compared with. Owns the
tables, their indexes and the statements; one of each for what the benchmark asks, which a product that takes any filter
could not have.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.fleet import NodeFacts, region_of
from benchmarks.queries import PAGE_SIZE
from controller.query.stored_summary import unpack
from controller.twin.versions import read_version
from souverix.fleet.v1 import connectivity_pb2, domain_pb2, drift_pb2, lifecycle_pb2, node_pb2

#: What each aspect's column holds.
ASPECTS: dict[str, Any] = {
    "placement": node_pb2.Placement,
    "existence": domain_pb2.Existence,
    "node_spec": node_pb2.NodeSpec,
    "desired_state": node_pb2.DesiredState,
    "actual_state": node_pb2.ActualState,
    "lifecycle": lifecycle_pb2.LifecycleState,
    "link_state": connectivity_pb2.LinkState,
}

_ROWS = """
CREATE TABLE fleet (
    id TEXT PRIMARY KEY, region TEXT, zone TEXT, mode INT, phase INT, health INT, version INT, policy TEXT,
    drift_state INT, severity INT, score REAL, objects INT, report_ms INT, conflicted INT
) WITHOUT ROWID;
CREATE TABLE tags (tag TEXT, id TEXT, PRIMARY KEY (tag, id)) WITHOUT ROWID;
"""

_INDEXES = """
CREATE INDEX by_mode ON fleet (mode, id);
CREATE INDEX by_drift ON fleet (phase, drift_state, id);
CREATE INDEX by_version ON fleet (mode, version, id);
CREATE INDEX by_report ON fleet (conflicted, report_ms);
CREATE INDEX by_severity ON fleet (severity, id);
CREATE INDEX for_overviews ON fleet (region, mode, phase, health, drift_state, severity, version,
    policy, objects, score);
ANALYZE;
"""

_DRIFTING = drift_pb2.DRIFT_STATE_DRIFTING
_MEDIUM = drift_pb2.DRIFT_SEVERITY_MEDIUM
_ACTIVE = lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE
_AUTONOMOUS = connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS
_CACHED = connectivity_pb2.CONNECTIVITY_MODE_EDGE_CACHED
_DEGRADED = node_pb2.RUNTIME_HEALTH_DEGRADED

#: The conditions of `FILTERS`, in their order; the time of the oldest report that is not stale is the only parameter.
CONDITIONS = (
    f"FROM fleet WHERE mode = {_AUTONOMOUS}",
    f"FROM fleet WHERE phase = {_ACTIVE} AND drift_state = {_DRIFTING}",
    f"FROM fleet WHERE mode = {_CACHED} AND version < 1004007",
    f"FROM tags JOIN fleet USING (id) WHERE tag = 'lab' AND health = {_DEGRADED}",
    "FROM fleet WHERE conflicted = 0 AND report_ms < :stale_ms",
    f"FROM fleet WHERE id GLOB 'zone-00*' AND severity >= {_MEDIUM}",
)

_OVERVIEWS = """
SELECT region, mode, phase, health, drift_state, severity, version, policy, count(*), sum(objects), sum(score)
FROM fleet GROUP BY region, mode, phase, health, drift_state, severity, version, policy
"""


class PlainFleet:
    """One file with the whole fleet. `take_facts` and `take_rows` fill it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self._path.parent.glob(f"{self._path.name}*"))

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()

    def take_facts(self, facts: Iterable[NodeFacts]) -> None:
        """A row a node, a column an aspect."""
        columns = ", ".join(f"{aspect} BLOB" for aspect in ASPECTS)
        self._db.execute(f"CREATE TABLE nodes (id TEXT PRIMARY KEY, domain TEXT, {columns})")
        self._db.executemany(
            f"INSERT INTO nodes VALUES ({', '.join('?' * (2 + len(ASPECTS)))})",  # noqa: S608
            (
                (n.node, n.zone, *(n.bodies[aspect].SerializeToString() for aspect in ASPECTS))
                for n in facts
            ),
        )
        self._db.commit()

    def take_rows(self, store: Path) -> int:
        """The rows of the product's own read model, from the store of a controller that does not run; how many."""
        self._db.executescript(_ROWS)
        tags: list[tuple[str, str]] = []
        self._db.executemany(
            f"INSERT INTO fleet VALUES ({', '.join('?' * 14)})",  # noqa: S608
            _rows(store, tags),
        )
        self._db.executemany("INSERT INTO tags VALUES (?, ?)", tags)
        self._db.commit()
        self._db.executescript(_INDEXES)
        [(count,)] = self._db.execute("SELECT count(*) FROM fleet")
        return int(count)

    def detail(self, node: str) -> None:
        """All that is known of one node, parsed."""
        row = self._db.execute("SELECT * FROM nodes WHERE id = ?", (node,)).fetchone()
        _parse(row)

    def page(self, which: int, now_ms: int) -> int:
        """The first page of the nodes that one of `FILTERS` finds, parsed; how many there are on all pages."""
        condition, parameters = CONDITIONS[which], {"stale_ms": now_ms - 20_000}
        rows = self._db.execute(
            f"SELECT * FROM nodes JOIN (SELECT id {condition} ORDER BY id LIMIT {PAGE_SIZE})"  # noqa: S608
            " USING (id) ORDER BY id",
            parameters,
        )
        for row in rows:
            _parse(row)
        [(count,)] = self._db.execute(f"SELECT count(*) {condition}", parameters)
        return int(count)

    def overview(self) -> int:
        """The counts of all regions; how many groups they are in."""
        return len(self._db.execute(_OVERVIEWS).fetchall())


def _parse(row: tuple[Any, ...]) -> None:
    for message, value in zip(ASPECTS.values(), row[2:], strict=True):
        message.FromString(value)


def _rows(store: Path, tags: list[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
    held = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        for domain, subject, data in held.execute(
            "SELECT name, subjects.subject, data FROM summaries JOIN subjects ON subjects.id = summaries.subject"
            " JOIN domains ON domains.id = subjects.domain"
        ):
            node, (summary, _) = subject.removeprefix("nodes/"), unpack(domain, data)
            tags += ((tag, node) for tag in summary.tags)
            version = read_version(summary.release[0])
            release = version.release if version is not None else (0, 0, 0)
            yield (
                node,
                region_of(domain),
                domain,
                summary.mode,
                summary.phase,
                summary.health,
                release[0] * 1_000_000 + release[1] * 1000 + release[2],
                summary.governing_policy,
                summary.drift_state,
                summary.drift_severity,
                summary.drift_score,
                summary.drift_objects,
                summary.report_ms,
                summary.conflicted,
            )
    finally:
        held.close()
