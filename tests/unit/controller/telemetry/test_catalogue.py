"""The metrics there are, and what is told of each in docs/telemetry.md."""

from __future__ import annotations

import re
from pathlib import Path

from controller.telemetry import catalogue
from nodeagent import telemetry as agent

PAGE = Path(__file__).parents[4] / "docs" / "telemetry.md"


def documented() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Name -> kind, unit, attributes, as the page's tables have them."""
    rows = re.findall(
        r"^\| `([a-z._]+)` \| (gauge|counter|histogram) \| `([^`]+)` \| (.*?) \| .* \|$",
        PAGE.read_text(),
        re.MULTILINE,
    )
    return {
        name: (kind, unit, tuple(re.findall(r"`([^`]+)`", by))) for name, kind, unit, by in rows
    }


def test_every_metric_is_documented_as_it_is() -> None:
    metrics = (*catalogue.METRICS, *agent.AGENT_METRICS, *agent.RELAY_METRICS)
    told = {m.name: (m.kind, m.unit, m.attributes) for m in metrics}
    assert documented() == told


def test_no_metric_is_told_apart_by_node() -> None:
    allowed = {
        "rpc.system.name", "rpc.method", "rpc.response.status_code", "error.type", "souverix.peer", "souverix.domain",
        "souverix.backlog.kind", "souverix.connectivity.mode", "souverix.drift.state",
        "souverix.log.store.state",
    }  # fmt: skip
    assert {name for metric in catalogue.METRICS for name in metric.attributes} <= allowed


def test_names_are_unique_and_histograms_have_buckets() -> None:
    names = [metric.name for metric in catalogue.METRICS]
    assert len(set(names)) == len(names)
    for metric in catalogue.METRICS:
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert list(metric.buckets) == sorted(metric.buckets)
