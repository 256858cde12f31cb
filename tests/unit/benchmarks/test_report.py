from __future__ import annotations

import json

import pytest

from benchmarks.report import line, percentile, report, rounded


def test_report_holds_medians_and_the_ratio_to_the_first_baseline() -> None:
    result = report("catchup", "events/s", [5.0, 1.0, 3.0], {"a": [2.0, 4.0, 1.5], "b": [10.0]})
    assert result == {
        "benchmark": "catchup",
        "value": 3.0,
        "unit": "events/s",
        "baseline": {"a": 2.0, "b": 10.0},
        "ratio": 1.5,
        "runs": [5.0, 1.0, 3.0],
    }


def test_further_fields_follow() -> None:
    result = report("convergence", "ms", [5.0], {"a": [2.0]}, p99=9.0)
    assert list(result)[-1] == "p99"
    assert result["p99"] == 9.0


def test_figures_keep_four_digits() -> None:
    assert rounded(123456.7) == 123500
    assert rounded(0.0123456) == 0.01235
    assert rounded(0) == 0


@pytest.mark.parametrize(
    ("runs", "baselines"), [([], {"a": [1.0]}), ([1.0], {}), ([1.0], {"a": []})]
)
def test_nothing_measured_is_nothing_reported(
    runs: list[float], baselines: dict[str, list[float]]
) -> None:
    with pytest.raises(ValueError, match="reports nothing"):
        report("catchup", "events/s", runs, baselines)


def test_a_report_is_one_line_of_json() -> None:
    result = report("catchup", "events/s", [3.0], {"a": [2.0]})
    text = line(result)
    assert "\n" not in text
    assert json.loads(text) == result


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, p) for p in (0, 1, 50, 99, 100)] == [1.0, 1.0, 50.0, 99.0, 100.0]
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)
