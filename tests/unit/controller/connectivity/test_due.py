"""Evidence that time alone makes, of one row; all of it in the life of a node: `test_table`."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from controller.connectivity.due import Columns, evidence_due, measurement_behind
from controller.connectivity.measurements import Gone
from controller.connectivity.spectrum import Evidence, Mode
from controller.connectivity.thresholds import Thresholds

LIMITS = Thresholds(autonomous_after_s=10.0, disconnected_after_s=60.0, rtt_settle_s=5.0)

NOTHING = {
    "linked_at": math.nan,
    "left_at": math.nan,
    "last_seen": math.nan,
    "turned_at": math.nan,
    "rtt": math.nan,
    "interval": math.nan,
    "visits": 0,
    "mode": Mode.UNKNOWN,
}


def row(**measured: float) -> Columns:
    return {name: np.array([value]) for name, value in {**NOTHING, **measured}.items()}


def due(columns: Columns, now_s: float) -> list[Evidence]:
    limits = {f.name: np.array([getattr(LIMITS, f.name)]) for f in fields(Thresholds)}
    return [evidence for evidence, rows in evidence_due(columns, limits, now_s) if rows[0]]


@pytest.mark.parametrize("mode", list(Mode))
def test_a_node_that_was_never_heard_becomes_nothing(mode: Mode) -> None:
    assert due(row(mode=mode), 1e9) == []


@pytest.mark.parametrize(
    ("measured", "before_s", "at_s", "evidence"),
    [
        ({"mode": Mode.LIVE, "left_at": 0.0}, 9.9, 10.0, Evidence.LOST),
        ({"mode": Mode.LIVE, "left_at": 0.0, "visits": 3}, 9.9, 10.0, Evidence.VISITS),
        ({"mode": Mode.AUTONOMOUS, "last_seen": 0.0}, 59.9, 60.0, Evidence.SILENT_TOO_LONG),
        (
            {"mode": Mode.EDGE_CACHED, "left_at": 0.0, "interval": 30.0},
            59.9,
            60.0,
            Evidence.VISIT_OVERDUE,
        ),
    ],
)
def test_evidence_is_there_once_its_time_has_come(
    measured: dict[str, float], before_s: float, at_s: float, evidence: Evidence
) -> None:
    columns = row(**measured)
    assert due(columns, before_s) == []
    assert due(columns, at_s) == [evidence]
    told = measurement_behind(evidence, columns, 0, LIMITS, Gone("connection_lost", ""), at_s)
    assert any(letter.isdigit() for letter in told)


def test_a_round_trip_counts_once_it_has_been_long_for_long_enough() -> None:
    columns = row(mode=Mode.LIVE, linked_at=0.0, rtt=LIMITS.delayed_rtt_s + 1)
    assert due(columns, 1.0) == []
    columns["rtt"][0] = LIMITS.delayed_rtt_s
    assert due(columns, 5.9) == []
    columns["rtt"][0] = LIMITS.delayed_rtt_s + 1
    assert due(columns, 6.1) == []
    assert due(columns, 11.1) == [Evidence.ROUND_TRIP_LONG]
