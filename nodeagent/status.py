"""Tells what a state directory knows, as `souverix-node status` prints it.

Owns the reading and the wording. Reads only, also while an agent runs.
"""

from __future__ import annotations

from pathlib import Path

from nodeagent.clock import timestamp
from nodeagent.fence import Fence
from nodeagent.statedir import Database, Row, open_to_read
from souverix.command.v1 import command_pb2
from souverix.nodelink.v1 import nodelink_pb2

NEWEST_COMMANDS = 5
"""Commands shown for each node, newest first."""

Status = dict[str, object]


def read_status(state_dir: Path) -> list[Status]:
    """What is known of each node, in plain values fit for JSON. Raises StateDirUnusable, StateUnavailable."""
    database = open_to_read(state_dir)
    try:
        rows = database.rows("SELECT * FROM node ORDER BY node")
        return [_status(database, row) for row in rows]
    finally:
        database.close()


def lines(status: Status) -> list[str]:
    """One node's status for people."""
    shown = []
    for name, value in status.items():
        if isinstance(value, dict):
            value = "  ".join(f"{key} {entry}" for key, entry in value.items())
        if isinstance(value, list):
            shown += [f"  {name.replace('_', ' '):<18} {entry}" for entry in value]
        elif name == "node":
            shown.append(str(value))
        else:
            shown.append(f"  {name.replace('_', ' '):<18} {value or '-'}")
    return shown


def _status(database: Database, row: Row) -> Status:
    node = row["node"]
    fence = None
    if row["fence"] is not None:
        fence = str(Fence.from_message(nodelink_pb2.Fence.FromString(row["fence"])))
    config = None
    if row["config_name"] is not None:
        config = f"{row['config_name']}, applied {timestamp(row['config_time_us']).ToJsonString()}"
    ledger = {
        state.lower(): database.number(
            "SELECT COUNT(*) FROM command WHERE node = ? AND state = ?", node, state
        )
        for state in ("PENDING", "BEGUN", "FINISHED")
    }
    ledger["unacknowledged"] = database.number(
        "SELECT COUNT(*) FROM command WHERE node = ? AND result IS NOT NULL AND acknowledged = 0",
        node,
    )
    return {
        "node": node,
        "source": row["source"],
        "domain": row["domain"],
        "fence": fence,
        "frames_refused": row["frames_refused"],
        "backlog": {
            "waiting": database.number("SELECT COUNT(*) FROM report WHERE node = ?", node),
            "acknowledged": row["acknowledged"],
            "numbered": row["numbered"],
            "superseded": row["superseded"],
        },
        "ledger": ledger,
        "config": config,
        "newest_commands": _newest_commands(database, node),
    }


def _newest_commands(database: Database, node: str) -> list[str]:
    rows = database.rows(
        "SELECT command_id, state, result FROM command WHERE node = ? ORDER BY entry DESC LIMIT ?",
        node,
        NEWEST_COMMANDS,
    )
    return [f"{row['command_id']}  {_ended(row)}" for row in rows]


def _ended(row: Row) -> str:
    if row["result"] is None:
        return str(row["state"])
    result = nodelink_pb2.CommandResult.FromString(row["result"])
    name = command_pb2.DeliveryState.Name(result.state).removeprefix("DELIVERY_STATE_")
    return f"{name} {result.error_message}".rstrip()
