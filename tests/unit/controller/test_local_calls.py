from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from controller.errors import ServiceError
from controller.local_calls import ForwardedContext, LocalCalls
from controller.services.calls import RefusalAudit, caller_of
from controller.services.policy import PolicyService
from controller.writes import Caller
from federation.errors import EtagMismatch
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from tests.unit.controller.services.served import Served, root_served

METHOD = "/souverix.policy.v1.PolicyService"
CALLER = Caller("user:alice", "controller:region-control", 5.0, ())


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Served]:
    async with root_served(tmp_path / "root") as controller:
        yield controller


@pytest.fixture
def calls(root: Served) -> LocalCalls:
    made = LocalCalls(RefusalAudit(root.replica), root.replica.gate)
    [service] = policy_service_pb2.DESCRIPTOR.services_by_name.values()
    made.add(service, PolicyService(root.replica))
    return made


def creation(policy: str) -> bytes:
    return policy_service_pb2.CreatePolicyRequest(
        domain="global", policy_id=policy, spec=policy_pb2.PolicySpec(version="v1")
    ).SerializeToString()


def test_a_forwarded_call_has_the_caller_it_came_with() -> None:
    context = ForwardedContext(CALLER)
    assert caller_of(context) is CALLER  # type: ignore[arg-type]
    assert context.peer() == "controller:region-control"
    assert context.time_remaining() == 5.0
    assert context.invocation_metadata() == ()


async def test_a_forwarded_write_is_made_by_the_same_handler_under_the_users_name(
    root: Served, calls: LocalCalls
) -> None:
    data = await calls.execute(f"{METHOD}/CreatePolicy", creation("p"), CALLER)
    response = policy_service_pb2.CreatePolicyResponse.FromString(data)
    assert response.policy.id == "p"
    [record] = [
        r for item in root.replica.state.audits if (r := item.write.body()).resource.endswith("/p")
    ]
    assert (record.principal, record.source) == ("user:alice", "controller:region-control")


@pytest.mark.parametrize(
    ("method", "request_bytes", "code"),
    [
        ("/souverix.policy.v1.PolicyService/NoSuch", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("CreatePolicy", b"", grpc.StatusCode.UNIMPLEMENTED),
        (f"{METHOD}/WatchPolicies", b"", grpc.StatusCode.UNIMPLEMENTED),
        # What reads is not passed on.
        (f"{METHOD}/ListPolicies", b"", grpc.StatusCode.UNIMPLEMENTED),
        (f"{METHOD}/CreatePolicy", b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_be_called_is_said(
    calls: LocalCalls, method: str, request_bytes: bytes, code: grpc.StatusCode
) -> None:
    with pytest.raises(ServiceError) as refused:
        await calls.execute(method, request_bytes, CALLER)
    assert refused.value.code is code


async def test_a_refusal_is_raised_as_it_is_and_audited_where_it_was_decided(
    root: Served, calls: LocalCalls
) -> None:
    await calls.execute(f"{METHOD}/CreatePolicy", creation("p"), CALLER)
    request = policy_service_pb2.UpdatePolicyRequest(
        name="domains/global/policies/p",
        etag="old",
        spec=policy_pb2.PolicySpec(version="v2"),
    )
    with pytest.raises(EtagMismatch):
        await calls.execute(f"{METHOD}/UpdatePolicy", request.SerializeToString(), CALLER)
    records = [item.write.body() for item in root.replica.state.audits]
    [refusal] = [r for r in records if r.reason == "ETAG_MISMATCH"]
    assert refusal.principal == "user:alice"
