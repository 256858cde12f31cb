"""Stubs of one controller's services for end-to-end tests, and waits with a deadline. Owns channels, no state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from souverix.attention.v1 import attention_service_pb2_grpc
from souverix.audit.v1 import audit_service_pb2_grpc
from souverix.command.v1 import command_service_pb2_grpc
from souverix.federation.v1 import federation_service_pb2, federation_service_pb2_grpc
from souverix.fleet.v1 import fleet_service_pb2_grpc
from souverix.graph.v1 import graph_service_pb2_grpc
from souverix.policy.v1 import policy_pb2, policy_service_pb2, policy_service_pb2_grpc
from souverix.supply.v1 import supply_service_pb2_grpc
from souverix.trust.v1 import access_service_pb2_grpc, revocation_service_pb2_grpc
from trust.channels import ClientTls, open_blocking_channel

T = TypeVar("T")

#: Generous: these machines are slow and shared; a wait ends as soon as its condition holds.
DEADLINE_S = 60.0

PRINCIPAL = (("souverix-principal", "user:tester"),)


class Clients:
    """All services behind one address."""

    def __init__(self, address: str, tls: ClientTls | None = None) -> None:
        self.address = address
        self._channel = open_blocking_channel(address, [("grpc.use_local_subchannel_pool", 1)], tls)
        self.fleet = fleet_service_pb2_grpc.FleetServiceStub(self._channel)
        self.policies = policy_service_pb2_grpc.PolicyServiceStub(self._channel)
        self.commands = command_service_pb2_grpc.CommandServiceStub(self._channel)
        self.federation = federation_service_pb2_grpc.FederationServiceStub(self._channel)
        self.graph = graph_service_pb2_grpc.GraphServiceStub(self._channel)
        self.attention = attention_service_pb2_grpc.AttentionServiceStub(self._channel)
        self.audit = audit_service_pb2_grpc.AuditServiceStub(self._channel)
        self.supply = supply_service_pb2_grpc.SupplyServiceStub(self._channel)
        self.access = access_service_pb2_grpc.AccessServiceStub(self._channel)
        self.revocations = revocation_service_pb2_grpc.RevocationServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def wait_until_connected(self) -> None:
        """Waits until whoever is to listen at the address does: a standby may start after its master serves."""
        grpc.channel_ready_future(self._channel).result(DEADLINE_S)

    def create_policy(self, domain: str, policy: str, version: str, **fields: Any) -> Any:
        """Creates a policy whose value is told apart by its version label."""
        request = policy_service_pb2.CreatePolicyRequest(
            domain=domain,
            policy_id=policy,
            spec=policy_pb2.PolicySpec(version=version),
            **fields,
        )
        return self.policies.CreatePolicy(request, timeout=DEADLINE_S, metadata=PRINCIPAL)

    def update_policy(self, domain: str, policy: str, version: str, **fields: Any) -> Any:
        """Replaces a policy's value."""
        request = policy_service_pb2.UpdatePolicyRequest(
            name=f"domains/{domain}/policies/{policy}",
            spec=policy_pb2.PolicySpec(version=version),
            **fields,
        )
        return self.policies.UpdatePolicy(request, timeout=DEADLINE_S, metadata=PRINCIPAL)

    def list_policies(
        self, domain: str, page_token: str = ""
    ) -> policy_service_pb2.ListPoliciesResponse:
        """A page of a domain's policies."""
        request = policy_service_pb2.ListPoliciesRequest(
            domain=domain, page_size=1000, page_token=page_token
        )
        page: policy_service_pb2.ListPoliciesResponse = self.policies.ListPolicies(
            request, timeout=DEADLINE_S
        )
        return page

    def policy(self, domain: str, policy: str) -> policy_pb2.Policy | None:
        """A policy as this controller sees it; None when it does not know it."""
        request = policy_service_pb2.GetPolicyRequest(name=f"domains/{domain}/policies/{policy}")
        try:
            found: policy_pb2.Policy = self.policies.GetPolicy(request, timeout=DEADLINE_S).policy
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return found

    def policy_version(self, domain: str, policy: str) -> str:
        """Version label of the winning value; empty when the policy is not known."""
        found = self.policy(domain, policy)
        return found.spec.version if found is not None else ""

    def wait_for_policy(self, domain: str, policy: str, version: str) -> None:
        """Waits until a policy's winning value has this version label here."""
        wait_until(
            lambda: self.policy_version(domain, policy) == version,
            f"version {version} of policy {policy} of {domain} at {self.address}",
        )

    def streams(self, domain: str) -> dict[tuple[str, str], tuple[int, str]]:
        """(controller, lane) -> (number, chain hash) of what is held of a domain."""
        request = federation_service_pb2.ListStreamsRequest(domain=domain)
        response = self.federation.ListStreams(request, timeout=DEADLINE_S)
        return {(s.controller, s.lane): (s.received, s.chain_hash) for s in response.streams}


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = DEADLINE_S) -> T:
    """The first true answer; an `AssertionError` that says what was awaited when none comes in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.02)


def reason_of(error: grpc.RpcError) -> str:
    """`ErrorInfo.reason` of a failed call."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, error
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    raise AssertionError(f"no ErrorInfo in {error}")
