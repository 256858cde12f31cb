"""The ledger: which commands reached the node, and what became of each.

Owns the promise behind both delivery semantics. A command is recorded before it runs and its result before it is
sent, so that a repeated command is answered from here and never run twice, also across a crash. Must never run
anything itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nodeagent.clock import US_PER_S, timestamp
from nodeagent.statedir import Database, Row
from souverix.command.v1 import command_pb2
from souverix.nodelink.v1 import nodelink_pb2

PURGE_SKEW_S = 3600
"""How long an entry outlives its command's expiry: a clock set back by less never lets a command run twice."""

MAX_ENTRIES = 10_000
"""Entries kept, about 1 KB each once finished."""

MAX_OPEN = 64
"""Commands that wait or run: they keep their action, which may be 256 KiB."""

INTERRUPTED = "interrupted: the agent stopped while the command ran, and it may run at most once"


class EntryState(Enum):
    """How far a command got at this node."""

    PENDING = "PENDING"
    BEGUN = "BEGUN"
    FINISHED = "FINISHED"


TRANSITIONS: dict[tuple[EntryState, EntryState], str] = {
    (EntryState.PENDING, EntryState.BEGUN): "its turn came, which is recorded before it runs",
    (EntryState.PENDING, EntryState.FINISHED): "refused, expired or cancelled before it ran",
    (EntryState.BEGUN, EntryState.FINISHED): "it ran, or was interrupted and must not run again",
    (EntryState.BEGUN, EntryState.PENDING): "interrupted, and running it again does no harm",
}
"""Every move there is, and why. FINISHED is final."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that waits or runs. Times are microseconds since 1970 by the agent's clock."""

    command_id: str
    state: EntryState
    at_most_once: bool
    action: command_pb2.Action
    receive_us: int
    expire_us: int


class Ledger:
    """One node's ledger. Every method raises StateUnavailable when the disk refuses."""

    def __init__(self, database: Database, node: str, max_entries: int = MAX_ENTRIES) -> None:
        self._database = database
        self._node = node
        self._max_entries = max_entries

    def knows(self, command_id: str) -> bool:
        """Whether this command was recorded before."""
        return self._row(command_id) is not None

    def has_room(self, now_us: int) -> bool:
        """Whether one more command can be recorded. Gives up entries past their time for it."""
        if self._count() < self._max_entries:
            return True
        return self.purge(now_us, acknowledged_only=False) > 0

    def open_commands(self) -> int:
        """How many commands wait or run."""
        return self._database.number(
            "SELECT COUNT(*) FROM command WHERE node = ? AND state <> ?",
            self._node,
            EntryState.FINISHED.value,
        )

    def record(self, frame: nodelink_pb2.CommandFrame, receive_us: int, expire_us: int) -> None:
        """Record a command that waits for its turn; durable on return."""
        semantics = command_pb2.DELIVERY_SEMANTICS_AT_MOST_ONCE
        self._database.write(
            "INSERT INTO command (node, command_id, state, at_most_once, action, receive_us, expire_us) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            self._node,
            frame.command_id,
            EntryState.PENDING.value,
            frame.semantics == semantics,
            frame.action.SerializeToString(),
            receive_us,
            expire_us,
        )

    def next_pending(self) -> Entry | None:
        """The command that has waited longest, or None."""
        row = self._database.row(
            "SELECT * FROM command WHERE node = ? AND state = ? ORDER BY entry LIMIT 1",
            self._node,
            EntryState.PENDING.value,
        )
        return None if row is None else _entry(row)

    def begun(self) -> list[Entry]:
        """Commands recorded as running: after a restart, those that were interrupted."""
        rows = self._database.rows(
            "SELECT * FROM command WHERE node = ? AND state = ? ORDER BY entry",
            self._node,
            EntryState.BEGUN.value,
        )
        return [_entry(row) for row in rows]

    def begin(self, command_id: str) -> bool:
        """Record that the command runs now; durable on return. False when it does not wait any more."""
        return self._move(command_id, EntryState.PENDING, EntryState.BEGUN)

    def put_back(self, command_id: str) -> bool:
        """Let an interrupted command wait for another turn."""
        return self._move(command_id, EntryState.BEGUN, EntryState.PENDING)

    def finish(
        self, command_id: str, before: EntryState, result: nodelink_pb2.CommandResult
    ) -> bool:
        """Record the result of a command that is in state `before`; durable on return. False when it is not."""
        _check(before, EntryState.FINISHED)
        changed = self._database.write(
            "UPDATE command SET state = ?, result = ?, action = NULL "
            "WHERE node = ? AND command_id = ? AND state = ?",
            EntryState.FINISHED.value,
            result.SerializeToString(),
            self._node,
            command_id,
            before.value,
        )
        return changed == 1

    def result(self, command_id: str) -> nodelink_pb2.CommandResult | None:
        """The recorded result, or None while there is none."""
        row = self._row(command_id)
        if row is None or row["result"] is None:
            return None
        return nodelink_pb2.CommandResult.FromString(row["result"])

    def unacknowledged(self) -> list[str]:
        """Commands whose result the controller has not confirmed, in the order they came."""
        rows = self._database.rows(
            "SELECT command_id FROM command WHERE node = ? AND state = ? AND acknowledged = 0 "
            "ORDER BY entry",
            self._node,
            EntryState.FINISHED.value,
        )
        return [row["command_id"] for row in rows]

    def acknowledge(self, command_id: str) -> None:
        """The controller has the result. The entry stays, against repeats, until it is purged."""
        self._database.write(
            "UPDATE command SET acknowledged = 1 WHERE node = ? AND command_id = ? AND state = ?",
            self._node,
            command_id,
            EntryState.FINISHED.value,
        )

    def purge(self, now_us: int, *, acknowledged_only: bool = True) -> int:
        """Delete finished entries past expiry and skew; return how many.

        A repeat that comes later still does not run: it is past its expiry. Results that the controller does not
        have are kept beyond that time, unless room is needed.
        """
        return self._database.write(
            "DELETE FROM command WHERE node = ? AND state = ? AND expire_us < ? AND acknowledged >= ?",
            self._node,
            EntryState.FINISHED.value,
            now_us - PURGE_SKEW_S * US_PER_S,
            int(acknowledged_only),
        )

    def _move(self, command_id: str, before: EntryState, after: EntryState) -> bool:
        _check(before, after)
        changed = self._database.write(
            "UPDATE command SET state = ? WHERE node = ? AND command_id = ? AND state = ?",
            after.value,
            self._node,
            command_id,
            before.value,
        )
        return changed == 1

    def _row(self, command_id: str) -> Row | None:
        return self._database.row(
            "SELECT * FROM command WHERE node = ? AND command_id = ?", self._node, command_id
        )

    def _count(self) -> int:
        return self._database.number("SELECT COUNT(*) FROM command WHERE node = ?", self._node)


def outcome(
    command_id: str, state: command_pb2.DeliveryState, now_us: int, error_message: str = ""
) -> nodelink_pb2.CommandResult:
    """A result without output."""
    return nodelink_pb2.CommandResult(
        command_id=command_id, state=state, error_message=error_message, time=timestamp(now_us)
    )


def _check(before: EntryState, after: EntryState) -> None:
    if (before, after) not in TRANSITIONS:
        raise ValueError(f"no transition from {before.value} to {after.value}")


def _entry(row: Row) -> Entry:
    return Entry(
        command_id=row["command_id"],
        state=EntryState(row["state"]),
        at_most_once=bool(row["at_most_once"]),
        action=command_pb2.Action.FromString(row["action"]),
        receive_us=row["receive_us"],
        expire_us=row["expire_us"],
    )
