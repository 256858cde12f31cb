"""Acknowledged writes on one controller, one a call: `SetDesiredState` by 64 callers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.client import SET_DESIRED_STATE, declaration
from benchmarks.one_controller import IN_FLIGHT, run_writes

WRITES = 8_000


def run() -> dict[str, Any]:
    """Writes a second. A reply with status OK says that the write is durable in etcd."""
    return run_writes(
        "writes", SET_DESIRED_STATE, _requests, 1, callers=IN_FLIGHT, check=lambda replies: None
    )


def _requests(run: int, ids: Sequence[str]) -> list[bytes]:
    return [
        declaration(ids[number % len(ids)], f"2.{run}.{number // len(ids)}")
        for number in range(WRITES)
    ]
