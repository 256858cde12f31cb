"""Sums over the nodes of domains and subtrees, at one time. Owns what they mean: whose mode counts as known, and which
report is the oldest; the counting itself is `totals`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from controller.query.columns import NodeColumns
from controller.query.summary import NEVER, NO_RELEASE, Release
from controller.query.totals import Sums
from controller.twin.drift_sums import DriftTotals
from controller.twin.freshness import Freshness
from souverix.fleet.v1 import drift_pb2, node_pb2

UNHEALTHY = (node_pb2.RUNTIME_HEALTH_DEGRADED, node_pb2.RUNTIME_HEALTH_FAILED)

#: Rows from which the oldest reports may be those of a while ago: a pass over them takes more than a millisecond.
MANY_ROWS = 50_000

#: How long ago at most.
OLDEST_AGE_MS = 1000


class OldestReports:
    """When the oldest report of each domain's nodes took effect; of many nodes as of a second ago at most."""

    def __init__(self, columns: NodeColumns) -> None:
        self._columns = columns
        self._at_ms = NEVER
        self._changes = -1
        self._oldest: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def of(self, codes: Sequence[int], now_ms: int) -> int | None:
        """The oldest of some domains, by code; None when no node of them has reported."""
        changes = self._columns.totals.changes
        is_old = abs(now_ms - self._at_ms) >= OLDEST_AGE_MS
        if changes != self._changes and (is_old or len(self._columns) < MANY_ROWS):
            self._look()
            self._at_ms, self._changes = now_ms, changes
        known = [code for code in codes if code < len(self._oldest)]
        oldest = int(self._oldest[known].min()) if known else _NONE
        return oldest if oldest != _NONE else None

    def _look(self) -> None:
        columns = self._columns
        report = columns.column("report_ms")
        has_reported = columns.column("present") & (report != NEVER)
        self._oldest = np.full(len(columns.values["domain"]), _NONE, np.int64)
        np.minimum.at(self._oldest, columns.column("domain")[has_reported], report[has_reported])


_NONE = np.iinfo(np.int64).max


class DomainSums:
    """The sums of one answer."""

    def __init__(self, columns: NodeColumns, oldest: OldestReports, freshness: Freshness) -> None:
        self._columns = columns
        self._oldest = oldest
        self._freshness = freshness

    def of(self, domains: Sequence[str]) -> ScopeSums:
        """The sums over the nodes that live in some domains."""
        cut_off = [d for d in domains if self._freshness.unknown_since_ms(d) is not None]
        codes = self._codes(domains)
        return ScopeSums(
            self._columns.totals.of(codes),
            self._columns.totals.of(self._codes(cut_off)) if cut_off else None,
            min((self._freshness.unknown_since_ms(d) or 0 for d in cut_off), default=None),
            self._oldest.of(codes, self._freshness.now_ms),
        )

    def _codes(self, domains: Sequence[str]) -> list[int]:
        known = map(self._columns.values["domain"].known, domains)
        return [code for code in known if code]


class ScopeSums:
    """Sums over some domains. Of nodes whose controller is cut off from here the mode is not known."""

    def __init__(
        self,
        sums: Sums,
        cut_off: Sums | None,
        unknown_since_ms: int | None,
        oldest_report_ms: int | None,
    ) -> None:
        self.sums = sums
        self._cut_off = cut_off
        #: Since when the first of the controllers cannot be reached; None: all can.
        self.unknown_since_ms = unknown_since_ms
        self.oldest_report_ms = oldest_report_ms

    @property
    def modes(self) -> list[int]:
        """Nodes by the mode that is known now."""
        counts = self.sums.by("mode")
        if self._cut_off is not None:
            for mode, hidden in enumerate(self._cut_off.by("mode")):
                counts[mode] -= hidden
                counts[0] += hidden
        return counts

    @property
    def unknown_nodes(self) -> int:
        """Nodes that were heard once, and of which it is not known how they are now."""
        if self._cut_off is None:
            return 0
        return self._cut_off.nodes - self._cut_off.by("mode")[0]

    @property
    def unhealthy_nodes(self) -> int:
        """Nodes that report degraded or failed health."""
        healths = self.sums.by("health")
        return sum(healths[health] for health in UNHEALTHY)

    @property
    def releases(self) -> Counter[Release]:
        """Nodes by what they report to run; those that report nothing are left out."""
        found: Counter[Release] = self.sums.distributions["release"].copy()
        del found[NO_RELEASE]
        return found

    def drift(self) -> DriftTotals:
        """The drift of all nodes together."""
        sums = self.sums
        severities = sums.by("drift_severity")
        states = sums.by("drift_state")
        return DriftTotals(
            nodes=sums.nodes,
            drifting=states[drift_pb2.DRIFT_STATE_DRIFTING],
            unknown=states[drift_pb2.DRIFT_STATE_UNKNOWN],
            objects=int(sums.total("drift_objects")),
            waived=int(sums.total("drift_waived")),
            severity=max((s for s, count in enumerate(severities) if count), default=0),
            score=sums.total("drift_score"),
            highest_score=max(sums.distributions["drift_score"], default=0.0),
            oldest_ms=self.oldest_report_ms,
        )
