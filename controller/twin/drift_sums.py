"""Sums of drift over nodes: of a domain, of its subtree, and of both as one release. Owns the adding up; what a node's
drift is, is `drift`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from controller.twin.drift import DriftAnalyzer, NodeDrift, duration
from controller.twin.effective import effective_state_of_all
from controller.twin.facts import Facts, body_of, timestamp
from controller.twin.node import NodeAt
from federation.identifiers import Key
from souverix.fleet.v1 import drift_pb2

#: Version, hash of the configuration, version of the policy.
Release = tuple[str, str, str]


@dataclass(slots=True)
class DriftTotals:
    """Drift of several nodes, added up."""

    nodes: int = 0
    drifting: int = 0
    unknown: int = 0
    objects: int = 0
    waived: int = 0
    severity: int = 0
    score: float = 0.0
    highest_score: float = 0.0
    #: When the oldest report took effect; None: no node has reported.
    oldest_ms: int | None = None

    def add(self, drift: NodeDrift) -> None:
        """Takes in one node."""
        self.nodes += 1
        self.drifting += drift.state == drift_pb2.DRIFT_STATE_DRIFTING
        self.unknown += drift.state == drift_pb2.DRIFT_STATE_UNKNOWN
        self.objects += len(drift.objects)
        self.waived += len(drift.waived)
        self.severity = max(self.severity, drift.severity)
        score = drift.score
        self.score += score
        self.highest_score = max(self.highest_score, score)
        self._see(drift.report_ms)

    def merge(self, other: DriftTotals) -> None:
        """Takes in the nodes of another."""
        self.nodes += other.nodes
        self.drifting += other.drifting
        self.unknown += other.unknown
        self.objects += other.objects
        self.waived += other.waived
        self.severity = max(self.severity, other.severity)
        self.score += other.score
        self.highest_score = max(self.highest_score, other.highest_score)
        self._see(other.oldest_ms)

    def message(self, now_ms: int) -> drift_pb2.DriftSums:
        """As clients see it."""
        return drift_pb2.DriftSums(
            node_count=self.nodes,
            drifting_node_count=self.drifting,
            unknown_node_count=self.unknown,
            objects_out_of_spec=self.objects,
            waived_objects=self.waived,
            severity=self.severity,  # type: ignore[arg-type]
            score=self.score,
            highest_score=self.highest_score,
            stale_by=duration(max(0, now_ms - self.oldest_ms))
            if self.oldest_ms is not None
            else None,
        )

    def as_drift(self, now_ms: int) -> drift_pb2.Drift:
        """The sum in the form of a node's drift."""
        state = drift_pb2.DRIFT_STATE_IN_SPEC
        if self.drifting:
            state = drift_pb2.DRIFT_STATE_DRIFTING
        elif self.unknown:
            state = drift_pb2.DRIFT_STATE_UNKNOWN
        drift = drift_pb2.Drift(
            state=state,
            score=self.score,
            objects_out_of_spec=self.objects,
            severity=self.severity,  # type: ignore[arg-type]
            waived_objects=self.waived,
            last_evaluated_time=timestamp(now_ms),
        )
        if self.oldest_ms is not None:
            drift.last_sync_time.CopyFrom(timestamp(self.oldest_ms))
            drift.stale_by.CopyFrom(duration(max(0, now_ms - self.oldest_ms)))
        return drift

    def _see(self, report_ms: int | None) -> None:
        if report_ms is not None and (self.oldest_ms is None or report_ms < self.oldest_ms):
            self.oldest_ms = report_ms


@dataclass(slots=True)
class ClusterTotals:
    """What the nodes of a domain run, as one."""

    totals: DriftTotals = field(default_factory=DriftTotals)
    _releases: Counter[Release] = field(default_factory=Counter)

    def add(self, facts: Facts, analyzer: DriftAnalyzer, at: NodeAt) -> None:
        """Takes in one node."""
        self.totals.add(analyzer.drift_of(at))
        actual = body_of(facts, Key(at.home.domain, at.subject, "actual_state"))
        if actual is not None:
            self._releases[
                (actual.reported_version, actual.config_hash, actual.policy_version)
            ] += 1

    def message(self, analyzer: DriftAnalyzer, domain: str, now_ms: int) -> drift_pb2.ClusterState:
        """The domain's desired release, the one most nodes report, and the sum of their drifts."""
        cluster = drift_pb2.ClusterState(drift=self.totals.as_drift(now_ms))
        along = analyzer.policies_along(domain)
        desired = effective_state_of_all(along).desired
        labels = [at.spec.version for at in along if not at.spec.tags]
        release = drift_pb2.ReleaseState(
            version=desired.target_version,
            config_hash=desired.config_hash,
            policy_version=labels[-1] if labels else "",
        )
        if release.ListFields():
            cluster.desired.CopyFrom(release)
        if self._releases:
            # Of combinations that are equally frequent, the one that sorts last: the same at every controller.
            version, config_hash, policy_version = max(
                self._releases, key=lambda each: (self._releases[each], each)
            )
            cluster.actual.version = version
            cluster.actual.config_hash = config_hash
            cluster.actual.policy_version = policy_version
        return cluster


def totals_of(analyzer: DriftAnalyzer, nodes: Iterable[NodeAt]) -> DriftTotals:
    """The drift of some nodes, added up."""
    totals = DriftTotals()
    for at in nodes:
        totals.add(analyzer.drift_of(at))
    return totals
