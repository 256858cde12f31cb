"""Reads of one node, and of domains. Owns these answers; they are from what is known here, and say how fresh that is.
Lists of nodes are `fleet_queries`'s.
"""

from __future__ import annotations

from typing import Any

from controller.replica import Replica
from controller.services.fleet_fields import check_id, id_in_name
from controller.services.fleet_masks import apply_read_mask, check_mask
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_queries import MAX_FILTER_VALUES, wants_drift
from controller.services.fleet_rules import freshness_of, required_node
from controller.services.fleet_sums import fill_sums
from controller.services.paging import cut, page_of
from controller.supply.gate import Gate
from controller.twin.domain import compose_domain, is_known
from controller.twin.drift import DriftAnalyzer
from controller.twin.effective import effective_state
from controller.twin.facts import Facts
from controller.twin.freshness import Freshness
from controller.twin.node import compose_node
from controller.twin.supply_chain import fill_artifacts
from federation.errors import InvalidWrite
from federation.state import State
from souverix.fleet.v1 import domain_pb2, fleet_service_pb2, node_pb2


async def get_node(replica: Replica, request: Any) -> fleet_service_pb2.GetNodeResponse:
    """As `FleetService.GetNode`."""
    subject = f"nodes/{id_in_name(request.name, 'nodes')}"
    check_mask(request.read_mask, node_pb2.Node, "read_mask")
    with_drift = wants_drift(request.read_mask)
    freshness = freshness_of(replica)
    node = whole_node(replica.state, subject, freshness, with_drift=with_drift)
    return fleet_service_pb2.GetNodeResponse(node=apply_read_mask(request.read_mask, node))


def whole_node(
    facts: Facts, subject: str, freshness: Freshness, *, with_drift: bool = True
) -> node_pb2.Node:
    """A node with what governs it, and its drift in detail. Raises `NotFound`."""
    at = required_node(facts, subject)
    node = compose_node(facts, at, freshness)
    gate = Gate(facts, freshness.now_ms)
    effective = effective_state(facts, at.home.domain, subject, gate=gate)
    node.effective_desired_state.desired_state.CopyFrom(effective.desired)
    node.effective_desired_state.decided_by.update(effective.decided_by)
    component = node.spec.component_type
    for name, version in sorted(effective.held_back.items()):
        node.effective_desired_state.held_back.add(
            version=version,
            declared_by=name,
            reason=gate.standing(at.home.domain, version, component).words,
        )
    fill_artifacts(node, gate)
    if with_drift:
        drift = DriftAnalyzer(facts, freshness.now_ms).drift_of(at)
        node.drift.CopyFrom(drift.message(details=True))
    return node


async def get_domain(replica: Replica, request: Any) -> fleet_service_pb2.GetDomainResponse:
    """As `FleetService.GetDomain`."""
    domain = id_in_name(request.name, "domains")
    check_mask(request.read_mask, domain_pb2.Domain, "read_mask")
    check_domain(replica.state, domain)
    freshness = freshness_of(replica)
    resource = compose_domain(replica.state, domain, freshness)
    if wants_sums(request.read_mask):
        await replica.nodes.caught_up()
        fill_sums(replica, resource, freshness)
    return fleet_service_pb2.GetDomainResponse(domain=apply_read_mask(request.read_mask, resource))


async def list_domains(replica: Replica, request: Any) -> fleet_service_pb2.ListDomainsResponse:
    """As `FleetService.ListDomains`: parents before children."""
    check_mask(request.read_mask, domain_pb2.Domain, "read_mask")
    for name in ("tags", "kinds"):
        if len(getattr(request, name)) > MAX_FILTER_VALUES:
            raise InvalidWrite(f"{name} holds more than {MAX_FILTER_VALUES} values", field=name)
    state = replica.state
    page = page_of(request)
    freshness = freshness_of(replica)
    asked = domains_at(replica, request.domain, request.include_subtree)
    tags, kinds = frozenset(request.tags), frozenset(request.kinds)
    fitting = []
    for domain in asked:
        resource = compose_domain(state, domain, freshness)
        if tags <= set(resource.spec.tags) and (not kinds or resource.spec.kind in kinds):
            fitting.append(domain)
    found, token = cut(fitting, page, lambda domain: path_key(state, domain))
    with_sums = wants_sums(request.read_mask)
    if with_sums:
        await replica.nodes.caught_up()
    reply = fleet_service_pb2.ListDomainsResponse(
        next_page_token=token, as_of_time=freshness.oldest(asked)
    )
    for domain in found:
        resource = compose_domain(state, domain, freshness)
        if with_sums:
            fill_sums(replica, resource, freshness)
        reply.domains.append(apply_read_mask(request.read_mask, resource))
    return reply


def domains_at(replica: Replica, domain: str, include_subtree: bool) -> list[str]:
    """The domains a query asks for; without a domain it begins at the root. Raises `InvalidWrite`, `NotFound`."""
    state = replica.state
    if not domain:
        roots = [d for d, record in state.authority.records.items() if not record.parent]
        return [at for root in sorted(roots) for at in domains_at(replica, root, include_subtree)]
    check_id(domain, "domain")
    check_domain(state, domain)
    if include_subtree:
        return replica.nodes.tree.subtree(domain)
    children = sorted(c for c in state.authority.children_of(domain) if is_known(state, c))
    return [domain, *children]


def path_key(state: State, domain: str) -> str:
    """Sorts domains so that parents come before children."""
    return "\0".join(state.authority.path_of(domain) or (domain,))


def wants_sums(mask: Any) -> bool:
    """Tells whether a read of a domain needs its nodes counted."""
    counted = ("*", "node_count", "subtree_node_count", "summary")
    return not mask.paths or any(path.partition(".")[0] in counted for path in mask.paths)
