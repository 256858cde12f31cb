"""Sums over the nodes of each domain, kept in step row by row. Owns the counting; knows neither the tree nor names: a
domain is a code, and sums of several domains are added by whoever knows which belong together.

What is one of few is counted in one matrix, so that the sum over a thousand domains is one call; what is open-ended
(versions, policies) in a counter a domain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.query.summary import NodeSummary

#: Enums counted, each with its number of values. Numbers from beyond are counted as the first.
ENUMS: dict[str, int] = {
    "mode": 8,
    "phase": 9,
    "health": 5,
    "drift_state": 4,
    "drift_severity": 5,
    "kind": 6,
}

#: Numbers and flags added up.
SUMMED = ("drift_objects", "drift_waived", "drift_score", "optimistic", "conflicted")

#: Open-ended values counted.
DISTRIBUTIONS = (
    "release",
    "lifecycle_state",
    "effective_version",
    "governing_policy",
    "drift_score",
)

#: Columns of the matrix each begins at, behind the count of nodes.
_SIZES = {**ENUMS, **dict.fromkeys(SUMMED, 1)}
_STARTS = dict(zip(_SIZES, accumulate(_SIZES.values(), initial=1), strict=False))
_WIDTH = 1 + sum(_SIZES.values())


class Sums:
    """The sums of one domain, or of several."""

    __slots__ = ("_row", "distributions")

    def __init__(
        self, row: npt.NDArray[np.float64], distributions: dict[str, Counter[Any]]
    ) -> None:
        self._row = row
        self.distributions = distributions

    @property
    def nodes(self) -> int:
        """Nodes counted."""
        return int(self._row[0])

    def by(self, enum: str) -> list[int]:
        """Nodes by the value of an enum."""
        start = _STARTS[enum]
        return [int(count) for count in self._row[start : start + ENUMS[enum]]]

    def total(self, name: str) -> float:
        """The sum of one of `SUMMED`."""
        return float(self._row[_STARTS[name]])


class Totals:
    """The sums of all domains. `changes` counts what was counted, for whoever remembers what follows from it."""

    def __init__(self) -> None:
        self.changes = 0
        self._matrix = np.zeros((16, _WIDTH), np.float64)
        self._distributions: dict[int, dict[str, Counter[Any]]] = {}

    def count(self, domain: int, node: NodeSummary, by: int) -> None:
        """Adds a node (`by` 1) or takes it away (-1)."""
        self.changes += 1
        if domain >= len(self._matrix):
            more = np.zeros((max(domain + 1, 2 * len(self._matrix)), _WIDTH), np.float64)
            more[: len(self._matrix)] = self._matrix
            self._matrix = more
        row = self._matrix[domain]
        row[0] += by
        for name, size in ENUMS.items():
            value = getattr(node, name)
            row[_STARTS[name] + (value if value < size else 0)] += by
        for name in SUMMED:
            value = getattr(node, name)
            if value:
                row[_STARTS[name]] += by * value
        held = self._distributions.get(domain)
        if held is None:
            held = self._distributions[domain] = {name: Counter() for name in DISTRIBUTIONS}
        for name, counter in held.items():
            value = getattr(node, name)
            left = counter[value] + by
            if left:
                counter[value] = left
            else:
                del counter[value]

    def of(self, domains: Sequence[int]) -> Sums:
        """The sums over some domains, by code."""
        codes = [code for code in domains if code < len(self._matrix)]
        distributions: dict[str, Counter[Any]] = {name: Counter() for name in DISTRIBUTIONS}
        for code in codes:
            for name, counter in self._distributions.get(code, {}).items():
                distributions[name].update(counter)
        return Sums(self._matrix[codes].sum(axis=0), distributions)
