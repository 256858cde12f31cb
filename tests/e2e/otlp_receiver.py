"""A receiver of OTLP over gRPC, for tests: keeps the spans and the names of metrics that processes send it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class SeenSpan:
    """A span, and the service that sent it."""

    service: str
    instance: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]
    links: tuple[str, ...]


class OtlpReceiver:
    """Use as a context manager; `address` is where it listens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[SeenSpan] = []
        self._metrics: set[tuple[str, str]] = set()
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(self), self._server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(self), self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def spans(self, trace_id: str = "") -> list[SeenSpan]:
        """What has come of a trace, or of all."""
        with self._lock:
            return [each for each in self._spans if trace_id in ("", each.trace_id)]

    def metrics(self, service: str) -> set[str]:
        """Names of the metrics a service has sent."""
        with self._lock:
            return {name for by, name in self._metrics if by == service}

    def take_spans(self, spans: list[SeenSpan]) -> None:
        """Keeps spans."""
        with self._lock:
            self._spans += spans

    def take_metrics(self, metrics: set[tuple[str, str]]) -> None:
        """Keeps names of metrics."""
        with self._lock:
            self._metrics |= metrics


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 the contract's name
        self._receiver.take_spans(list(_spans(request)))
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):  # type: ignore[misc]
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 the contract's name
        found = {
            (_texts(part.resource.attributes)["service.name"], metric.name)
            for part in request.resource_metrics
            for scope in part.scope_metrics
            for metric in scope.metrics
        }
        self._receiver.take_metrics(found)
        return metrics_service_pb2.ExportMetricsServiceResponse()


def _spans(request: Any) -> Iterator[SeenSpan]:
    for part in request.resource_spans:
        said = _texts(part.resource.attributes)
        for scope in part.scope_spans:
            for span in scope.spans:
                yield SeenSpan(
                    said["service.name"],
                    said.get("service.instance.id", ""),
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    _texts(span.attributes),
                    tuple(link.trace_id.hex() for link in span.links),
                )


def _texts(attributes: Any) -> dict[str, str]:
    return {
        each.key: str(getattr(each.value, each.value.WhichOneof("value") or "string_value"))
        for each in attributes
    }
