"""What every call has in common, over a real server: who calls, errors as status, refusals in the audit log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from controller.errors import ServiceError
from controller.journal import JournalFull
from controller.services import calls
from controller.services.calls import (
    ANONYMOUS,
    REFUSALS_BURST,
    CallInterceptor,
    RefusalAudit,
    caller_of,
)
from controller.writes import Caller
from federation.errors import NotFound, OutOfReach
from souverix.audit.v1 import audit_pb2
from souverix.fleet.v1 import fleet_service_pb2
from souverix.policy.v1 import policy_service_pb2
from tests.unit.controller.services.served import Served, refusal
from tests.unit.controller.sync.tree import tree_in, until

DEADLINE_S = 20.0


@dataclass
class Scripted:
    """A service whose methods do what a test says."""

    raises: Exception | None = None
    callers: list[Caller] = field(default_factory=list)
    endless: bool = False
    open_streams: int = 0

    async def unary(self, request: Any, context: Any) -> Any:
        self.callers.append(caller_of(context))
        if self.raises is not None:
            raise self.raises
        return policy_service_pb2.GetPolicyResponse()

    async def stream(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        self.open_streams += 1
        try:
            yield policy_service_pb2.GetPolicyResponse()
            while self.endless:
                yield policy_service_pb2.GetPolicyResponse()
            if self.raises is not None:
                raise self.raises
        finally:
            self.open_streams -= 1

    async def talk(self, requests: Any, context: Any) -> AsyncGenerator[Any, None]:
        async for _ in requests:
            yield policy_service_pb2.GetPolicyResponse()

    async def writing(self, request: Any, context: Any) -> None:
        await context.write(policy_service_pb2.GetPolicyResponse())
        if self.raises is not None:
            raise self.raises


REQUEST = policy_service_pb2.GetPolicyRequest(name="x")


@dataclass
class Calling:
    """A channel to a scripted service behind the interceptor of a real controller."""

    service: Scripted
    channel: grpc.aio.Channel
    served: Served

    def unary(
        self, method: str = "UpdateThing", request: bytes | None = None, **options: Any
    ) -> Any:
        call: Any = self.channel.unary_unary(f"/test.Service/{method}")
        data = REQUEST.SerializeToString() if request is None else request
        return call(data, timeout=DEADLINE_S, **options)

    def stream(self, method: str) -> Any:
        call: Any = self.channel.unary_stream(f"/test.Service/{method}")
        return call(REQUEST.SerializeToString(), timeout=DEADLINE_S)

    def audited(self) -> list[audit_pb2.AuditRecord]:
        records = [item.write.body() for item in self.served.replica.state.audits]
        return [record for record in records if record.action.startswith("test.Service/")]


@pytest.fixture
async def calling(root: Served) -> AsyncIterator[Calling]:
    service = Scripted()
    parse = policy_service_pb2.GetPolicyRequest.FromString
    serialise = policy_service_pb2.GetPolicyResponse.SerializeToString
    unary = grpc.unary_unary_rpc_method_handler(service.unary, parse, serialise)
    parse_history = fleet_service_pb2.ListConnectivityHistoryRequest.FromString
    handlers: dict[str, Any] = {
        "GetHistory": grpc.unary_unary_rpc_method_handler(service.unary, parse_history, serialise),
        "Talk": grpc.stream_stream_rpc_method_handler(service.talk, parse, serialise),
        "UpdateThing": unary,
        "GetThing": unary,
        "Follow": grpc.unary_stream_rpc_method_handler(service.stream, parse, serialise),
        "Written": grpc.unary_stream_rpc_method_handler(service.writing, parse, serialise),
    }
    server = grpc.aio.server(interceptors=[CallInterceptor(RefusalAudit(root.replica))])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Service", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Calling(service, channel, root)
    await server.stop(None)


async def _last(call: Any) -> Any:
    """The last answer of a stream."""
    return [answer async for answer in call][-1]


async def test_an_unnamed_caller_is_anonymous_and_a_named_one_is_believed(calling: Calling) -> None:
    await calling.unary()
    await calling.unary(metadata=(("souverix-principal", "user:alice"),))
    assert [c.principal for c in calling.service.callers] == [ANONYMOUS, "user:alice"]
    caller = calling.service.callers[1]
    assert "127.0.0.1" in caller.source
    assert caller.remaining_s is not None
    assert 0 < caller.remaining_s < 2 * DEADLINE_S
    assert caller.via == ()


@pytest.mark.parametrize("principal", ["alice", "user:", "user:a b", "User:x", "user:" + "x" * 129])
async def test_a_principal_that_is_none_is_refused(calling: Calling, principal: str) -> None:
    metadata = (("souverix-principal", principal),)
    code, info, message = await refusal(calling.unary(metadata=metadata))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert info.reason == "PRINCIPAL_MALFORMED"
    assert "souverix-principal" in message


async def test_a_malformed_request_is_refused_before_the_handler(calling: Calling) -> None:
    code, info, _ = await refusal(calling.unary(request=b"\xff\xff\xff"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "MALFORMED"
    assert not calling.service.callers


async def test_a_malformed_frame_ends_its_stream_with_the_cause(calling: Calling) -> None:
    frames: Any = calling.channel.stream_stream("/test.Service/Talk")
    good = REQUEST.SerializeToString()
    code, info, _ = await refusal(_last(frames(iter([good, b"\xff\xff"]), timeout=DEADLINE_S)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "MALFORMED"


async def test_a_time_that_is_none_is_refused_before_the_handler(calling: Calling) -> None:
    request = fleet_service_pb2.ListConnectivityHistoryRequest(name="nodes/n1")
    request.start_time.nanos = -1
    call: Any = calling.channel.unary_unary("/test.Service/GetHistory")
    code, _, message = await refusal(call(request.SerializeToString(), timeout=DEADLINE_S))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "start_time" in message
    assert not calling.service.callers


async def test_a_method_that_is_not_built_is_unimplemented(calling: Calling) -> None:
    calling.service.raises = NotImplementedError("Method not implemented!")
    code, info, _ = await refusal(calling.unary())
    assert (code, info.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")


async def test_errors_become_status_with_reason_and_metadata(calling: Calling) -> None:
    calling.service.raises = OutOfReach("not yours", domain="elsewhere")
    code, info, message = await refusal(calling.unary())
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert (info.reason, message) == ("DOMAIN_OUT_OF_REACH", "not yours")
    assert dict(info.metadata) == {"domain": "elsewhere"}


async def test_a_fault_tells_the_caller_nothing_of_its_text(
    calling: Calling, caplog: pytest.LogCaptureFixture
) -> None:
    calling.service.raises = RuntimeError("the secret")
    code, info, message = await refusal(calling.unary())
    assert code is grpc.StatusCode.INTERNAL
    assert info.reason == "INTERNAL"
    assert "secret" not in message
    assert "the secret" in caplog.text


async def test_a_text_that_quotes_a_huge_request_still_arrives(calling: Calling) -> None:
    calling.service.raises = NotFound("no " + "x" * 100_000, subject="y" * 100_000)
    code, info, message = await refusal(calling.unary())
    assert code is grpc.StatusCode.NOT_FOUND
    assert message.startswith("no xxx")
    assert info.metadata["subject"].startswith("yyy")
    [record] = calling.audited()
    assert len(record.message) == len(record.resource) == calls.MAX_TEXT


@pytest.mark.parametrize("method", ["Follow", "Written"])
async def test_a_streams_error_comes_after_what_was_sent(calling: Calling, method: str) -> None:
    calling.service.raises = NotFound("gone")
    stream = calling.stream(method)
    assert await stream.read() is not grpc.aio.EOF
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "NOT_FOUND"


async def test_a_stream_whose_caller_does_not_read_and_goes_is_closed(calling: Calling) -> None:
    calling.service.endless = True
    stream = calling.stream("Follow")
    await stream.read()
    assert calling.service.open_streams == 1
    stream.cancel()
    await until(lambda: calling.service.open_streams == 0, "the end of the stream")


async def test_refused_changes_are_audited_and_refused_reads_are_not(calling: Calling) -> None:
    calling.service.raises = OutOfReach("not yours", domain="elsewhere")
    await refusal(calling.unary("GetThing"))
    await refusal(calling.unary(metadata=(("souverix-principal", "user:mallory"),)))
    [record] = calling.audited()
    assert record.action == "test.Service/UpdateThing"
    assert record.principal == "user:mallory"
    assert record.outcome == audit_pb2.AUDIT_OUTCOME_DENIED
    assert (record.reason, record.message) == ("DOMAIN_OUT_OF_REACH", "not yours")
    assert record.resource == "x", "what the request names"


async def test_refusals_are_audited_at_a_bounded_rate_and_what_is_held_back_is_counted(
    calling: Calling, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now_s)
    monkeypatch.setattr("controller.services.calls.time", clock)
    audit = RefusalAudit(calling.served.replica)
    caller = Caller("user:mallory", "ipv4:127.0.0.1:1")
    for _ in range(REFUSALS_BURST + 7):
        await audit.note("/test.Service/UpdateThing", caller, NotFound("gone"))
    assert len(calling.audited()) == REFUSALS_BURST
    now_s += 1 / calls.REFUSALS_PER_S
    await audit.note("/test.Service/UpdateThing", caller, NotFound("gone"))
    assert [r.suppressed_count for r in calling.audited()] == [0] * REFUSALS_BURST + [7]
    now_s += 3600
    for _ in range(REFUSALS_BURST + 1):
        await audit.note("/test.Service/UpdateThing", caller, NotFound("gone"))
    assert len(calling.audited()) == 2 * REFUSALS_BURST + 1


async def test_a_refusal_that_cannot_be_written_is_counted_in_the_next(
    calling: Calling, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = RefusalAudit(calling.served.replica)
    caller = Caller("user:mallory", "ipv4:127.0.0.1:1")
    journal = calling.served.replica.journal()

    async def full(decide: Any) -> Any:
        raise JournalFull("too many")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "submit", full)
        for _ in range(3):
            await audit.note("/test.Service/UpdateThing", caller, NotFound("gone"))
    await audit.note("/test.Service/UpdateThing", caller, NotFound("gone"))
    [record] = calling.audited()
    assert record.suppressed_count == 3


async def test_a_service_error_keeps_its_own_code_and_retry(calling: Calling) -> None:
    calling.service.raises = ServiceError(
        grpc.StatusCode.UNAVAILABLE, "LATER", "not now", {"a": "b"}, retry_after_ms=250
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calling.unary()
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() == 250


async def test_a_controller_that_serves_answers_health_watches(tmp_path: Path) -> None:

    async with tree_in(tmp_path) as tree:
        tree.add("global")
        await tree.start()
        stub: Any = health_pb2_grpc.HealthStub(tree["global"].channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        first = await watch.read()
        assert first.status == health_pb2.HealthCheckResponse.SERVING
        with contextlib.suppress(asyncio.CancelledError):
            watch.cancel()
