"""Acknowledged writes on one controller, 500 a call: `BatchSetDesiredStates` by four callers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.client import (
    BATCH_ITEMS,
    BATCH_SET_DESIRED_STATES,
    batch_of_declarations,
    check_batches,
)
from benchmarks.one_controller import run_writes

BATCHES = 100

#: While one caller's batch is committed, the next ones are checked.
CALLERS = 4


def run() -> dict[str, Any]:
    """Writes a second, each with its own outcome in the reply."""
    return run_writes(
        "batch-writes",
        BATCH_SET_DESIRED_STATES,
        _requests,
        BATCH_ITEMS,
        callers=CALLERS,
        check=check_batches,
    )


def _requests(run: int, ids: Sequence[str]) -> list[bytes]:
    groups = [ids[at : at + BATCH_ITEMS] for at in range(0, len(ids), BATCH_ITEMS)]
    return [
        batch_of_declarations(groups[number % len(groups)], f"2.{run}.{number}")
        for number in range(BATCHES)
    ]
