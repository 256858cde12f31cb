"""Whatever a caller sends to a method, it is answered with a clean status that names the cause."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory, struct_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from souverix.audit.v1 import audit_service_pb2
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import fleet_service_pb2, node_pb2
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, reason_of
from tests.e2e.hostile_input.conftest import ROOT, Attacked

METHODS = [
    method
    for module in (
        fleet_service_pb2,
        policy_service_pb2,
        command_service_pb2,
        federation_service_pb2,
        audit_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]

#: What a caller may be told. Never UNKNOWN, INTERNAL or UNAVAILABLE, nor silence.
CLEAN = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

#: These begin with what is there, which may be nothing.
WATCHES = ("WatchConflicts", "WatchAuditEntries")

#: A stream that said nothing for so long, and was not refused, was taken.
QUIET_S = 1.0

BAD_TEXTS = (
    "../../etc/passwd",
    "nodes/../nope",
    "domains/nope/policies/nope",
    "nodes/nope",
    "commands/nope",
    "conflicts/nope",
    "a\x00\x1b[31m",
    "x" * 100_000,
)

#: An event of this many bytes is too large whatever it is of.
TOO_LARGE = 300 * 1024


def _call(attacked: Attacked, method: MethodDescriptor, data: bytes) -> grpc.RpcError | None:
    """Sends bytes to a method; the refusal, or None when it answered."""
    with grpc.insecure_channel(
        attacked.address, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        path = f"/{method.containing_service.full_name}/{method.name}"
        try:
            if method.server_streaming:
                stream = channel.unary_stream(path, _as_it_is, _as_it_is)(data, timeout=QUIET_S)
                next(iter(stream), None)
                stream.cancel()
            else:
                channel.unary_unary(path, _as_it_is, _as_it_is)(data, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            is_quiet = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return None if is_quiet and method.name in WATCHES else error
    return None


def _as_it_is(data: bytes) -> bytes:
    return data


def _requests(method: MethodDescriptor) -> Iterator[Message]:
    """Requests of a method with one field that is wrong; writes are only to be checked."""
    kind = message_factory.GetMessageClass(method.input_type)

    def request() -> Any:
        made: Any = kind()
        if "validate_only" in kind.DESCRIPTOR.fields_by_name:
            made.validate_only = True
        return made

    yield request()
    for field in kind.DESCRIPTOR.fields:
        for value in _bad_values(field):
            made = request()
            if isinstance(value, Message):
                getattr(made, field.name).CopyFrom(value)
            elif field.is_repeated:
                getattr(made, field.name).append(value)
            else:
                setattr(made, field.name, value)
            yield made


def _bad_values(field: Any) -> list[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        return list(BAD_TEXTS)
    if field.type == FieldDescriptor.TYPE_INT32:
        return [-1, -(2**31)]
    if field.type == FieldDescriptor.TYPE_UINT64:
        return [2**64 - 1]
    if field.type == FieldDescriptor.TYPE_ENUM:
        return [99]
    if field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated:
        kind = message_factory.GetMessageClass(field.message_type)
        name = field.message_type.full_name
        if name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            return [kind(seconds=2**62), kind(seconds=-(2**62)), kind(nanos=-5)]
        if name == "google.protobuf.FieldMask":
            return [kind(paths=["no.such.field"]), kind(paths=["../etc"]), kind(paths=[""])]
    return []


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_answers_nonsense_with_a_clean_status(
    attacked: Attacked, method: MethodDescriptor
) -> None:
    refused = _call(attacked, method, b"\xff\xff\xff")
    assert refused is not None
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(refused) == "MALFORMED"
    refused = _call(attacked, method, bytes(4 * 1024 * 1024 + 1))
    assert refused is not None
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for request in _requests(method):
        refused = _call(attacked, method, request.SerializeToString())
        if refused is not None:
            assert refused.code() in CLEAN, (str(request)[:200], refused)
            assert reason_of(refused), (str(request)[:200], refused)
            assert len(refused.details() or "") > 10


def test_bytes_that_are_no_frame_end_the_call(attacked: Attacked) -> None:
    with grpc.insecure_channel(attacked.address) as channel:
        for service in ("souverix.sync.v1.SyncService", "souverix.nodelink.v1.NodeLinkService"):
            call = channel.stream_stream(f"/{service}/Connect", _as_it_is, _as_it_is)
            answers = call(iter([b"\xff\xff\xff"]), timeout=DEADLINE_S)
            try:
                assert len(list(answers)) <= 1
            except grpc.RpcError as error:
                assert error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017 either end will do


def _issue(**fields: Any) -> command_service_pb2.IssueCommandRequest:
    right: dict[str, Any] = {
        "targets": command_pb2.Targets(domain=ROOT),
        "action": command_pb2.Action(ping=command_pb2.Ping()),
    }
    return command_service_pb2.IssueCommandRequest(**{**right, **fields})


def _expiry(seconds: int) -> command_pb2.Expiry:
    expiry = command_pb2.Expiry()
    expiry.ttl.seconds = seconds
    return expiry


def _document(size: int) -> struct_pb2.Struct:
    document = struct_pb2.Struct()
    document.update({"text": "x" * size})
    return document


def _nested(levels: int) -> struct_pb2.Struct:
    document = struct_pb2.Struct()
    inner = document
    for _ in range(levels):
        inner = inner.fields["n"].struct_value
    inner.fields["end"].bool_value = True
    return document


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("commands.IssueCommand", _issue(expiry=_expiry(-1))),
        ("commands.IssueCommand", _issue(expiry=_expiry(0))),
        ("commands.IssueCommand", _issue(expiry=_expiry(365 * 24 * 3600))),
        ("commands.IssueCommand", _issue(expiry=_expiry(2**62))),
        ("commands.IssueCommand", _issue(action=command_pb2.Action())),
        ("commands.IssueCommand", _issue(targets=command_pb2.Targets())),
        ("commands.IssueCommand", _issue(targets=command_pb2.Targets(domain="no-such-domain"))),
        ("commands.IssueCommand", _issue(targets=command_pb2.Targets(nodes=["../x"]))),
        ("commands.IssueCommand", _issue(targets=command_pb2.Targets(nodes=["no-such-node"]))),
        (
            "commands.IssueCommand",
            _issue(action=command_pb2.Action(ping=command_pb2.Ping(payload="x" * 70_000))),
        ),
        (
            "commands.IssueCommand",
            _issue(
                action=command_pb2.Action(
                    apply_config=command_pb2.ApplyConfig(document=_document(70_000))
                )
            ),
        ),
        (
            "policies.CreatePolicy",
            policy_service_pb2.CreatePolicyRequest(
                domain=ROOT,
                policy_id="large",
                spec=policy_pb2.PolicySpec(configuration=_document(TOO_LARGE)),
            ),
        ),
        (
            "policies.CreatePolicy",
            policy_service_pb2.CreatePolicyRequest(
                domain=ROOT, policy_id="../large", spec=policy_pb2.PolicySpec(version="v1")
            ),
        ),
        (
            "policies.CreatePolicy",
            policy_service_pb2.CreatePolicyRequest(
                domain=ROOT, policy_id="deep", spec=policy_pb2.PolicySpec(configuration=_nested(28))
            ),
        ),
        (
            "fleet.CreateNode",
            fleet_service_pb2.CreateNodeRequest(
                domain=ROOT, spec=node_pb2.NodeSpec(display_name="x" * TOO_LARGE)
            ),
        ),
        (
            "fleet.BatchCreateNodes",
            fleet_service_pb2.BatchCreateNodesRequest(
                items=[fleet_service_pb2.NodeCreation(domain=ROOT)] * 501
            ),
        ),
    ],
)
def test_input_beyond_its_bounds_is_refused_with_the_cause(
    attacked: Attacked, method: str, request_: Message
) -> None:
    service, _, name = method.partition(".")
    stub = getattr(getattr(attacked.root, service), name)
    with pytest.raises(grpc.RpcError) as refused:
        stub(request_, timeout=DEADLINE_S, metadata=PRINCIPAL)
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert reason_of(refused.value)


@pytest.mark.parametrize(
    "principal", ["nobody", "user:", "user:a b", "USER:a", "user:" + "x" * 200]
)
def test_a_malformed_principal_is_refused(attacked: Attacked, principal: str) -> None:
    for policy in ("p1", "../p1"):
        request = policy_service_pb2.CreatePolicyRequest(domain=ROOT, policy_id=policy)
        with pytest.raises(grpc.RpcError) as refused:
            attacked.root.policies.CreatePolicy(
                request, timeout=DEADLINE_S, metadata=(("souverix-principal", principal),)
            )
        assert refused.value.code() in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.INVALID_ARGUMENT,
        )


def test_a_flood_of_refusals_writes_a_bounded_number_of_audit_entries(attacked: Attacked) -> None:
    before = attacked.audit_entries()
    for number in range(300):
        with pytest.raises(grpc.RpcError):
            attacked.root.update_policy(ROOT, f"no-such-policy-{number}", "v1")
    assert attacked.audit_entries() - before < 100
