"""What every call has in common: who calls, errors as status, refusals in the audit log. Owns the server
interceptor; knows no service.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2

from airgap.errors import BundleRefused
from controller.access.errors import AccessDenied
from controller.bearer import (
    Proof,
    current_proof,
    is_secured,
    now_serving,
    serving,
    token_shown,
)
from controller.errors import ServiceError, abort, status_of
from controller.gate import Gate
from controller.journal import JournalError
from controller.log.errors import LogError
from controller.replica import Replica
from controller.services.times import check_times
from controller.standing import BearerRefused
from controller.telemetry.calls import CallTelemetry
from controller.writes import PRINCIPAL_PATTERN, Caller, write_audit
from federation.errors import FederationError
from souverix.audit.v1 import audit_pb2
from telemetry.started import OFF, Telemetry

_log = logging.getLogger(__name__)

#: Metadata that names the caller. Believed on loopback without TLS only; by TLS the certificate names the caller.
PRINCIPAL_METADATA = "souverix-principal"

ANONYMOUS = "user:anonymous"

#: Refusals written to the audit log a second, and the burst allowed: a hostile or broken caller must not be able to
#: fill the log. What is held back is counted in the next entry.
REFUSALS_PER_S = 5.0
REFUSALS_BURST = 20

#: Characters of a refusal's text that are kept: it may quote what the caller sent.
MAX_TEXT = 1024

#: Refusals that are answers to a question rather than attempts at a change.
READING = (
    "Get",
    "List",
    "Watch",
    "Find",
    "Download",
    "Verify",
    "Connect",
    "ServerReflection",
    "Check",
)


def caller_of(context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """Who calls. Raises `ServiceError` when the principal is malformed."""
    supplied = getattr(context, "caller", None)
    if isinstance(supplied, Caller):
        return supplied
    proof = current_proof()
    if proof is not None:
        return Caller(
            proof.principal,
            context.peer(),
            context.time_remaining(),
            issued_by=proof.domain,
            groups=proof.groups,
        )
    if is_secured(context):
        # Nothing but the certificate or the token names a caller there, and it was not judged.
        return Caller(ANONYMOUS, context.peer(), context.time_remaining())
    if token_shown(context):
        raise ServiceError(
            grpc.StatusCode.UNAUTHENTICATED,
            "TOKEN_NOT_TAKEN",
            "a token was sent in clear; whoever saw it can use it: get a new one, and show tokens over TLS only",
        )
    metadata = dict(context.invocation_metadata() or ())
    principal = metadata.get(PRINCIPAL_METADATA, ANONYMOUS)
    text = principal.decode(errors="replace") if isinstance(principal, bytes) else str(principal)
    if not PRINCIPAL_PATTERN.fullmatch(text):
        raise ServiceError(
            grpc.StatusCode.UNAUTHENTICATED,
            "PRINCIPAL_MALFORMED",
            f"metadata {PRINCIPAL_METADATA} is not a principal such as user:alice",
        )
    return Caller(text, context.peer(), context.time_remaining())


#: What is decided against a caller. Other errors of services tell of the controller: its load, its links, its log.
Refusal = FederationError | ServiceError | BundleRefused

_REFUSING = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAUTHENTICATED,
)


def refusal_in(error: Exception) -> Refusal | None:
    """The error, if it is a decision against the caller; None: it is none."""
    if isinstance(error, (FederationError, BundleRefused)):
        return error
    return error if isinstance(error, ServiceError) and error.code in _REFUSING else None


_DENIALS = (code_pb2.PERMISSION_DENIED, code_pb2.FAILED_PRECONDITION, code_pb2.UNAUTHENTICATED)


class _Malformed:
    """Stands for a request whose bytes are no message, so that the refusal is made where all are."""


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Malformed()

    return parse


def _check_parsed(request: Any) -> None:
    """Refuses what no handler should see: bytes that are no message, times that are none."""
    if isinstance(request, _Malformed):
        raise _malformed()
    if isinstance(request, Message):
        check_times(request)


def _malformed() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "MALFORMED",
        "the request is not a message of this method; is the client of another version?",
    )


class MalformedFrame(DecodeError):
    """Bytes within a caller's stream are no message of the method."""


async def _parsed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """A caller's stream. Raises `MalformedFrame`, so that the caller's fault is told from faults of our own."""
    async for request in requests:
        if isinstance(request, _Malformed):
            raise MalformedFrame("a frame is not a message of this method")
        yield request


class Proving(Protocol):
    """Judges what proves the callers of a listener."""

    def of_call(self, context: Any) -> Any:
        """What proves a caller. Raises `BearerRefused`."""

    def standing(self, proof: Any, /) -> AbstractAsyncContextManager[None]:
        """The call lasts as long as the block, at most as long as the proof is good. Raises `BearerRefused` then."""


def _asked_about(request: Any) -> str:
    """The resource that a request names, if it names one."""
    if not isinstance(request, Message):
        return ""
    named = (getattr(request, field, "") for field in ("name", "node"))
    return next((each for each in named if isinstance(each, str) and each), "")


class RefusalAudit:
    """Writes refused calls to the audit log, at a bounded rate."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._tokens = float(REFUSALS_BURST)
        self._filled_s = time.monotonic()
        self._suppressed = 0

    async def note(self, method: str, caller: Caller, error: Refusal, request: Any = None) -> None:
        """Takes note of a refusal, and of what the request was about; never raises."""
        if not self._replica.is_master:
            return
        now = time.monotonic()
        self._tokens = min(REFUSALS_BURST, self._tokens + (now - self._filled_s) * REFUSALS_PER_S)
        self._filled_s = now
        if self._tokens < 1:
            self._suppressed += 1
            return
        self._tokens -= 1
        status = status_of(error)
        denied = status.code in _DENIALS
        metadata: Mapping[str, str] = getattr(error, "metadata", {})
        record = audit_pb2.AuditRecord(
            principal=caller.principal,
            action=method.lstrip("/"),
            resource=(
                metadata.get("subject") or _asked_about(request) or metadata.get("domain", "")
            )[:MAX_TEXT],
            source=caller.source,
            issued_by=caller.issued_by,
            outcome=(
                audit_pb2.AUDIT_OUTCOME_DENIED if denied else audit_pb2.AUDIT_OUTCOME_REJECTED
            ),
            reason=str(error.reason),
            message=str(error)[:MAX_TEXT],
            suppressed_count=self._suppressed,
        )
        self._suppressed = 0
        domain = metadata.get("domain") or self._replica.config.controller.domain
        try:
            await self._replica.journal().submit(lambda p: write_audit(p, record, domain=domain))
        except (JournalError, LogError, FederationError):
            self._suppressed += record.suppressed_count + 1


async def _answer(
    inner: Any,
    request: Any,
    context: grpc.aio.ServicerContext[Any, Any],
    admission: Admission,
) -> None:
    """Has a call answered by a stream."""
    _check_parsed(request)
    admission.renew()
    given = _parsed(request) if isinstance(request, AsyncIterator) else request
    responses = inner(given, context)
    if not isinstance(responses, AsyncGenerator):
        await responses  # It writes to the context itself, as the health service does.
        return
    # Closed with the call: a generator that is left where it yielded keeps what it holds.
    async with contextlib.aclosing(responses):
        async for response in responses:
            admission.renew()
            await context.write(response)


class Admission:
    """A call's way through the gate; `gate` is None where nobody is held to a role."""

    def __init__(
        self,
        gate: Gate | None,
        method: str,
        request: Any,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        self._gate = gate if gate is not None and gate.enforced else None
        self._method = method
        self._request = request
        self._context = context
        self._version = -1

    def renew(self) -> None:
        """Asks the gate, once more whenever rights have changed since. Raises `AccessDenied`."""
        if self._gate is None or self._version == self._gate.version:
            return
        self._gate.admit(self._method, self._request, caller_of(self._context))
        self._version = self._gate.version


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Judges who calls, turns exceptions into status with details, and notes refusals of changes and of callers."""

    def __init__(
        self,
        audit: RefusalAudit,
        telemetry: Telemetry = OFF,
        proving: Proving | None = None,
        *,
        gate: Gate | None = None,
    ) -> None:
        self._audit = audit
        #: None: nobody is held to a role.
        self._gate = gate
        #: None without TLS.
        self._proving = proving
        self._telemetry = CallTelemetry(telemetry)
        #: Wrapped handlers of the methods there are: the wrapping is the same for every call.
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a call's method, wrapped; None for a method there is not."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Any:
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._told(method, self._unary(method, handler.unary_unary)),
                request_deserializer=_tolerant(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._told(method, self._stream(method, handler.unary_stream)),
                request_deserializer=_tolerant(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(
                self._told(method, self._unary(method, handler.stream_unary)),
                request_deserializer=_tolerant(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._told(method, self._stream(method, handler.stream_stream), spanned=False),
                request_deserializer=_tolerant(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        return handler

    def _told(self, method: str, call: Any, *, spanned: bool = True) -> Any:
        """Nothing is put between while nothing is told: it would cost every call."""
        if not self._telemetry.is_on:
            return call
        return self._telemetry.told(method, call, spanned=spanned)

    def _unary(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            with serving():
                try:
                    proof = self._judge(context)
                    _check_parsed(request)
                    Admission(self._gate, method, request, context).renew()
                    if not isinstance(request, AsyncIterator):
                        return await inner(request, context)
                    async with self._standing(proof):
                        return await inner(_parsed(request), context)
                except Exception as error:  # noqa: BLE001 every failure must reach the caller as a status
                    await self._refuse(method, request, context, error)

        return call

    def _stream(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            with serving():
                try:
                    async with self._standing(self._judge(context)):
                        await _answer(
                            inner, request, context, Admission(self._gate, method, request, context)
                        )
                except Exception as error:  # noqa: BLE001 every failure must reach the caller as a status
                    await self._refuse(method, request, context, error)

        return call

    def _judge(self, context: Any) -> Proof | None:
        """Who calls, from here on also for the refusal that may follow. Raises `BearerRefused`."""
        if self._proving is None:
            return None
        try:
            proof: Proof = self._proving.of_call(context)
        except BearerRefused as refusal:
            if refusal.bearer is not None:
                now_serving(refusal.bearer)
            raise
        now_serving(proof)
        return proof

    def _standing(self, proof: Proof | None) -> AbstractAsyncContextManager[None]:
        if self._proving is None or proof is None:
            return contextlib.nullcontext()
        return self._proving.standing(proof)

    async def _refuse(
        self,
        method: str,
        request: Any,
        context: grpc.aio.ServicerContext[Any, Any],
        error: Exception,
    ) -> None:
        if isinstance(error, (grpc.aio.AbortError, grpc.aio.InternalError)):
            raise error  # It was refused already, or the caller left while a response was on its way.
        if isinstance(error, MalformedFrame):
            error = _malformed()
        if isinstance(error, NotImplementedError):
            error = ServiceError(
                grpc.StatusCode.UNIMPLEMENTED,
                "METHOD_UNKNOWN",
                f"{method} is not served by this controller",
            )
        self._telemetry.refused(getattr(error, "reason", "") or type(error).__name__)
        if status_of(error).code == code_pb2.INTERNAL:
            _log.exception("a call failed", extra={"method": method}, exc_info=error)
        reading = method.rpartition("/")[2].startswith(READING)
        refusal = refusal_in(error)
        if refusal is not None and (
            not reading or isinstance(refusal, (BearerRefused, AccessDenied))
        ):
            # A request may be refused before anybody asked who sends it, and its principal be malformed too.
            with contextlib.suppress(ServiceError):
                await self._audit.note(method, caller_of(context), refusal, request)
        await abort(context, error)
