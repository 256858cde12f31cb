"""Sums over the nodes of each domain, kept in step row by row. Owns the counting; knows neither the tree nor names: a
domain is a code, and sums of several domains are added by whoever knows which belong together.

What is one of few is counted in one matrix, so that the sum over a thousand domains is one call; what is open-ended
(versions, policies) in a counter a domain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
        self._make_room(domain)
        row = self._matrix[domain]
        row[0] += by
        for name, size in ENUMS.items():
            value = getattr(node, name)
            row[_STARTS[name] + (value if value < size else 0)] += by
        for name in SUMMED:
            value = getattr(node, name)
            if value:
                row[_STARTS[name]] += by * value
        for name, counter in self._distributions_of(domain).items():
            _add(counter, getattr(node, name), by)

    def count_many(
        self,
        domains: npt.NDArray[np.int32],
        values: Mapping[str, npt.NDArray[Any]],
        spelled: Mapping[str, Sequence[Any]],
        by: int,
        *,
        whole: bool,
    ) -> None:
        """Adds some values of many nodes, or takes them away: of each node its domain's code and, by field, its value,
        or the code of the value in `spelled`. `whole`: all values of the nodes are given, so that the nodes count, too.
        """
        if not len(domains):
            return
        self.changes += 1
        self._make_room(int(domains.max()))
        matrix, rows = self._matrix.reshape(-1), domains.astype(np.int64) * _WIDTH
        if whole:
            np.add.at(matrix, rows, by)
        for name, held in values.items():
            if name in ENUMS:
                shown = np.where(held < ENUMS[name], held, 0).astype(np.int64)
                np.add.at(matrix, rows + _STARTS[name] + shown, by)
            if name in SUMMED:
                np.add.at(matrix, rows + _STARTS[name], by * held.astype(np.float64))
            if name in DISTRIBUTIONS:
                self._distribute(name, domains, held, spelled.get(name), by)

    def _distribute(
        self,
        name: str,
        domains: npt.NDArray[np.int32],
        held: npt.NDArray[Any],
        spelled: Sequence[Any] | None,
        by: int,
    ) -> None:
        codes = held
        if spelled is None:
            numbers, codes = np.unique(held, return_inverse=True)
            spelled = numbers.tolist()
        pairs, counts = np.unique(domains * np.int64(len(spelled)) + codes, return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            domain, code = divmod(pair, len(spelled))
            _add(self._distributions_of(domain)[name], spelled[code], by * count)

    def _make_room(self, domain: int) -> None:
        if domain >= len(self._matrix):
            more = np.zeros((max(domain + 1, 2 * len(self._matrix)), _WIDTH), np.float64)
            more[: len(self._matrix)] = self._matrix
            self._matrix = more

    def _distributions_of(self, domain: int) -> dict[str, Counter[Any]]:
        held = self._distributions.get(domain)
        if held is None:
            held = self._distributions[domain] = {name: Counter() for name in DISTRIBUTIONS}
        return held

    def of(self, domains: Sequence[int]) -> Sums:
        """The sums over some domains, by code."""
        codes = [code for code in domains if code < len(self._matrix)]
        distributions: dict[str, Counter[Any]] = {name: Counter() for name in DISTRIBUTIONS}
        for code in codes:
            for name, counter in self._distributions.get(code, {}).items():
                distributions[name].update(counter)
        return Sums(self._matrix[codes].sum(axis=0), distributions)


def _add(counter: Counter[Any], value: Any, by: int) -> None:
    left = counter[value] + by
    if left:
        counter[value] = left
    else:
        del counter[value]
