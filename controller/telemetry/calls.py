"""What is told of calls: a span and a duration each, in the caller's trace. Owns the hook of the interceptor; it is not
there at all while nothing is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from controller.telemetry import catalogue
from telemetry.context import TraceContext, current, of_metadata
from telemetry.spans import NO_SPAN, Kind
from telemetry.started import Telemetry

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def trace_of(context: Any) -> TraceContext | None:
    """The trace a call belongs to: its span's, else the caller's as it stands in the metadata; None: none."""
    return current() or of_metadata(context.invocation_metadata())


class CallTelemetry:
    """Tells of the calls of one server."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.is_on = telemetry.is_on
        self._tracer = telemetry.tracer
        self._duration = telemetry.meter.instrument(catalogue.RPC_DURATION)
        self._refusals = telemetry.meter.instrument(catalogue.RPC_REFUSALS)

    def refused(self, reason: str) -> None:
        """A call was refused, for a reason of which there are some dozens."""
        self._refusals.record(1, {"error.type": reason})

    def told(self, method: str, call: Callable[..., Any], *, spanned: bool) -> Callable[..., Any]:
        """A handler that is told of. Without a span where a stream lasts for days."""

        async def handler(request: Any, context: Any) -> Any:
            with self._call(method, context, spanned=spanned):
                return await call(request, context)

        return handler

    @contextmanager
    def _call(self, method: str, context: Any, *, spanned: bool) -> Iterator[None]:
        name = method.lstrip("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}
        span = NO_SPAN
        if spanned:
            parent = of_metadata(context.invocation_metadata())
            span = self._tracer.span(name, kind=Kind.SERVER, parent=parent, attributes=attributes)
        began_s = time.monotonic()
        try:
            with span:
                try:
                    yield
                finally:
                    code = _code_of(context)
                    span.set("rpc.response.status_code", code)
                    if code != "OK":
                        span.failed(code)
        finally:
            told = {**attributes, "rpc.response.status_code": code}
            self._duration.record(time.monotonic() - began_s, told)


def _code_of(context: Any) -> str:
    if context.cancelled():
        return "CANCELLED"
    code = context.code()
    number = code.value[0] if isinstance(code, grpc.StatusCode) else int(code or 0)
    return _CODES.get(number, "UNKNOWN")
