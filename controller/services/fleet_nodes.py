"""Writes of single nodes: create, update, delete, move, desired state. Owns what each of them means; where a write may
be made, and its durability, are the write path's.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from controller.replica import Replica
from controller.services.calls import caller_of
from controller.services.fleet_fields import (
    accept_desired_state,
    check_id,
    check_node_spec,
    check_text,
    id_in_name,
)
from controller.services.fleet_masks import apply_update_mask
from controller.services.fleet_rules import (
    Permissions,
    check_autonomy,
    check_etag,
    declare_desired,
    draft_node,
    freshness_of,
    node_in,
    permissions_to_declare,
    required_node,
)
from controller.twin.domain import is_known
from controller.twin.drift import DriftAnalyzer
from controller.twin.facts import Facts, body_of, timestamp
from controller.twin.node import NodeAt, fill_node, find_node, node_etag
from controller.writes import Caller, Draft, Forwarded, WriteCall
from federation.authority import Permission
from federation.errors import InvalidWrite, NotFound
from federation.identifiers import Key
from federation.placement import common_ancestor, move_node
from souverix.fleet.v1 import domain_pb2, fleet_service_pb2, node_pb2

R = TypeVar("R")

SERVICE = "/souverix.fleet.v1.FleetService/"

#: Hexadecimal digits of an id the server makes: 64 bits, so that no two nodes of a fleet draw the same.
MADE_ID_DIGITS = 16


def new_node_id(caller: Caller, request_id: str, number: int) -> str:
    """An id for a node that came without one; the same again when the request is repeated."""
    if not request_id:
        return f"n-{secrets.token_hex(MADE_ID_DIGITS // 2)}"
    told = f"{caller.principal}\0{request_id}\0{number}".encode()
    return f"n-{hashlib.sha256(told).hexdigest()[:MADE_ID_DIGITS]}"


class NodeWrites:
    """The unary writes of nodes."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._own_domain = replica.config.controller.domain

    async def create(self, request: Any, context: Any) -> fleet_service_pb2.CreateNodeResponse:
        """As `FleetService.CreateNode`."""
        domain = check_id(request.domain or self._own_domain, "domain")
        caller = caller_of(context)
        node_id = request.node_id or new_node_id(caller, request.request_id, 0)
        subject = f"nodes/{check_id(node_id, 'node_id')}"
        check_node_spec(request.spec)
        desired = None
        permissions: Permissions = (Permission.OPERATE,)
        if request.HasField("desired_state"):
            desired = accept_desired_state(request.desired_state)
            permissions = (*permissions, *permissions_to_declare(desired))
        full = fleet_service_pb2.CreateNodeRequest()
        full.CopyFrom(request)
        full.domain, full.node_id = domain, node_id

        def decide(draft: Draft) -> None:
            check_domain(draft.proposal, domain)
            draft_node(draft, domain, subject, request.spec, desired)

        return await self.write(
            "CreateNode",
            full,
            caller,
            domain,
            subject,
            permissions,
            decide,
            fleet_service_pb2.CreateNodeResponse,
        )

    async def update(self, request: Any, context: Any) -> fleet_service_pb2.UpdateNodeResponse:
        """As `FleetService.UpdateNode`."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        domain = required_node(self._replica.state, subject).home.domain

        def decide(draft: Draft) -> None:
            self.check(draft, request, subject, domain)
            old = body_of(draft.proposal, Key(domain, subject, "node_spec"))
            spec = apply_update_mask(request.update_mask, old or node_pb2.NodeSpec(), request.spec)
            check_node_spec(spec)
            draft.write(domain, subject, "node_spec", spec)

        return await self.write(
            "UpdateNode",
            request,
            caller_of(context),
            domain,
            subject,
            (Permission.OPERATE,),
            decide,
            fleet_service_pb2.UpdateNodeResponse,
        )

    async def set_desired_state(
        self, request: Any, context: Any
    ) -> fleet_service_pb2.SetDesiredStateResponse:
        """As `FleetService.SetDesiredState`."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        domain = required_node(self._replica.state, subject).home.domain
        desired = accept_desired_state(request.desired_state)

        def decide(draft: Draft) -> None:
            self.check(draft, request, subject, domain)
            declare_desired(draft, domain, subject, desired)

        return await self.write(
            "SetDesiredState",
            request,
            caller_of(context),
            domain,
            subject,
            permissions_to_declare(desired),
            decide,
            fleet_service_pb2.SetDesiredStateResponse,
        )

    async def delete(self, request: Any, context: Any) -> fleet_service_pb2.DeleteNodeResponse:
        """As `FleetService.DeleteNode`."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        check_text(request.reason, "reason")
        domain = self._home_even_if_deleted(subject, request.request_id, caller_of(context))

        def decide(draft: Draft) -> None:
            self.check(draft, request, subject, domain)
            now = timestamp(draft.proposal.wall_ms)
            gone = domain_pb2.Existence(exists=False, reason=request.reason, time=now)
            draft.write(domain, subject, "existence", gone)

        return await self.write(
            "DeleteNode",
            request,
            caller_of(context),
            domain,
            subject,
            (Permission.OPERATE,),
            decide,
            fleet_service_pb2.DeleteNodeResponse,
        )

    async def move(self, request: Any, context: Any) -> fleet_service_pb2.MoveNodeResponse:
        """As `FleetService.MoveNode`."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        target = check_id(request.domain, "domain")
        check_text(request.reason, "reason")
        state = self._replica.state
        home = required_node(state, subject).home.domain
        caller = caller_of(context)
        repeated = (caller.principal, request.request_id) in state.requests
        if home == target and not repeated:
            raise InvalidWrite(f"{subject} lives in domain {target} already", field="domain")
        check_domain(state, target)
        ancestor = common_ancestor(state.authority, home, target)

        def decide(draft: Draft) -> None:
            self.check(draft, request, subject, home)
            check_domain(draft.proposal, target)
            move_node(
                draft.proposal,
                subject,
                home,
                target,
                principal=draft.principal,
                request_id=draft.request_id,
                optimistic=draft.optimistic,
                reason=request.reason,
            )

        return await self.write(
            "MoveNode",
            request,
            caller,
            ancestor,
            subject,
            (Permission.OPERATE,),
            decide,
            fleet_service_pb2.MoveNodeResponse,
        )

    def check(self, draft: Draft, request: Any, subject: str, domain: str) -> NodeAt:
        """The node, if it still lives in the domain and has the etag asked for. Raises as `node_in`, `check_etag`."""
        at = node_in(draft.proposal, subject, domain)
        if request.etag:
            check_etag(request.etag, node_etag(draft.proposal, domain, subject), subject)
        return at

    def _home_even_if_deleted(self, subject: str, request_id: str, caller: Caller) -> str:
        """Where a node lives; a repeated deletion finds the domain in which the first one was made."""
        state = self._replica.state
        earlier = state.requests.get((caller.principal, request_id)) if request_id else None
        if earlier is not None and earlier.subject == subject:
            return earlier.stream.domain
        return required_node(state, subject).home.domain

    async def write(
        self,
        method: str,
        request: Any,
        caller: Caller,
        domain: str,
        subject: str,
        permissions: Permissions,
        decide: Callable[[Draft], None],
        response: type[R],
        *,
        with_drift: bool = False,
    ) -> R:
        """Executes a write of one node and makes its response, with the node where the response has one."""
        reply: Any = response()
        shows_node = hasattr(reply, "node")

        def decide_and_preview(draft: Draft) -> None:
            check_autonomy(draft, permissions)
            decide(draft)
            if request.validate_only and shows_node:
                reply.node.Clear()
                self._fill(reply.node, draft.proposal, subject, domain, with_drift)

        result = await self._replica.writer.execute(
            WriteCall(
                caller=caller,
                method=f"{SERVICE}{method}",
                request=request,
                domain=domain,
                resource=subject,
                permission=permissions[0],
                decide=decide_and_preview,
                request_id=request.request_id,
                validate_only=request.validate_only,
                durable_at=request.durable_at,
            )
        )
        if isinstance(result, Forwarded):
            reply.ParseFromString(result.response)
        else:
            if not request.validate_only:
                reply.receipt.CopyFrom(result.receipt)
            if shows_node and not reply.HasField("node"):
                self._fill(reply.node, self._replica.state, subject, domain, with_drift)
        written: R = reply
        return written

    def _fill(
        self, node: node_pb2.Node, facts: Facts, subject: str, domain: str, with_drift: bool
    ) -> None:
        at = find_node(facts, subject, also_in=domain)
        if at is None:
            raise NotFound(f"{subject} was deleted meanwhile", subject=subject)
        freshness = freshness_of(self._replica)
        fill_node(node, facts, at, freshness)
        if with_drift:
            drift = DriftAnalyzer(facts, freshness.now_ms).drift_of(at)
            node.drift.CopyFrom(drift.message(details=True))


def check_domain(facts: Facts, domain: str) -> None:
    """Raises `NotFound` for a domain that is deleted or of which nothing is known here."""
    if not is_known(facts, domain):
        raise NotFound(
            f"domain {domain} is deleted, or nothing of it is known here; ask the controller of its parent",
            domain=domain,
        )
