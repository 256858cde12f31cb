"""PolicyService: policy bundles of domains. Owns what each write of a policy means, and what lists and watches show;
which policies govern a node is `twin.effective`'s to say.
"""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from controller.replica import Replica
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_id, check_policy_spec, policy_in_name
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_rules import (
    check_etag,
    check_gate,
    permissions_for_policy,
)
from controller.services.fleet_watches import log_of
from controller.services.paging import cut, page_of
from controller.services.scopes import Scope
from controller.services.shown_writes import Shown, ShownWrites
from controller.services.watching import Watch, reply_of
from controller.twin.facts import Facts, exists, timestamp
from controller.twin.policy import POLICY_ASPECTS, compose_policy, policy_etag, policy_name
from controller.writes import Draft
from federation.authority import Permission
from federation.errors import AlreadyExists, InvalidWrite, NotFound
from federation.identifiers import Key
from federation.state import Applied
from souverix.fleet.v1 import domain_pb2
from souverix.policy.v1 import policy_pb2, policy_service_pb2, policy_service_pb2_grpc

SERVICE = "/souverix.policy.v1.PolicyService/"


class PolicyService(policy_service_pb2_grpc.PolicyServiceServicer):
    """The service of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._state = replica.state
        shown = Shown("policy", policy_name, _required)
        self._writes = ShownWrites(replica, SERVICE, shown)

    async def CreatePolicy(
        self, request: Any, context: Any
    ) -> policy_service_pb2.CreatePolicyResponse:
        """Creates a policy; an id that was deleted may be used again."""
        domain = check_id(request.domain, "domain")
        subject = f"policies/{check_id(request.policy_id, 'policy_id')}"
        _require_spec(request)

        def decide(draft: Draft) -> None:
            check_domain(draft.proposal, domain)
            if exists(draft.proposal, domain, subject):
                name = policy_name(domain, subject)
                raise AlreadyExists(f"{name} exists; update it, or choose another id", subject=name)
            now = timestamp(draft.proposal.wall_ms)
            draft.write(domain, subject, "existence", domain_pb2.Existence(exists=True, time=now))
            check_gate(draft, domain, request.spec.target_version)
            draft.write(domain, subject, "policy", request.spec)

        return await self._writes.execute(
            "CreatePolicy",
            request,
            caller_of(context),
            (domain, subject),
            permissions_for_policy(request.spec),
            decide,
            policy_service_pb2.CreatePolicyResponse,
        )

    async def UpdatePolicy(
        self, request: Any, context: Any
    ) -> policy_service_pb2.UpdatePolicyResponse:
        """Replaces a policy's value."""
        domain, subject = _named(request.name)
        _require_spec(request)

        def decide(draft: Draft) -> None:
            _check(draft.proposal, domain, subject, request.etag)
            check_gate(draft, domain, request.spec.target_version)
            draft.write(domain, subject, "policy", request.spec)

        return await self._writes.execute(
            "UpdatePolicy",
            request,
            caller_of(context),
            (domain, subject),
            permissions_for_policy(request.spec),
            decide,
            policy_service_pb2.UpdatePolicyResponse,
        )

    async def DeletePolicy(
        self, request: Any, context: Any
    ) -> policy_service_pb2.DeletePolicyResponse:
        """Deletes a policy."""
        domain, subject = _named(request.name)

        def decide(draft: Draft) -> None:
            _check(draft.proposal, domain, subject, request.etag)
            now = timestamp(draft.proposal.wall_ms)
            draft.write(domain, subject, "existence", domain_pb2.Existence(exists=False, time=now))

        return await self._writes.execute(
            "DeletePolicy",
            request,
            caller_of(context),
            (domain, subject),
            (Permission.POLICIES,),
            decide,
            policy_service_pb2.DeletePolicyResponse,
        )

    async def GetPolicy(self, request: Any, context: Any) -> policy_service_pb2.GetPolicyResponse:
        """Reads one policy."""
        return policy_service_pb2.GetPolicyResponse(
            policy=_required(self._state, *_named(request.name))
        )

    async def ListPolicies(
        self, request: Any, context: Any
    ) -> policy_service_pb2.ListPoliciesResponse:
        """Lists policies, ordered by name."""
        page = page_of(request)
        view = PolicyView(self._replica, request)
        found, token = cut(view.present(), page, str)
        policies = (view.show(name) for name in found)
        return policy_service_pb2.ListPoliciesResponse(
            policies=[policy for policy in policies if policy is not None], next_page_token=token
        )

    async def WatchPolicies(
        self, request: Any, context: Any
    ) -> AsyncIterator[policy_service_pb2.WatchPoliciesResponse]:
        """Sends the policies of a domain and then every change."""
        view = PolicyView(self._replica, request)
        replica = self._replica
        watch = Watch(replica.state, replica.changes, view, request, log_of(replica))
        async for step in watch.steps(request.resume_token):
            yield reply_of(step, policy_service_pb2.WatchPoliciesResponse)


class PolicyView:
    """The policies of a list or a watch; an item is a policy's name. Raises `InvalidWrite`, `NotFound`."""

    def __init__(self, replica: Replica, request: Any) -> None:
        self._state = replica.state
        self._scope = Scope(self._state, request)

    def items(self) -> list[str]:
        """Names of all policies ever known in the scope, in order."""
        return sorted(
            policy_name(domain, subject)
            for domain in self._scope.domains()
            for subject in self._state.subjects_of(domain, "policies")
        )

    def present(self) -> Iterator[str]:
        """Names of the policies that exist, in order."""
        return (name for name in self.items() if exists(self._state, *_named(name)))

    def touched(self, applied: Applied) -> Iterator[str]:
        """Policies of which a commit wrote something."""
        for key in applied.keys:
            if key.subject.startswith("policies/") and self._scope.holds(key.domain):
                yield policy_name(key.domain, key.subject)

    def keys(self, item: str) -> Iterator[Key]:
        """What the policy is made of."""
        domain, subject = _named(item)
        return (Key(domain, subject, aspect) for aspect in POLICY_ASPECTS)

    def show(self, item: str) -> policy_pb2.Policy | None:
        """The policy; None when it does not exist."""
        return compose_policy(self._state, *_named(item))


def _named(name: str) -> tuple[str, str]:
    """Domain and subject of a resource name."""
    domain, policy = policy_in_name(name)
    return domain, f"policies/{policy}"


def _require_spec(request: Any) -> None:
    if not request.HasField("spec"):
        raise InvalidWrite("spec is required: it is the policy's whole value", field="spec")
    check_policy_spec(request.spec)


def _required(facts: Facts, domain: str, subject: str) -> policy_pb2.Policy:
    policy = compose_policy(facts, domain, subject)
    if policy is None:
        name = policy_name(domain, subject)
        raise NotFound(f"{name} is deleted, or not known here", subject=name, domain=domain)
    return policy


def _check(facts: Facts, domain: str, subject: str, etag: str) -> None:
    _required(facts, domain, subject)
    check_etag(etag, policy_etag(facts, domain, subject), policy_name(domain, subject))
