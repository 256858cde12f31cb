"""Writes of declared edges: create, update, delete. Owns what each of them means; where a write may be made is the
write path's. An edge is held by the nearest domain that holds both its ends (docs/decisions/0020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from controller.graph.declared import relationship_name
from controller.graph.relationship import compose_relationship, made_id, relationship_etag
from controller.replica import Replica
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_id, check_relationship, check_text, id_in_domain
from controller.services.fleet_masks import apply_update_mask
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_rules import check_etag, required_node
from controller.services.shown_writes import Shown, ShownWrites
from controller.twin.facts import Facts, body_of, exists, state_of, timestamp
from controller.writes import Caller, Draft
from federation.authority import Permission
from federation.errors import AlreadyExists, InvalidWrite, NotFound
from federation.identifiers import Key
from federation.placement import common_ancestor
from souverix.fleet.v1 import domain_pb2, node_pb2
from souverix.graph.v1 import graph_pb2
from souverix.graph.v1 import graph_service_pb2 as graph

R = TypeVar("R")

SERVICE = "/souverix.graph.v1.GraphService/"


class RelationshipWrites:
    """The writes of declared edges."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        shown = Shown("relationship", relationship_name, required_relationship)
        self._writes = ShownWrites(replica, SERVICE, shown)

    async def create(self, request: Any, context: Any) -> graph.CreateRelationshipResponse:
        """As `GraphService.CreateRelationship`."""
        spec = request.spec
        check_relationship(spec)
        domain = check_id(request.domain or _holder(self._replica.state, spec), "domain")
        plain = check_id(request.relationship_id or made_id(spec), "relationship_id")
        subject = f"relationships/{plain}"
        full = graph.CreateRelationshipRequest()
        full.CopyFrom(request)
        full.domain, full.relationship_id = domain, plain

        def decide(draft: Draft) -> None:
            facts = draft.proposal
            check_domain(facts, domain)
            _check_ends(facts, domain, spec)
            if exists(facts, domain, subject):
                name = relationship_name(domain, subject)
                raise AlreadyExists(f"{name} exists; update it, or choose another id", subject=name)
            now = timestamp(facts.wall_ms)
            draft.write(domain, subject, "existence", domain_pb2.Existence(exists=True, time=now))
            draft.write(domain, subject, "relationship", spec)

        return await self._write(
            "CreateRelationship",
            full,
            caller_of(context),
            (domain, subject),
            decide,
            graph.CreateRelationshipResponse,
        )

    async def update(self, request: Any, context: Any) -> graph.UpdateRelationshipResponse:
        """As `GraphService.UpdateRelationship`."""
        domain, subject = named(request.name)

        def decide(draft: Draft) -> None:
            facts = draft.proposal
            _check(facts, domain, subject, request.etag)
            old = body_of(facts, Key(domain, subject, "relationship"))
            spec = apply_update_mask(request.update_mask, old, request.spec)
            check_relationship(spec)
            if _ends(spec) != _ends(old):
                raise InvalidWrite(
                    "the ends of an edge never change; delete it, and create the other one",
                    field="spec",
                )
            _check_membership(facts, spec)
            draft.write(domain, subject, "relationship", spec)

        return await self._write(
            "UpdateRelationship",
            request,
            caller_of(context),
            (domain, subject),
            decide,
            graph.UpdateRelationshipResponse,
        )

    async def delete(self, request: Any, context: Any) -> graph.DeleteRelationshipResponse:
        """As `GraphService.DeleteRelationship`."""
        domain, subject = named(request.name)
        check_text(request.reason, "reason")

        def decide(draft: Draft) -> None:
            _check(draft.proposal, domain, subject, request.etag)
            now = timestamp(draft.proposal.wall_ms)
            gone = domain_pb2.Existence(exists=False, reason=request.reason, time=now)
            draft.write(domain, subject, "existence", gone)

        return await self._write(
            "DeleteRelationship",
            request,
            caller_of(context),
            (domain, subject),
            decide,
            graph.DeleteRelationshipResponse,
        )

    async def _write(
        self,
        method: str,
        request: Any,
        caller: Caller,
        at: tuple[str, str],
        decide: Callable[[Draft], None],
        response: type[R],
    ) -> R:
        """Executes a write of the edge (domain, subject) and makes its response; one that was only validated has no
        receipt.
        """
        reply: Any = await self._writes.execute(
            method, request, caller, at, (Permission.OPERATE,), decide, response
        )
        if request.validate_only:
            reply.ClearField("receipt")
        written: R = reply
        return written


def named(name: str) -> tuple[str, str]:
    """Domain and subject of a resource name. Raises `InvalidWrite`."""
    domain, plain = id_in_domain(name, "relationships")
    return domain, f"relationships/{plain}"


def required_relationship(facts: Facts, domain: str, subject: str) -> graph_pb2.Relationship:
    """The edge. Raises `NotFound`."""
    shown = compose_relationship(facts, domain, subject)
    if shown is None:
        name = relationship_name(domain, subject)
        raise NotFound(f"{name} is deleted, or not known here", subject=name, domain=domain)
    return shown


def _check(facts: Facts, domain: str, subject: str, etag: str) -> None:
    required_relationship(facts, domain, subject)
    present = relationship_etag(facts, domain, subject)
    check_etag(etag, present, relationship_name(domain, subject))


def _ends(spec: node_pb2.Relationship) -> tuple[str, str, str, str]:
    return spec.from_node, spec.from_domain, spec.to_node, spec.to_domain


def _homes(facts: Facts, spec: node_pb2.Relationship) -> tuple[str, str]:
    """The domains of both ends. Raises `NotFound` for an end that is deleted, or not known here."""
    homes = []
    for node, domain in ((spec.from_node, spec.from_domain), (spec.to_node, spec.to_domain)):
        if node:
            homes.append(required_node(facts, f"nodes/{node}").home.domain)
        else:
            check_domain(facts, domain)
            homes.append(domain)
    return homes[0], homes[1]


def _holder(facts: Facts, spec: node_pb2.Relationship) -> str:
    """The domain to hold an edge. Raises `NotFound`, with what to do where an end is out of sight."""
    try:
        one, other = _homes(facts, spec)
    except NotFound as error:
        raise NotFound(
            f"{error}; name the domain that holds both ends, or ask the controller of one above them",
            **error.metadata,
        ) from error
    return common_ancestor(state_of(facts).authority, one, other)


def _check_ends(facts: Facts, domain: str, spec: node_pb2.Relationship) -> None:
    for home in _homes(facts, spec):
        if not state_of(facts).authority.is_within(home, domain):
            raise InvalidWrite(
                f"domain {domain} does not hold both ends: one is in {home}; leave the domain out for the nearest one "
                "that does",
                field="domain",
            )
    _check_membership(facts, spec)


def _check_membership(facts: Facts, spec: node_pb2.Relationship) -> None:
    if spec.type != node_pb2.RELATIONSHIP_TYPE_MEMBER:
        return
    declared = body_of(facts, Key(spec.to_domain, f"domains/{spec.to_domain}", "domain_spec"))
    if declared is None or declared.kind != domain_pb2.DOMAIN_KIND_CLUSTER:
        raise InvalidWrite(
            f"domain {spec.to_domain} is no cluster; a membership leads to a domain of kind CLUSTER",
            field="spec.to_domain",
        )
