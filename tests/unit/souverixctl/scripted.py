"""A controller that answers by script, on a real socket, and a run of the command line against it.

Owns the scripted server. Never answers what a test did not script: that is UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from souverixctl.main import run


@dataclass(frozen=True, slots=True)
class Fail:
    """An answer that ends the call with a status."""

    code: grpc.StatusCode
    message: str = "scripted"
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: dict[str, str] = field(default_factory=dict)
    retry_after_s: int | None = None

    def status(self) -> Any:
        """The status with its details."""
        details: list[Message] = []
        if self.reason:
            details.append(
                error_details_pb2.ErrorInfo(
                    reason=self.reason, domain="souverix", metadata=self.metadata
                )
            )
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for name, description in self.violations.items():
                bad.field_violations.add(field=name, description=description)
            details.append(bad)
        if self.retry_after_s is not None:
            delay = duration_pb2.Duration(seconds=self.retry_after_s)
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        packed = []
        for detail in details:
            box = any_pb2.Any()
            box.Pack(detail)
            packed.append(box)
        return rpc_status.to_status(
            status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)
        )


@dataclass(frozen=True, slots=True)
class Silence:
    """An answer that does not come."""


Answer = Message | Fail | Silence
# Answers of one call: one, or those of a stream in order.
Turn = Answer | Sequence[Answer]


@dataclass(slots=True)
class Call:
    """One call as it arrived."""

    method: str
    request: Any
    metadata: dict[str, str]


class ScriptedController:
    """Answers each request type with its turns, in order; the last turn repeats."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.address = ""
        self._turns: dict[type[Message], list[Turn]] = {}
        self._handlers: dict[str, dict[str, Any]] = {}

    def on(self, request_type: type[Message], *turns: Turn) -> None:
        """Script the method that takes this request."""
        self._turns[request_type] = list(turns)
        for service in request_type.DESCRIPTOR.file.services_by_name.values():
            for method in service.methods:
                if method.input_type == request_type.DESCRIPTOR:
                    handler = self._handler(method, request_type)
                    self._handlers.setdefault(service.full_name, {})[method.name] = handler

    def requests(self, request_type: type[Message]) -> list[Any]:
        """The requests of one type that arrived."""
        return [call.request for call in self.calls if isinstance(call.request, request_type)]

    async def start(self, port: int = 0) -> grpc.aio.Server:
        """Listen on loopback."""
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        for name, handlers in self._handlers.items():
            generic = grpc.method_handlers_generic_handler(name, handlers)
            server.add_generic_rpc_handlers((generic,))
        self.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
        await server.start()
        return server

    def _handler(self, method: Any, request_type: type[Message]) -> Any:
        reply_type = GetMessageClass(method.output_type)
        codecs: dict[str, Any] = {
            "request_deserializer": request_type.FromString,
            "response_serializer": reply_type.SerializeToString,
        }

        async def unary(request: Message, context: Any) -> Any:
            turn = self._note(method.name, request, context)
            return await _give(turn if not isinstance(turn, Sequence) else turn[0], context)

        async def stream(request: Message, context: Any) -> AsyncIterator[Any]:
            turn = self._note(method.name, request, context)
            for answer in turn if isinstance(turn, Sequence) else [turn]:
                yield await _give(answer, context)

        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **codecs)
        return grpc.unary_unary_rpc_method_handler(unary, **codecs)

    def _note(self, method: str, request: Message, context: Any) -> Turn:
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        self.calls.append(Call(method, request, metadata))
        turns = self._turns[type(request)]
        return turns.pop(0) if len(turns) > 1 else turns[0]


async def _give(answer: Answer, context: Any) -> Message:
    if isinstance(answer, Silence):
        await asyncio.Event().wait()
    if isinstance(answer, Fail):
        await context.abort_with_status(answer.status())
    if not isinstance(answer, Message):
        raise AssertionError(f"{answer} is no message")
    return answer


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished run."""

    exit_code: int
    out: str
    err: str


async def ctl(*arguments: str) -> Ran:
    """Run the command line in this process, its output caught as a pipe would."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        exit_code = await asyncio.to_thread(run, arguments)
    texts = []
    for stream in (out, err):
        stream.flush()
        stream.seek(0)
        texts.append(stream.read())
    return Ran(exit_code, *texts)
