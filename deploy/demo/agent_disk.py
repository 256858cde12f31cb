"""The disk of an agent: what waits in its backlog, and what somebody does to it who has got hold of the node. Owns that
reading and that tampering; asks no controller.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from nodeagent.statedir import open_to_read
from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import nodelink_pb2


@dataclass(frozen=True, slots=True)
class Waiting:
    """The backlog of one node: reports that wait, and the numbers of those that were handed out to be sent."""

    reports: int
    acknowledged: int
    numbered: int

    @property
    def handed_out(self) -> int:
        """Reports that have a number and are not acknowledged: they may have arrived."""
        return self.numbered - self.acknowledged

    @property
    def kept_back(self) -> int:
        """Reports that were never handed out."""
        return self.reports - self.handed_out


def backlog_of(state_dir: Path, node: str) -> Waiting:
    """What waits on the disk of an agent, also while it runs. Raises `StateDirUnusable`, `StateUnavailable`."""
    database = open_to_read(state_dir)
    try:
        reports = database.number("SELECT COUNT(*) FROM report WHERE node = ?", node)
        acknowledged = database.number("SELECT acknowledged FROM node WHERE node = ?", node)
        numbered = database.number("SELECT numbered FROM node WHERE node = ?", node)
    finally:
        database.close()
    return Waiting(reports, acknowledged, numbered)


def tamper(state_dir: Path, node: str, forged_version: str) -> int:
    """Takes a report out of the backlog of an agent that is not running, and adds a forged one; the number of the
    report that is gone.
    """
    numbered = backlog_of(state_dir, node).numbered
    state = node_pb2.ActualState(reported_version=forged_version)
    body = nodelink_pb2.Report(actual_state=state).SerializeToString()
    with contextlib.closing(sqlite3.connect(state_dir / "agent.db")) as database, database:
        database.execute("DELETE FROM report WHERE node = ? AND sequence = ?", (node, numbered - 1))
        database.execute(
            "INSERT INTO report (node, kind, body) VALUES (?, 'actual_state', ?)", (node, body)
        )
    return numbered - 1
