"""Which evidence of a node's mode the passing of time alone makes: absence, overdue visits, silence, a steady link,
round trips that settled. Owns those conditions and their words; knows no node, and changes no mode.

Columns and rows are those of `controller.connectivity.table`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.connectivity.measurements import Gone
from controller.connectivity.spectrum import Evidence, Mode
from controller.connectivity.thresholds import Thresholds

Columns = Mapping[str, npt.NDArray[Any]]
Mask = npt.NDArray[np.bool_]

#: Short visits in a row that make a pattern: two may be an accident.
MIN_VISITS = 3

#: Intervals without a visit after which a node that comes by is overdue: one may be missed.
OVERDUE_INTERVALS = 2.0


def evidence_due(
    columns: Columns, limits: Columns, now_s: float
) -> tuple[tuple[Evidence, Mask], ...]:
    """Evidence by time, each with the rows it is there for. `limits` holds each threshold: one value, or one a row."""
    mode = columns["mode"]
    linked = ~np.isnan(columns["linked_at"])
    absent_s = now_s - columns["left_at"]
    live, delayed = mode == Mode.LIVE, mode == Mode.DELAYED
    cached = mode == Mode.EDGE_CACHED
    reachable = live | delayed | (mode == Mode.RETURNING) | (mode == Mode.REPLAYING)
    lost = ~linked & reachable & (absent_s >= limits["autonomous_after_s"])
    visits = lost & (live | delayed) & (columns["visits"] >= MIN_VISITS)
    overdue = ~linked & cached & (absent_s >= OVERDUE_INTERVALS * columns["interval"])
    silent_s = now_s - columns["last_seen"]
    silent = ~linked & (mode == Mode.AUTONOMOUS) & (silent_s >= limits["disconnected_after_s"])
    steady = linked & cached & (now_s - columns["linked_at"] >= limits["steady_after_s"])
    long, short = _round_trips(columns, limits, linked, live, delayed, now_s)
    return (
        (Evidence.VISITS, visits),
        (Evidence.LOST, lost & ~visits),
        (Evidence.VISIT_OVERDUE, overdue),
        (Evidence.SILENT_TOO_LONG, silent),
        (Evidence.STEADY, steady),
        (Evidence.ROUND_TRIP_LONG, long),
        (Evidence.ROUND_TRIP_SHORT, short),
    )


def measurement_behind(
    evidence: Evidence, columns: Columns, row: int, limits: Thresholds, gone: Gone, now_s: float
) -> str:
    """The measurement behind evidence of a row, for people."""
    absent = f"no link for {now_s - columns['left_at'][row]:.1f} s"
    match evidence:
        case Evidence.LOST:
            told = f"{gone.evidence}; " if gone.evidence else ""
            return f"{told}{absent}, limit {limits.autonomous_after_s:g} s"
        case Evidence.VISITS:
            return f"{columns['visits'][row]} short visits, {columns['interval'][row]:.1f} s apart"
        case Evidence.VISIT_OVERDUE:
            return f"{absent}; its visits were {columns['interval'][row]:.1f} s apart"
        case Evidence.SILENT_TOO_LONG:
            silent_s = now_s - columns["last_seen"][row]
            return f"nothing heard for {silent_s:.0f} s, limit {limits.disconnected_after_s:g} s"
        case Evidence.STEADY:
            stood_s = now_s - columns["linked_at"][row]
            return f"linked for {stood_s:.1f} s, limit {limits.steady_after_s:g} s"
        case Evidence.ROUND_TRIP_LONG:
            return f"round trip {columns['rtt'][row]:.3f} s, limit {limits.delayed_rtt_s:g} s"
        case _:
            line_s = limits.delayed_rtt_s * limits.live_rtt_share
            return f"round trip {columns['rtt'][row]:.3f} s, limit {line_s:g} s"


def _round_trips(
    columns: Columns,
    limits: Columns,
    linked: Mask,
    live: Mask,
    delayed: Mask,
    now_s: float,
) -> tuple[Mask, Mask]:
    """Of the linked nodes, those whose round trips have been on the other side of the line for long enough. Since when
    they are is noted in the column `turned_at`.
    """
    rtt, turned = columns["rtt"], columns["turned_at"]
    long = linked & live & (rtt > limits["delayed_rtt_s"])
    short = linked & delayed & (rtt < limits["delayed_rtt_s"] * limits["live_rtt_share"])
    other_side = long | short
    fresh = other_side & np.isnan(turned)
    turned[fresh] = now_s
    turned[~other_side] = math.nan
    settled = other_side & (now_s - turned >= limits["rtt_settle_s"])
    return long & settled, short & settled
