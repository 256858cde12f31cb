"""The sums that a domain is shown with. Owns their place in `Domain`; what is counted is `controller/query`'s."""

from __future__ import annotations

from controller.query.live import LiveColumns
from controller.query.sums import DomainSums
from controller.replica import Replica
from controller.twin.connectivity import controller_mode, domain_debt
from controller.twin.drift_sums import cluster_state
from controller.twin.effective import policies_along
from controller.twin.freshness import Freshness
from souverix.fleet.v1 import domain_pb2


def sums_of(nodes: LiveColumns, freshness: Freshness) -> DomainSums:
    """Sums for one answer."""
    return DomainSums(nodes.columns, nodes.oldest_reports, freshness)


def fill_sums(replica: Replica, resource: domain_pb2.Domain, freshness: Freshness) -> None:
    """The counts of a domain, and the summary of its subtree."""
    sums = sums_of(replica.nodes, freshness)
    subtree = sums.of(replica.nodes.tree.subtree(resource.id))
    resource.node_count = sums.of([resource.id]).sums.nodes
    resource.subtree_node_count = subtree.sums.nodes
    summary = resource.summary
    for mode, count in enumerate(subtree.modes):
        if count:
            summary.modes.add(mode=mode, node_count=count)
    for phase, count in enumerate(subtree.sums.by("phase")):
        if count:
            summary.phases.add(phase=phase, node_count=count)
    summary.unhealthy_node_count = subtree.unhealthy_nodes
    summary.mode = controller_mode(resource.id, freshness)
    debt = domain_debt(resource.id, freshness)
    if debt is not None:
        summary.sync_debt.CopyFrom(debt)
    drift = subtree.drift()
    summary.drift_objects = drift.objects
    along = policies_along(replica.state, resource.id)
    summary.cluster_state.CopyFrom(cluster_state(drift, subtree.releases, along, freshness.now_ms))
