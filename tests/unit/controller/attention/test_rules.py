"""What an item weighs: each factor by itself, the worked example of the document, weights of domains."""

from __future__ import annotations

import pytest

from controller.attention.conditions import Kind, Severity
from controller.attention.rules import KIND_WEIGHTS, Score, Weights, score_of

HOUR_S = 3600.0
PATH = ("global", "region-a", "edge-zone-a1")


def score(
    kind: Kind = Kind.NODE_DRIFT,
    severity: Severity = Severity.LOW,
    age_s: float = 0.0,
    nodes: int = 1,
    extent: float = 1.0,
    weights: Weights | None = None,
) -> Score:
    return score_of(weights or Weights(), kind, severity, age_s, nodes, extent, PATH)


def test_every_kind_has_a_weight() -> None:
    assert set(KIND_WEIGHTS) == set(Kind)


def test_the_examples_of_the_document_weigh_what_it_says() -> None:
    many = score(Kind.NODE_DISCONNECTED, Severity.HIGH, 6 * HOUR_S, 412)
    one = score(Kind.NODE_DRIFT, Severity.MEDIUM, HOUR_S, 1, 2.0)
    masters = score(Kind.AUTHORITY_MISMATCH, Severity.CRITICAL, 0.0, 0)
    assert many.value == pytest.approx(452, abs=0.5)
    assert one.value == pytest.approx(32.5, abs=0.1)
    assert masters.value == pytest.approx(300)
    doubled = Weights(domains={"edge-zone-a1": 2.0})
    twice = score(Kind.NODE_DISCONNECTED, Severity.HIGH, 6 * HOUR_S, 412, weights=doubled)
    assert twice.value == pytest.approx(2 * many.value)


def test_age_raises_the_score_up_to_a_cap_and_a_future_beginning_does_not_lower_it() -> None:
    assert score(age_s=0).age == 1.0
    assert score(age_s=4 * HOUR_S).age == 2.0
    assert score(age_s=1e9).age == 3.0
    assert score(age_s=-HOUR_S).age == 1.0


def test_nodes_and_extent_raise_the_score_slowly() -> None:
    assert [score(nodes=n).nodes for n in (0, 1, 10, 1000)] == [1.0, 1.0, 2.0, 4.0]
    assert [score(extent=x).extent for x in (0.1, 1.0, 100.0)] == [1.0, 1.0, 3.0]


def test_the_nearest_domain_with_a_weight_decides() -> None:
    weights = Weights(domains={"global": 3.0, "region-a": 2.0})
    assert score(weights=weights).domain == 2.0
    assert score(weights=Weights(domains={"edge-zone-b1": 9.0})).domain == 1.0
