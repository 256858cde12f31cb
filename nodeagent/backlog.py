"""The backlog: reports that the controller has not yet acknowledged, in order.

Owns the numbering of reports, the chunks they name, and the bound on both. Live and replayed reports take the
same path: every report is appended here, sent from here, and deleted on acknowledgement.

The controller sees dense numbers, and the backlog is bounded. Both hold because **a report gets its number when
it is first handed out to be sent**, durably, and never before. A numbered report is never changed or dropped. An
unnumbered one may be dropped when the backlog is full, if a newer unnumbered one of its kind supersedes it
(reports are whole values: what a newer inventory says replaces what an older one said). So no number is ever
missing, the newest value of each kind always arrives, and what was given up is counted.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import DecodeError

from nodeagent.errors import StateUnavailable
from nodeagent.identity import Identity
from nodeagent.statedir import Database, Row
from souverix.nodelink.v1 import nodelink_pb2

MAX_REPORTS = 4096
"""Reports kept: two weeks of five-minute reports, a few MB. Far above the send window, so it can be kept."""

MAX_CHUNK_BYTES_KEPT = 64 * 1024 * 1024
"""Bytes of chunks kept: hundreds of different package lists, and no threat to a small disk."""

NUMBERING_BATCH = 32
"""Reports numbered in one durable write: a replay must not wait for the disk once per report."""

DROP_ORDER = ("inventory", "actual_state")
"""Which kind gives way first when full: telemetry before state."""


class Backlog:
    """One node's backlog. Every method raises StateUnavailable when the disk refuses."""

    def __init__(
        self,
        database: Database,
        identity: Identity,
        max_reports: int = MAX_REPORTS,
        max_chunk_bytes: int = MAX_CHUNK_BYTES_KEPT,
    ) -> None:
        self._database = database
        self._identity = identity
        self._node = identity.node
        self._max_reports = max_reports
        self._max_chunk_bytes = max_chunk_bytes
        row = database.rows("SELECT * FROM node WHERE node = ?", self._node)[0]
        self.acknowledged: int = row["acknowledged"]
        self.numbered: int = row["numbered"]
        self.superseded: int = row["superseded"]
        self.waiting = database.number("SELECT COUNT(*) FROM report WHERE node = ?", self._node)

    @property
    def oldest(self) -> int:
        """Number of the oldest report not acknowledged, which it has or will get; 0 when none waits."""
        return self.acknowledged + 1 if self.waiting else 0

    def append(self, report: nodelink_pb2.Report, chunks: Mapping[str, bytes]) -> None:
        """Keep a report, not numbered yet, and the chunks it names by digest; durable on return."""
        kind = report.WhichOneof("body")
        with self._database.transaction():
            self._database.write(
                "INSERT INTO report (node, kind, body) VALUES (?, ?, ?)",
                self._node,
                kind,
                report.SerializeToString(),
            )
            entry = self._database.number("SELECT last_insert_rowid()")
            for digest, data in chunks.items():
                self._database.write(
                    "INSERT INTO chunk VALUES (?, ?) ON CONFLICT DO NOTHING", digest, data
                )
                self._database.write("INSERT INTO report_chunk VALUES (?, ?)", entry, digest)
            dropped = self._make_room()
            self._database.write(
                "UPDATE node SET superseded = superseded + ? WHERE node = ?", dropped, self._node
            )
        self.waiting += 1 - dropped
        self.superseded += dropped

    def next_after(self, sequence: int) -> nodelink_pb2.Report | None:
        """The first report numbered above `sequence`; numbers waiting ones if need be. None when none waits.

        Raises StateUnavailable when what the disk holds is no report: it is never left out, for its number would be
        missing.
        """
        row = self._first_above(sequence)
        if row is None and self._number_some():
            row = self._first_above(sequence)
        if row is None:
            return None
        try:
            report = nodelink_pb2.Report.FromString(row["body"])
        except DecodeError as error:
            raise StateUnavailable(
                f"report {row['sequence']} is damaged on the disk; if it cannot be restored, move the state "
                f"directory away and have the key given up: souverixctl reset-key {self._node}"
            ) from error
        report.sequence = row["sequence"]
        return report

    def acknowledge(self, sequence: int) -> int:
        """The controller has all reports up to `sequence`: forget them. Returns how many were forgotten."""
        if sequence <= self.acknowledged:
            return 0
        with self._database.transaction():
            gone = self._database.rows(
                "SELECT entry FROM report WHERE node = ? AND sequence <= ?", self._node, sequence
            )
            self._forget([row["entry"] for row in gone])
            self._database.write(
                "UPDATE node SET acknowledged = ? WHERE node = ?", sequence, self._node
            )
        self.acknowledged = sequence
        self.waiting -= len(gone)
        if not self.waiting:
            self._database.give_back()
        return len(gone)

    def chunk(self, digest: str) -> bytes | None:
        """The chunk with this digest, while a report that waits names it."""
        row = self._database.row(
            "SELECT data FROM chunk JOIN report_chunk USING (digest) JOIN report USING (entry) "
            "WHERE digest = ? AND node = ? LIMIT 1",
            digest,
            self._node,
        )
        return None if row is None else bytes(row["data"])

    def begin_anew(self) -> None:
        """Take a new source id and number from 1 again; nothing that waits is lost.

        For when the controller's count contradicts ours: one of the two was restored from an older copy, and
        numbers already used would be taken for repeats, or a gap could never be filled.
        """
        with self._database.transaction():
            self._identity.renew_source()
            self._database.write(
                "UPDATE node SET acknowledged = 0, numbered = 0 WHERE node = ?", self._node
            )
            self._database.write("UPDATE report SET sequence = NULL WHERE node = ?", self._node)
        self.acknowledged = self.numbered = 0

    def _first_above(self, sequence: int) -> Row | None:
        return self._database.row(
            "SELECT sequence, body FROM report WHERE node = ? AND sequence > ? "
            "ORDER BY sequence LIMIT 1",
            self._node,
            sequence,
        )

    def _number_some(self) -> int:
        with self._database.transaction():
            rows = self._database.rows(
                "SELECT entry FROM report WHERE node = ? AND sequence IS NULL ORDER BY entry LIMIT ?",
                self._node,
                NUMBERING_BATCH,
            )
            for offset, row in enumerate(rows, start=1):
                self._database.write(
                    "UPDATE report SET sequence = ? WHERE entry = ?",
                    self.numbered + offset,
                    row["entry"],
                )
            if rows:
                self._database.write(
                    "UPDATE node SET numbered = ? WHERE node = ?",
                    self.numbered + len(rows),
                    self._node,
                )
        self.numbered += len(rows)
        return len(rows)

    def _make_room(self) -> int:
        dropped = 0
        while self._overfull():
            entry = self._oldest_superseded()
            if entry is None:
                break
            self._forget([entry])
            dropped += 1
        return dropped

    def _overfull(self) -> bool:
        reports = self._database.number("SELECT COUNT(*) FROM report WHERE node = ?", self._node)
        chunk_bytes = self._database.number(
            "SELECT SUM(LENGTH(data)) FROM chunk WHERE digest IN "
            "(SELECT digest FROM report_chunk JOIN report USING (entry) WHERE node = ?)",
            self._node,
        )
        return reports > self._max_reports or chunk_bytes > self._max_chunk_bytes

    def _oldest_superseded(self) -> int | None:
        for kind in DROP_ORDER:
            row = self._database.row(
                "SELECT MIN(entry) AS oldest, MAX(entry) AS newest FROM report "
                "WHERE node = ? AND sequence IS NULL AND kind = ?",
                self._node,
                kind,
            )
            if row is not None and row["oldest"] != row["newest"]:
                return int(row["oldest"])
        return None

    def _forget(self, entries: list[int]) -> None:
        for entry in entries:
            self._database.write("DELETE FROM report WHERE entry = ?", entry)
            digests = self._database.rows("SELECT digest FROM report_chunk WHERE entry = ?", entry)
            self._database.write("DELETE FROM report_chunk WHERE entry = ?", entry)
            for row in digests:
                self._database.write(
                    "DELETE FROM chunk WHERE digest = ? AND NOT EXISTS "
                    "(SELECT 1 FROM report_chunk WHERE report_chunk.digest = chunk.digest)",
                    row["digest"],
                )
