"""What a benchmark says in the end. Owns the one line of JSON and the statistics in it; never measures."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

#: Runs of one benchmark: the median of five rides out two disturbed ones.
RUNS = 5

#: Digits that figures of a shared machine can bear.
SIGNIFICANT_DIGITS = 4


def report(
    benchmark: str,
    unit: str,
    runs: Sequence[float],
    baselines: Mapping[str, Sequence[float]],
    **further: Any,
) -> dict[str, Any]:
    """The report of a benchmark: medians of the runs and of each baseline's, and the ratio to the first baseline.

    `further` fields are added as they are. Raises `ValueError` without runs or without a baseline.
    """
    if not runs or not baselines or not all(baselines.values()):
        raise ValueError(f"{benchmark} reports nothing: it has no runs or no baseline")
    value = statistics.median(runs)
    baseline = {name: statistics.median(measured) for name, measured in baselines.items()}
    first = next(iter(baseline.values()))
    return {
        "benchmark": benchmark,
        "value": rounded(value),
        "unit": unit,
        "baseline": {name: rounded(median) for name, median in baseline.items()},
        "ratio": rounded(value / first),
        "runs": [rounded(run) for run in runs],
        **further,
    }


def line(result: Mapping[str, Any]) -> str:
    """A report as one line of JSON."""
    return json.dumps(result, separators=(", ", ": "))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed (nearest rank).

    Raises `ValueError` without values.
    """
    if not values:
        raise ValueError("there is no percentile of nothing")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def rounded(value: float) -> float:
    """A figure with `SIGNIFICANT_DIGITS`."""
    if value == 0:
        return 0.0
    digits = SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(abs(value)))
    return round(value, digits)


def say(text: str) -> None:
    """Progress, for people: standard output holds reports only."""
    print(text, file=sys.stderr, flush=True)
