"""Executes writes that other controllers forwarded here, by the same handlers that serve clients. Owns the way from a
method's name to its handler; knows no service.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError

from controller.errors import ServiceError
from controller.gate import Gate
from controller.services.calls import RefusalAudit
from controller.services.times import check_times
from controller.writes import Caller
from federation.errors import FederationError


class ForwardedContext:
    """What a handler may ask of a call that came over a sync link."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def peer(self) -> str:
        """The controller that passed the call on."""
        return self.caller.source

    def time_remaining(self) -> float | None:
        """Seconds the first controller's caller still waits."""
        return self.caller.remaining_s

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """None: the caller is known already."""
        return ()


class LocalCalls:
    """Writing methods by full name."""

    def __init__(self, audit: RefusalAudit, gate: Gate) -> None:
        self._audit = audit
        self._gate = gate
        self._methods: dict[str, tuple[Any, Any]] = {}

    def add(self, service: ServiceDescriptor, servicer: Any) -> None:
        """Makes the writes of a service callable: the unary methods whose requests have a request_id. What reads, or
        concerns the controller asked alone, is not passed on.
        """
        for method in service.methods:
            if method.server_streaming or method.client_streaming:
                continue
            if "request_id" not in method.input_type.fields_by_name:
                continue
            request_type = message_factory.GetMessageClass(method.input_type)
            name = f"/{service.full_name}/{method.name}"
            self._methods[name] = (getattr(servicer, method.name), request_type)

    async def note_refusal(self, method: str, caller: Caller, error: ServiceError) -> None:
        """Has it audited that a peer's call was refused before it was executed."""
        await self._audit.note(method, caller, error)

    async def execute(self, method: str, request: bytes, caller: Caller) -> bytes:
        """The serialised response. Raises what the handler raises, `ServiceError` for what cannot be called.

        A refusal is audited here, where it was decided: the controllers that pass it on do not know why.
        """
        found = self._methods.get(method)
        if found is None:
            raise ServiceError(
                grpc.StatusCode.UNIMPLEMENTED,
                "METHOD_UNKNOWN",
                f"{method} is not known to this controller; the controllers' versions differ",
            )
        handler, request_type = found
        try:
            parsed = request_type.FromString(request)
        except DecodeError as error:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "MALFORMED",
                f"the request of {method} is malformed",
            ) from error
        try:
            check_times(parsed)
            self._gate.admit(method, parsed, caller)
            response = await handler(parsed, ForwardedContext(caller))
        except FederationError as error:
            await self._audit.note(method, caller, error, parsed)
            raise
        data: bytes = response.SerializeToString()
        return data
