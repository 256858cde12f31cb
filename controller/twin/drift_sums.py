"""Sums of drift over nodes as clients see them: of a domain, of its subtree, and of both as one release. Owns these
views; the adding up is `controller/query/sums.py`'s, and what a node's drift is, is `drift`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.twin.drift import duration
from controller.twin.effective import PolicyAt, effective_state_of_all
from controller.twin.facts import timestamp
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


def cluster_state(
    totals: DriftTotals, releases: Mapping[Release, int], along: Sequence[PolicyAt], now_ms: int
) -> drift_pb2.ClusterState:
    """What the nodes of a domain run, as one: the release that the policies `along` its path ask of all of them, the
    one most nodes report, and the sum of their drifts. `releases` counts the nodes that have reported.
    """
    cluster = drift_pb2.ClusterState(drift=totals.as_drift(now_ms))
    desired = effective_state_of_all(along).desired
    labels = [at.spec.version for at in along if not at.spec.tags]
    release = drift_pb2.ReleaseState(
        version=desired.target_version,
        config_hash=desired.config_hash,
        policy_version=labels[-1] if labels else "",
    )
    if release.ListFields():
        cluster.desired.CopyFrom(release)
    if releases:
        # Of combinations that are equally frequent, the one that sorts last: the same at every controller.
        version, config_hash, policy_version = max(
            releases, key=lambda each: (releases[each], each)
        )
        cluster.actual.version = version
        cluster.actual.config_hash = config_hash
        cluster.actual.policy_version = policy_version
    return cluster
