"""Watches of nodes and domains. Owns what a commit touches and why something is no longer to be seen; the order of a
watch's steps is `watching`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import numpy as np

from controller.replica import Replica
from controller.services.fleet_masks import apply_read_mask, check_mask
from controller.services.fleet_queries import NodeQuery, drift_message, moment_of
from controller.services.fleet_reads import domains_at, path_key, wants_sums
from controller.services.fleet_rules import freshness_of
from controller.services.fleet_sums import fill_sums
from controller.services.watching import Step, StepKind, Watch
from controller.twin.domain import DOMAIN_ASPECTS, compose_domain, is_known
from controller.twin.facts import domains_of, home_of
from controller.twin.node import NODE_ASPECTS, compose_node, find_node
from controller.twin.policy import POLICY_ASPECTS
from federation.identifiers import Key
from federation.state import Applied
from souverix.fleet.v1 import domain_pb2, fleet_service_pb2, node_pb2


def log_of(replica: Replica) -> bytes:
    """What names the log in resume tokens."""
    return replica.log_nonce


class NodeView:
    """The nodes of a watch; an item is a node's subject. `resumes`: what is no longer to be seen must be told, too."""

    def __init__(self, replica: Replica, wanted: NodeQuery, *, resumes: bool) -> None:
        self._replica = replica
        self._state = replica.state
        self._wanted = wanted
        self._resumes = resumes

    def items(self) -> Iterable[str]:
        """Subjects of the nodes that may be to be seen, ordered by id; all ever known in the domains where the watch
        resumes.
        """
        nodes = self._replica.nodes
        pending = nodes.pending()
        if self._resumes or pending is None:
            domains = self._wanted.domains()
            return sorted({s for d in domains for s in self._state.subjects_of(d, "nodes")})
        at = moment_of(self._replica, freshness_of(self._replica), self._wanted.domains())
        rows = np.flatnonzero(self._wanted.matching(at))
        fitting = (f"nodes/{each.decode()}" for each in nodes.columns.ids.column(rows).tolist())
        return sorted({*fitting, *pending})

    def touched(self, applied: Applied) -> Iterator[str]:
        """Nodes of which a commit wrote something, and those that are computed otherwise now."""
        for key in applied.keys:
            if key.subject.startswith("nodes/"):
                yield key.subject

    def keys(self, item: str) -> Iterator[Key]:
        """What the node is made of, wherever it lived, and the policies that may govern it."""
        for domain in domains_of(self._state, item):
            for aspect in NODE_ASPECTS:
                yield Key(domain, item, aspect)
            for above in self._state.authority.path_of(domain) or (domain,):
                for policy in self._state.subjects_of(above, "policies"):
                    for aspect in POLICY_ASPECTS:
                        yield Key(above, policy, aspect)

    def show(self, item: str) -> node_pb2.Node | None:
        """The node, if it lives in the domains asked for and fits the filter."""
        at = find_node(self._state, item)
        if at is None or not self._wanted.holds(at.home.domain):
            return None
        nodes = self._replica.nodes
        row = nodes.read_now(item)
        freshness = freshness_of(self._replica)
        moment = moment_of(self._replica, freshness, [at.home.domain])
        summary = nodes.columns.summary(row) if row is not None else None
        if row is None or summary is None or not self._wanted.fits(moment, row):
            return None
        node = compose_node(self._state, at, freshness)
        if self._wanted.shows_drift:
            node.drift.CopyFrom(drift_message(summary, freshness.now_ms))
        return node

    def removal(self, item: str) -> fleet_service_pb2.NodeRemoval:
        """Why a node is no longer to be seen."""
        removal = fleet_service_pb2.NodeRemoval(name=item)
        home = home_of(self._state, item)
        if home is not None and not self._wanted.holds(home.domain):
            removal.cause = fleet_service_pb2.REMOVAL_CAUSE_MOVED
            removal.moved_to_domain = home.domain
        elif find_node(self._state, item) is None:
            removal.cause = fleet_service_pb2.REMOVAL_CAUSE_DELETED
        else:
            removal.cause = fleet_service_pb2.REMOVAL_CAUSE_NO_LONGER_MATCHES
        return removal


class DomainView:
    """The domains of a watch; an item is a domain's id. Sums are as of the step: nodes' changes make no step."""

    def __init__(self, replica: Replica, request: Any) -> None:
        self._replica = replica
        self._state = replica.state
        self._request = request
        domains_at(replica, request.domain, request.include_subtree)

    def items(self) -> list[str]:
        """All domains ever known in the scope, parents first."""
        scope = [d for d in self._state.authority.records if self._holds(d)]
        return sorted(scope, key=lambda domain: path_key(self._state, domain))

    def touched(self, applied: Applied) -> Iterator[str]:
        """Domains whose own facts a commit wrote, their parents, and all below where authority changed."""
        records = self._state.authority.records
        for key in applied.keys:
            if key.aspect in DOMAIN_ASPECTS and key.subject == f"domains/{key.domain}":
                record = records.get(key.domain)
                if record is not None and record.parent:
                    yield record.parent
                if key.aspect == "authority":
                    yield from self._state.authority.subtree_of(key.domain)
                else:
                    yield key.domain

    def keys(self, item: str) -> Iterator[Key]:
        """What the domain is made of, with its path's authority and its children's existence."""
        table = self._state.authority
        for aspect in DOMAIN_ASPECTS:
            yield Key(item, f"domains/{item}", aspect)
        for above in table.path_of(item) or ():
            yield Key(above, f"domains/{above}", "authority")
        for child in table.children_of(item):
            yield Key(child, f"domains/{child}", "existence")

    def show(self, item: str) -> domain_pb2.Domain | None:
        """The domain, if it is in the scope and not deleted."""
        if not self._holds(item) or not is_known(self._state, item):
            return None
        freshness = freshness_of(self._replica)
        resource = compose_domain(self._state, item, freshness)
        if wants_sums(self._request.read_mask):
            fill_sums(self._replica, resource, freshness)
        return resource

    def scope(self) -> list[str]:
        """The domains now in the scope."""
        return [item for item in self.items() if is_known(self._state, item)]

    def _holds(self, domain: str) -> bool:
        top = self._request.domain
        record = self._state.authority.records.get(domain)
        if record is None:
            return False
        if self._request.include_subtree:
            return not top or self._state.authority.is_within(domain, top)
        if top:
            return top in (domain, record.parent)
        path = self._state.authority.path_of(domain)
        return path is not None and len(path) <= 2


async def watch_nodes(
    replica: Replica, request: Any
) -> AsyncIterator[fleet_service_pb2.WatchNodesResponse]:
    """As `FleetService.WatchNodes`."""
    wanted = NodeQuery(replica, request)
    await replica.nodes.caught_up()
    view = NodeView(replica, wanted, resumes=bool(request.resume_token))
    watch = Watch(replica.state, replica.changes, view, request, log_of(replica))
    async for step in watch.steps(request.resume_token):
        reply = fleet_service_pb2.WatchNodesResponse()
        if step.kind is StepKind.BOOKMARK:
            reply.bookmark.CopyFrom(_bookmark(replica, step, wanted.domains()))
        elif step.resource is None:
            reply.removed.CopyFrom(view.removal(step.item))
        else:
            shown = apply_read_mask(request.read_mask, step.resource)
            getattr(reply, step.kind.value).CopyFrom(shown)
        yield reply


async def watch_domains(
    replica: Replica, request: Any
) -> AsyncIterator[fleet_service_pb2.WatchDomainsResponse]:
    """As `FleetService.WatchDomains`."""
    check_mask(request.read_mask, domain_pb2.Domain, "read_mask")
    await replica.nodes.caught_up()
    view = DomainView(replica, request)
    watch = Watch(replica.state, replica.changes, view, request, log_of(replica))
    async for step in watch.steps(request.resume_token):
        reply = fleet_service_pb2.WatchDomainsResponse()
        if step.kind is StepKind.BOOKMARK:
            reply.bookmark.CopyFrom(_bookmark(replica, step, view.scope()))
        elif step.resource is None:
            reply.removed.name = f"domains/{step.item}"
            reply.removed.cause = fleet_service_pb2.REMOVAL_CAUSE_DELETED
        else:
            shown = apply_read_mask(request.read_mask, step.resource)
            getattr(reply, step.kind.value).CopyFrom(shown)
        yield reply


def _bookmark(
    replica: Replica, step: Step[Any], domains: Iterable[str]
) -> fleet_service_pb2.WatchBookmark:
    return fleet_service_pb2.WatchBookmark(
        resume_token=step.token,
        initial_state_complete=step.initial_state_complete,
        as_of_time=freshness_of(replica).oldest(domains),
    )
