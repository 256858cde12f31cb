"""Reads of nodes and domains: get, list, and the filters that lists and watches share. Owns which nodes a query means;
answers from what is known here, and says how fresh that is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from controller.replica import Replica
from controller.services.fleet_fields import check_id, check_time, id_in_name
from controller.services.fleet_masks import apply_read_mask, check_mask
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_rules import freshness_of, required_node
from controller.services.paging import cut, page_of
from controller.twin.domain import compose_domain, is_known, live_subtree, nodes_in
from controller.twin.drift import DriftAnalyzer
from controller.twin.effective import effective_state
from controller.twin.node import NodeAt, compose_node
from federation.errors import InvalidWrite
from federation.state import State
from souverix.fleet.v1 import domain_pb2, fleet_service_pb2, node_pb2

#: Words, modes or phases in one filter.
MAX_FILTER_VALUES = 64


class NodeFilter:
    """Which nodes a list or a watch asks for. Raises `InvalidWrite`, `NotFound` for what no query may be."""

    def __init__(self, replica: Replica, request: Any) -> None:
        self.domain: str = check_id(request.domain or replica.config.controller.domain, "domain")
        self._state = replica.state
        check_domain(self._state, self.domain)
        for name in ("tags", "modes", "phases", "drift_states"):
            if len(getattr(request, name)) > MAX_FILTER_VALUES:
                raise InvalidWrite(f"{name} holds more than {MAX_FILTER_VALUES} values", field=name)
        check_mask(request.read_mask, node_pb2.Node, "read_mask")
        self._request = request
        self._tags = frozenset(request.tags)
        self._modes = frozenset(request.modes)
        self._phases = frozenset(request.phases)
        self._drift_states = frozenset(request.drift_states)
        if not 0 <= request.min_drift_score < math.inf:
            raise InvalidWrite(
                "min_drift_score is negative or no number; leave it out for any",
                field="min_drift_score",
            )
        times = request.DESCRIPTOR.fields_by_name
        self._bounds = (
            check_time(request, "update_time_start") if "update_time_start" in times else None,
            check_time(request, "update_time_end") if "update_time_end" in times else None,
        )

    def domains(self) -> list[str]:
        """The domains asked for."""
        if self._request.include_subtree:
            return live_subtree(self._state, self.domain)
        return [self.domain]

    def holds(self, domain: str) -> bool:
        """Tells whether a node of this domain is asked for."""
        if domain == self.domain:
            return True
        return self._request.include_subtree and self._state.authority.is_within(
            domain, self.domain
        )

    def candidates(self) -> Iterator[NodeAt]:
        """Nodes of the domains asked for, in no order, their contents not looked at."""
        for domain in self.domains():
            yield from nodes_in(self._state, domain)

    @property
    def looks_at_drift(self) -> bool:
        """Tells whether a node's drift decides."""
        return bool(self._drift_states) or self._request.min_drift_score > 0

    @property
    def shows_drift(self) -> bool:
        """Tells whether a node's drift must be computed: it decides, or the read mask names it."""
        return self.looks_at_drift or wants_drift(self._request.read_mask)

    @property
    def looks_inside(self) -> bool:
        """Tells whether a node's contents decide."""
        return bool(
            self._tags
            or self.looks_at_drift
            or self._modes
            or self._phases
            or self._request.policy_bundle
            or any(bound is not None for bound in self._bounds)
        )

    def matches(self, node: node_pb2.Node) -> bool:
        """Tells whether a node's contents fit."""
        bundle = self._request.policy_bundle
        start, end = self._bounds
        updated = node.update_time.ToNanoseconds()
        return (
            self._tags <= set(node.spec.tags)
            and (not self._modes or node.connectivity.link.mode in self._modes)
            and (not self._phases or node.lifecycle.phase in self._phases)
            and (not bundle or node.desired_state.policy_bundle == bundle)
            and (not self._drift_states or node.drift.state in self._drift_states)
            and node.drift.score >= self._request.min_drift_score
            and (start is None or updated >= start)
            and (end is None or updated < end)
        )


def get_node(replica: Replica, request: Any) -> fleet_service_pb2.GetNodeResponse:
    """As `FleetService.GetNode`."""
    subject = f"nodes/{id_in_name(request.name, 'nodes')}"
    check_mask(request.read_mask, node_pb2.Node, "read_mask")
    at = required_node(replica.state, subject)
    freshness = freshness_of(replica)
    node = compose_node(replica.state, at, freshness)
    effective = effective_state(replica.state, at.home.domain, subject)
    node.effective_desired_state.desired_state.CopyFrom(effective.desired)
    node.effective_desired_state.decided_by.update(effective.decided_by)
    if wants_drift(request.read_mask):
        drift = DriftAnalyzer(replica.state, freshness.now_ms).drift_of(at)
        node.drift.CopyFrom(drift.message(details=True))
    return fleet_service_pb2.GetNodeResponse(node=apply_read_mask(request.read_mask, node))


def list_nodes(replica: Replica, request: Any) -> fleet_service_pb2.ListNodesResponse:
    """As `FleetService.ListNodes`: ordered by id."""
    wanted = NodeFilter(replica, request)
    page = page_of(request)
    freshness = freshness_of(replica)
    analyzer = DriftAnalyzer(replica.state, freshness.now_ms) if wanted.shows_drift else None

    def compose(at: NodeAt) -> node_pb2.Node:
        node = compose_node(replica.state, at, freshness)
        if analyzer is not None:
            node.drift.CopyFrom(analyzer.drift_of(at).message(details=False))
        return node

    if wanted.looks_inside:
        composed = map(compose, wanted.candidates())
        nodes, token = cut((n for n in composed if wanted.matches(n)), page, _node_id)
    else:
        found, token = cut(wanted.candidates(), page, _subject_id)
        nodes = [compose(at) for at in found]
    return fleet_service_pb2.ListNodesResponse(
        nodes=[apply_read_mask(request.read_mask, node) for node in nodes],
        next_page_token=token,
        as_of_time=freshness.oldest(wanted.domains()),
    )


def get_domain(replica: Replica, request: Any) -> fleet_service_pb2.GetDomainResponse:
    """As `FleetService.GetDomain`."""
    domain = id_in_name(request.name, "domains")
    check_mask(request.read_mask, domain_pb2.Domain, "read_mask")
    check_domain(replica.state, domain)
    resource = compose_domain(
        replica.state, domain, freshness_of(replica), with_sums=wants_sums(request.read_mask)
    )
    return fleet_service_pb2.GetDomainResponse(domain=apply_read_mask(request.read_mask, resource))


def list_domains(replica: Replica, request: Any) -> fleet_service_pb2.ListDomainsResponse:
    """As `FleetService.ListDomains`: parents before children."""
    check_mask(request.read_mask, domain_pb2.Domain, "read_mask")
    for name in ("tags", "kinds"):
        if len(getattr(request, name)) > MAX_FILTER_VALUES:
            raise InvalidWrite(f"{name} holds more than {MAX_FILTER_VALUES} values", field=name)
    state = replica.state
    page = page_of(request)
    freshness = freshness_of(replica)
    asked = domains_at(state, request.domain, request.include_subtree)
    tags, kinds = frozenset(request.tags), frozenset(request.kinds)
    fitting = []
    for domain in asked:
        resource = compose_domain(state, domain, freshness, with_sums=False)
        if tags <= set(resource.spec.tags) and (not kinds or resource.spec.kind in kinds):
            fitting.append(domain)
    found, token = cut(fitting, page, lambda domain: path_key(state, domain))
    with_sums = wants_sums(request.read_mask)
    return fleet_service_pb2.ListDomainsResponse(
        domains=[
            apply_read_mask(
                request.read_mask, compose_domain(state, d, freshness, with_sums=with_sums)
            )
            for d in found
        ],
        next_page_token=token,
        as_of_time=freshness.oldest(asked),
    )


def domains_at(state: State, domain: str, include_subtree: bool) -> list[str]:
    """The domains a query asks for; without a domain it begins at the root. Raises `InvalidWrite`, `NotFound`."""
    if not domain:
        roots = [d for d, record in state.authority.records.items() if not record.parent]
        return [at for root in sorted(roots) for at in domains_at(state, root, include_subtree)]
    check_id(domain, "domain")
    check_domain(state, domain)
    if include_subtree:
        return live_subtree(state, domain)
    children = sorted(c for c in state.authority.children_of(domain) if is_known(state, c))
    return [domain, *children]


def path_key(state: State, domain: str) -> str:
    """Sorts domains so that parents come before children."""
    return "\0".join(state.authority.path_of(domain) or (domain,))


def wants_drift(mask: Any) -> bool:
    """Tells whether a read of nodes needs their drift."""
    return not mask.paths or any(path.partition(".")[0] in ("*", "drift") for path in mask.paths)


def wants_sums(mask: Any) -> bool:
    """Tells whether a read of a domain needs its nodes counted."""
    counted = ("*", "node_count", "subtree_node_count", "summary")
    return not mask.paths or any(path.partition(".")[0] in counted for path in mask.paths)


def _node_id(node: node_pb2.Node) -> str:
    return node.id


def _subject_id(at: NodeAt) -> str:
    return at.node_id
