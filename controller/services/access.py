"""AccessService: role bindings, and what they let a caller do. Owns what each write of a binding means; what is allowed
is `controller.gate`'s to say.
"""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from controller.access.binding import binding_etag, binding_name, compose_binding
from controller.access.bindings import ASPECT, Bearing, is_member
from controller.access.errors import AccessDenied
from controller.access.methods import MACHINE_METHODS, METHODS, NEWCOMER_METHODS
from controller.access.places import root_of
from controller.access.roles import BINDABLE, Role
from controller.bearer import TokenBearer, current_proof
from controller.replica import Replica
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_id, check_text, id_in_domain
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_rules import POLICIES, check_autonomy, check_etag
from controller.services.paging import cut, page_of
from controller.twin.domain import live_subtree
from controller.twin.facts import Facts, exists, timestamp
from controller.writes import Caller, Draft, Forwarded, WriteCall
from federation.errors import AlreadyExists, InvalidWrite, NotFound
from souverix.fleet.v1 import domain_pb2
from souverix.trust.v1 import access_service_pb2 as service
from souverix.trust.v1 import access_service_pb2_grpc, role_binding_pb2

R = TypeVar("R")

SERVICE = "/souverix.trust.v1.AccessService/"

#: Members of one binding: more are a group.
MAX_MEMBERS = 256

#: Longest reason.
MAX_REASON_BYTES = 1024


class AccessService(access_service_pb2_grpc.AccessServiceServicer):
    """The service of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._state = replica.state
        self._gate = replica.gate
        self._own_domain = replica.config.controller.domain

    async def CreateRoleBinding(
        self, request: Any, context: Any
    ) -> service.CreateRoleBindingResponse:
        """Gives a role; an id that was deleted may be used again."""
        domain = check_id(request.domain, "domain")
        subject = f"bindings/{check_id(request.binding_id, 'binding_id')}"
        self._check_spec(request, domain)
        caller = caller_of(context)

        def decide(draft: Draft) -> None:
            check_domain(draft.proposal, domain)
            self._check_may_give(caller, request.spec.role, domain)
            if exists(draft.proposal, domain, subject):
                name = binding_name(domain, subject)
                raise AlreadyExists(f"{name} exists; delete it, or choose another id", subject=name)
            now = timestamp(draft.proposal.wall_ms)
            draft.write(domain, subject, "existence", domain_pb2.Existence(exists=True, time=now))
            draft.write(domain, subject, ASPECT, request.spec)

        return await self._write(
            "CreateRoleBinding",
            request,
            caller,
            (domain, subject),
            decide,
            service.CreateRoleBindingResponse,
        )

    async def DeleteRoleBinding(
        self, request: Any, context: Any
    ) -> service.DeleteRoleBindingResponse:
        """Takes a role back."""
        domain, subject = _named(request.name)
        caller = caller_of(context)

        def decide(draft: Draft) -> None:
            binding = _required(draft.proposal, domain, subject)
            check_etag(
                request.etag,
                binding_etag(draft.proposal, domain, subject),
                binding_name(domain, subject),
            )
            self._check_may_give(caller, binding.spec.role, domain)
            now = timestamp(draft.proposal.wall_ms)
            draft.write(domain, subject, "existence", domain_pb2.Existence(exists=False, time=now))

        return await self._write(
            "DeleteRoleBinding",
            request,
            caller,
            (domain, subject),
            decide,
            service.DeleteRoleBindingResponse,
        )

    async def GetRoleBinding(self, request: Any, context: Any) -> service.GetRoleBindingResponse:
        """Reads one binding."""
        return service.GetRoleBindingResponse(binding=_required(self._state, *_named(request.name)))

    async def ListRoleBindings(
        self, request: Any, context: Any
    ) -> service.ListRoleBindingsResponse:
        """Lists bindings, ordered by name."""
        page = page_of(request)
        bindings = {
            binding.name: binding
            for domain in self._domains(request)
            for subject in self._state.subjects_of(domain, "bindings")
            if (binding := compose_binding(self._state, domain, subject)) is not None
            and (not request.member or request.member in binding.spec.members)
        }
        names, token = cut(bindings, page, str)
        return service.ListRoleBindingsResponse(
            bindings=[bindings[name] for name in names], next_page_token=token
        )

    async def CheckAccess(self, request: Any, context: Any) -> service.CheckAccessResponse:
        """Tells whether a call is allowed."""
        method = f"/{request.method.lstrip('/')}"
        rule = METHODS.get(method)
        if rule is None:
            if method in MACHINE_METHODS:
                return service.CheckAccessResponse(
                    reason=f"{method.lstrip('/')} is for machines; no binding gives it"
                )
            if method in NEWCOMER_METHODS:
                return service.CheckAccessResponse(
                    reason=f"{method.lstrip('/')} is for newcomers at the enrolment listener; no binding gives it"
                )
            raise InvalidWrite(
                f"method {request.method[:160]!r} is none; write it as "
                "souverix.fleet.v1.FleetService/SetDesiredState",
                field="method",
            )
        domain = check_id(request.domain or self._own_domain, "domain")
        caller = caller_of(context)
        bearing = self._gate.bearing_of(caller)
        if request.principal and request.principal != caller.principal:
            if not is_member(request.principal):
                raise InvalidWrite("principal is not one such as user:bob", field="principal")
            self._check_may_ask(caller, domain)
            bearing = Bearing(request.principal)
        denial = self._gate.denial(method, rule, bearing, {domain})
        return service.CheckAccessResponse(
            allowed=denial is None or not self._gate.enforced,
            role=_in_message(rule.role),
            reason=denial.text if denial is not None and self._gate.enforced else "",
        )

    async def WhoAmI(self, request: Any, context: Any) -> service.WhoAmIResponse:
        """Tells who the caller is."""
        caller = caller_of(context)
        proof = current_proof()
        grants = self._gate.grants().of(self._gate.bearing_of(caller))
        return service.WhoAmIResponse(
            principal=caller.principal,
            issued_by=caller.issued_by,
            groups=caller.groups,
            token_issuer=proof.person.issuer if isinstance(proof, TokenBearer) else "",
            expire_time=proof.not_after if proof is not None else None,
            grants=[
                service.RoleGrant(
                    role=_in_message(grant.role), domain=grant.domain, binding=grant.binding
                )
                for grant in sorted(grants)
            ],
            enforced=self._gate.enforced,
        )

    def _domains(self, request: Any) -> list[str]:
        if not request.domain:
            return list(self._state.authority.records)
        check_domain(self._state, check_id(request.domain, "domain"))
        if request.include_subtree:
            return live_subtree(self._state, request.domain)
        return [request.domain]

    def _check_spec(self, request: Any, domain: str) -> None:
        spec = request.spec
        if spec.role not in BINDABLE:
            raise InvalidWrite("spec.role is required: viewer, operator, …", field="spec.role")
        if spec.role == Role.FLEET_ADMIN and domain != root_of(self._state, self._own_domain):
            raise InvalidWrite(
                f"fleet-admin is bound in the root domain only; over {domain} and below it is domain-admin",
                field="spec.role",
            )
        if not 1 <= len(spec.members) <= MAX_MEMBERS:
            raise InvalidWrite(f"spec.members needs 1 to {MAX_MEMBERS}", field="spec.members")
        for number, member in enumerate(spec.members):
            if not is_member(member):
                raise InvalidWrite(
                    f"spec.members[{number}] is not one such as user:alice, oidc:alice@corp or group:noc@corp",
                    field=f"spec.members[{number}]",
                )
        check_text(spec.reason, "spec.reason", MAX_REASON_BYTES)

    def _check_may_give(self, caller: Caller, role: int, domain: str) -> None:
        """Nobody gives, or takes, a role above its own. Raises `AccessDenied`."""
        bearing = self._gate.bearing_of(caller)
        if self._gate.enforced and not self._gate.grants().covers(bearing, Role(role), domain):
            raise AccessDenied(
                f"{caller.principal} has not the role {Role(role).label} over domain {domain}, and may not give or "
                "take it; ask somebody who has",
                principal=caller.principal,
                role=Role(role).label,
                domain=domain,
            )

    def _check_may_ask(self, caller: Caller, domain: str) -> None:
        bearing = self._gate.bearing_of(caller)
        if self._gate.enforced and not self._gate.grants().covers(
            bearing, Role.DOMAIN_ADMIN, domain
        ):
            raise AccessDenied(
                f"what others may do in domain {domain} is told to its domain-admins",
                principal=caller.principal,
                role=Role.DOMAIN_ADMIN.label,
                domain=domain,
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
        """Executes a write of the binding (domain, subject) and makes its response."""
        kind: Any = response
        shows_binding = "binding" in kind.DESCRIPTOR.fields_by_name
        domain, subject = at
        previews: list[role_binding_pb2.RoleBinding] = []

        def decide_and_preview(draft: Draft) -> None:
            check_autonomy(draft, POLICIES)
            decide(draft)
            if request.validate_only and shows_binding:
                previews.append(_required(draft.proposal, domain, subject))

        result = await self._replica.writer.execute(
            WriteCall(
                caller=caller,
                method=f"{SERVICE}{method}",
                request=request,
                domain=domain,
                resource=binding_name(domain, subject),
                permission=POLICIES[0],
                decide=decide_and_preview,
                request_id=request.request_id,
                validate_only=request.validate_only,
                durable_at=request.durable_at,
            )
        )
        if isinstance(result, Forwarded):
            forwarded: R = kind.FromString(result.response)
            return forwarded
        reply: Any = kind(receipt=result.receipt)
        if previews:
            reply.binding.CopyFrom(previews[0])
        elif shows_binding:
            reply.binding.CopyFrom(_required(self._state, domain, subject))
        if request.validate_only:
            reply.receipt.domain = ""
        written: R = reply
        return written


def _in_message(role: Role) -> role_binding_pb2.Role:
    return cast(role_binding_pb2.Role, role.value)


def _named(name: str) -> tuple[str, str]:
    """Domain and subject of a resource name."""
    domain, binding = id_in_domain(name, "bindings")
    return domain, f"bindings/{binding}"


def _required(facts: Facts, domain: str, subject: str) -> role_binding_pb2.RoleBinding:
    binding = compose_binding(facts, domain, subject)
    if binding is None:
        name = binding_name(domain, subject)
        raise NotFound(f"{name} is deleted, or not known here", subject=name, domain=domain)
    return binding
