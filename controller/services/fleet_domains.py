"""Writes of domains: create, update, delete. Owns what each of them means; where a write may be made is the write
path's. A domain is created and deleted by the master of its parent, in the domain's own control lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from controller.replica import Replica
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_domain_spec, check_id, check_text, id_in_name
from controller.services.fleet_masks import apply_update_mask
from controller.services.fleet_nodes import SERVICE, check_domain
from controller.services.fleet_rules import check_etag, freshness_of
from controller.services.fleet_sums import fill_sums
from controller.twin.domain import compose_domain, domain_etag, has_nodes, is_known
from controller.twin.facts import Facts, body_of, state_of, timestamp
from controller.writes import Draft, Forwarded, WriteCall
from federation.authority import Permission
from federation.domains import DomainDeclaration, declare_domain
from federation.errors import AlreadyExists, AuthorityError, InvalidWrite, NotFound, WrongState
from federation.identifiers import Key
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2, fleet_service_pb2

R = TypeVar("R")

#: Deepest domain: global, region, zone, cluster, tenant, with room for what nobody thought of yet. A term and many
#: paths are as long as a domain is deep.
MAX_DEPTH = 16


class DomainWrites:
    """The writes of domains."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def create(self, request: Any, context: Any) -> fleet_service_pb2.CreateDomainResponse:
        """As `FleetService.CreateDomain`."""
        domain = check_id(request.domain_id, "domain_id")
        spec = request.spec
        parent = check_id(spec.parent, "spec.parent")
        check_domain_spec(spec)
        if spec.kind == domain_pb2.DOMAIN_KIND_GLOBAL:
            raise InvalidWrite("spec.kind GLOBAL is the root's alone", field="spec.kind")

        def decide(draft: Draft) -> None:
            _refuse_optimistic(draft, parent)
            check_domain(draft.proposal, parent)
            _require_new(draft.proposal, domain)
            _require_depth(draft.proposal, parent)
            declare_domain(
                draft.write,
                self._declaration(domain, spec),
                draft.proposal.state.authority.term_of(parent),
                draft.proposal.wall_ms,
            )

        return await self._write(
            "CreateDomain",
            request,
            context,
            parent,
            domain,
            decide,
            fleet_service_pb2.CreateDomainResponse,
        )

    async def update(self, request: Any, context: Any) -> fleet_service_pb2.UpdateDomainResponse:
        """As `FleetService.UpdateDomain`."""
        domain = id_in_name(request.name, "domains")
        check_domain(self._replica.state, domain)

        def decide(draft: Draft) -> None:
            check_domain(draft.proposal, domain)
            check_etag(request.etag, domain_etag(draft.proposal, domain), f"domains/{domain}")
            old = body_of(draft.proposal, Key(domain, f"domains/{domain}", "domain_spec"))
            old = old or domain_pb2.DomainSpec()
            new = domain_pb2.DomainSpec()
            new.CopyFrom(request.spec)
            if not new.parent:
                new.parent = old.parent
            spec = apply_update_mask(request.update_mask, old, new)
            if spec.parent != old.parent:
                raise InvalidWrite(
                    f"spec.parent of domain {domain} is {old.parent} for good; a domain cannot be moved",
                    field="spec.parent",
                )
            check_domain_spec(spec)
            draft.write(domain, f"domains/{domain}", "domain_spec", spec)

        return await self._write(
            "UpdateDomain",
            request,
            context,
            domain,
            domain,
            decide,
            fleet_service_pb2.UpdateDomainResponse,
        )

    async def delete(self, request: Any, context: Any) -> fleet_service_pb2.DeleteDomainResponse:
        """As `FleetService.DeleteDomain`."""
        domain = id_in_name(request.name, "domains")
        check_text(request.reason, "reason")
        record = self._replica.state.authority.records.get(domain)
        if record is None:
            check_domain(self._replica.state, domain)
        parent = record.parent if record is not None else ""
        if not parent:
            raise WrongState(f"domain {domain} is the root; it cannot be deleted", domain=domain)

        def decide(draft: Draft) -> None:
            _refuse_optimistic(draft, parent)
            check_domain(draft.proposal, domain)
            check_etag(request.etag, domain_etag(draft.proposal, domain), f"domains/{domain}")
            _require_empty(draft.proposal, domain)
            gone = domain_pb2.Existence(
                exists=False, reason=request.reason, time=timestamp(draft.proposal.wall_ms)
            )
            draft.write(domain, f"domains/{domain}", "existence", gone)

        return await self._write(
            "DeleteDomain",
            request,
            context,
            parent,
            domain,
            decide,
            fleet_service_pb2.DeleteDomainResponse,
        )

    def _declaration(self, domain: str, spec: domain_pb2.DomainSpec) -> DomainDeclaration:
        """A domain without a controller of its own: this one, the parent's master, is its master too."""
        regional = spec.kind == domain_pb2.DOMAIN_KIND_REGION
        return DomainDeclaration(
            domain=domain,
            spec=spec,
            master_of_record=self._replica.config.controller.id,
            level=(
                authority_pb2.AUTHORITY_LEVEL_REGIONAL
                if regional
                else authority_pb2.AUTHORITY_LEVEL_LOCAL
            ),
            reason="created by a client",
        )

    async def _write(
        self,
        method: str,
        request: Any,
        context: Any,
        governing: str,
        domain: str,
        decide: Callable[[Draft], None],
        response: type[R],
    ) -> R:
        """Executes a write of one domain that the master of `governing` decides, and makes its response."""
        kind: Any = response
        shows_domain = "domain" in kind.DESCRIPTOR.fields_by_name
        previews: list[domain_pb2.Domain] = []

        def decide_and_preview(draft: Draft) -> None:
            decide(draft)
            if request.validate_only and shows_domain:
                previews.append(self._shown(draft.proposal, domain))

        result = await self._replica.writer.execute(
            WriteCall(
                caller=caller_of(context),
                method=f"{SERVICE}{method}",
                request=request,
                domain=governing,
                resource=f"domains/{domain}",
                permission=Permission.OPERATE,
                decide=decide_and_preview,
                request_id=request.request_id,
                validate_only=request.validate_only,
                durable_at=request.durable_at,
            )
        )
        if isinstance(result, Forwarded):
            forwarded: R = kind.FromString(result.response)
            return forwarded
        reply: Any = kind(receipt=None if request.validate_only else result.receipt)
        if not request.validate_only:
            reply.receipt.domain = domain
        if previews:
            reply.domain.CopyFrom(previews[0])
        elif shows_domain:
            reply.domain.CopyFrom(self._shown(self._replica.state, domain))
        written: R = reply
        return written

    def _shown(self, facts: Facts, domain: str) -> domain_pb2.Domain:
        freshness = freshness_of(self._replica)
        resource = compose_domain(facts, domain, freshness)
        fill_sums(self._replica, resource, freshness)
        return resource


def _refuse_optimistic(draft: Draft, parent: str) -> None:
    """The tree of domains is no matter of autonomy: two controllers must never declare one domain."""
    if draft.optimistic:
        raise AuthorityError(
            f"only the master-of-record of domain {parent} creates and deletes the domains below it, and it cannot be "
            "reached now; retry when the link is up",
            domain=parent,
        )


def _require_new(facts: Facts, domain: str) -> None:
    subject = f"domains/{domain}"
    if domain in state_of(facts).authority.records or facts.siblings(
        Key(domain, subject, "authority")
    ):
        raise AlreadyExists(
            f"{subject} is taken, or was once; ids are never used again", subject=subject
        )


def _require_depth(facts: Facts, parent: str) -> None:
    path = state_of(facts).authority.path_of(parent)
    if path is None:
        raise NotFound(
            f"the way from the root to domain {parent} is not known here yet", domain=parent
        )
    if len(path) >= MAX_DEPTH:
        raise InvalidWrite(
            f"domain {parent} is {len(path)} levels deep; at most {MAX_DEPTH} are allowed",
            field="spec.parent",
        )


def _require_empty(facts: Facts, domain: str) -> None:
    children = sorted(
        c for c in state_of(facts).authority.children_of(domain) if is_known(facts, c)
    )
    if children:
        raise WrongState(
            f"domain {domain} still holds domain {children[0]}; delete what is below it first",
            domain=domain,
            child=children[0],
        )
    if has_nodes(facts, domain):
        raise WrongState(
            f"nodes still live in domain {domain}; move or delete them first", domain=domain
        )
