"""The adapter to OpenTelemetry: spans and instruments that are sent by OTLP or scraped by Prometheus. Owns providers,
exporters and their ends. The only module that imports OpenTelemetry; imported only when something is to be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Token
from importlib import metadata
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from telemetry.context import CURRENT, TraceContext
from telemetry.instruments import Instrument, Meter, Metric, Reading
from telemetry.settings import TelemetrySettings
from telemetry.spans import Attributes, Kind, Span, Tracer
from telemetry.started import Telemetry, TelemetryUnavailable

SCOPE = "souverix"

#: Spans that wait to be sent; beyond it they are dropped: telling must never hold up the work.
MAX_WAITING_SPANS = 8192

#: Spans leave this often: an operator who looks for a trace finds it within seconds.
SPAN_DELAY_MS = 1_000

#: Longest wait of one export for its receiver, and of the process's end for the last one.
EXPORT_TIMEOUT_S = 5.0

_KINDS = {
    Kind.INTERNAL: trace.SpanKind.INTERNAL,
    Kind.SERVER: trace.SpanKind.SERVER,
    Kind.CLIENT: trace.SpanKind.CLIENT,
    Kind.PRODUCER: trace.SpanKind.PRODUCER,
    Kind.CONSUMER: trace.SpanKind.CONSUMER,
}


def start(settings: TelemetrySettings, service_name: str, resource: Mapping[str, str]) -> Telemetry:
    """As `started.start`, once something is asked for. Raises `TelemetryUnavailable`."""
    said = Resource.create(
        {
            **resource,
            **dict(each.split("=", 1) for each in settings.resource_attributes),
            "service.name": settings.service_name or service_name,
            "service.version": metadata.version("souverix-control-plane"),
        }
    )
    ends: list[Callable[[], object]] = []
    try:
        readers = _readers(settings, ends)
        tracer = _tracer(settings, said, ends)
    except ImportError as error:
        for end in ends:
            end()
        raise TelemetryUnavailable(
            f"{error.name} is not installed: install the project with its extra "
            f"{'prometheus' if 'prometheus' in str(error.name) else 'otlp'}"
        ) from error
    meters = MeterProvider(metric_readers=readers, resource=said, shutdown_on_exit=False)
    ends.insert(0, lambda: meters.shutdown(timeout_millis=EXPORT_TIMEOUT_S * 1000))

    def stop() -> None:
        for end in ends:
            end()

    return Telemetry(tracer, _OtelMeter(meters.get_meter(SCOPE)), stop)


def _tracer(
    settings: TelemetrySettings, resource: Resource, ends: list[Callable[[], object]]
) -> Tracer:
    if not settings.endpoint:
        return Tracer()
    spans = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.sampling_ratio)),
        resource=resource,
        shutdown_on_exit=False,
    )
    exporter: Any
    if settings.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(settings.endpoint, timeout=EXPORT_TIMEOUT_S)
    else:
        from opentelemetry.exporter.otlp.proto.http import trace_exporter

        url = f"{settings.endpoint.rstrip('/')}/v1/traces"
        exporter = trace_exporter.OTLPSpanExporter(url, timeout=EXPORT_TIMEOUT_S)
    spans.add_span_processor(BatchSpanProcessor(exporter, MAX_WAITING_SPANS, SPAN_DELAY_MS))
    ends.append(spans.shutdown)
    return _OtelTracer(spans.get_tracer(SCOPE))


def _readers(settings: TelemetrySettings, ends: list[Callable[[], object]]) -> list[MetricReader]:
    readers: list[MetricReader] = []
    if settings.endpoint:
        exporter: Any
        if settings.protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

            exporter = OTLPMetricExporter(settings.endpoint, timeout=EXPORT_TIMEOUT_S)
        else:
            from opentelemetry.exporter.otlp.proto.http import metric_exporter

            url = f"{settings.endpoint.rstrip('/')}/v1/metrics"
            exporter = metric_exporter.OTLPMetricExporter(url, timeout=EXPORT_TIMEOUT_S)
        readers.append(PeriodicExportingMetricReader(exporter, settings.interval_s * 1000))
    if settings.prometheus_address:
        readers.append(_prometheus(settings.prometheus_address, ends))
    return readers


def _prometheus(address: str, ends: list[Callable[[], object]]) -> MetricReader:
    """A page for Prometheus, served by a thread of its own. Raises `TelemetryUnavailable`."""
    import prometheus_client
    from opentelemetry.exporter.prometheus import PrometheusMetricReader

    registry = prometheus_client.CollectorRegistry()
    host, _, port = address.rpartition(":")
    try:
        server, thread = prometheus_client.start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise TelemetryUnavailable(
            f"prometheus_address {address} cannot be bound ({error.strerror}); is it in use?"
        ) from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join(EXPORT_TIMEOUT_S)

    ends.append(end)
    return PrometheusMetricReader(registry=registry)


class _OtelSpan(Span):
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        sampled = context.trace_flags.sampled
        self.context = TraceContext(context.trace_id, context.span_id, sampled)
        self._token: Token[TraceContext | None] | None = None

    def set(self, name: str, value: str | int | float | bool) -> None:
        self._span.set_attribute(name, value)

    def failed(self, error_type: str) -> None:
        self._span.set_status(trace.StatusCode.ERROR)
        self._span.set_attribute("error.type", error_type)

    def end(self) -> None:
        self._span.end()

    def __enter__(self) -> Self:
        self._token = CURRENT.set(self.context)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._token is not None:
            CURRENT.reset(self._token)
        if kind is not None:
            self.failed(kind.__name__)
        self._span.end()


class _OtelTracer(Tracer):
    is_on = True

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def span(
        self,
        name: str,
        *,
        kind: Kind = Kind.INTERNAL,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
        attributes: Attributes | None = None,
    ) -> Span:
        above = parent or CURRENT.get()
        context = Context()
        if above is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(_remote(above)), context)
        span = self._tracer.start_span(
            name,
            context=context,
            kind=_KINDS[kind],
            links=[trace.Link(_remote(each)) for each in links],
            attributes=attributes,
        )
        return _OtelSpan(span)


def _remote(context: TraceContext) -> trace.SpanContext:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if context.sampled else 0)
    return trace.SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=flags)


class _OtelInstrument(Instrument):
    def __init__(self, take: Callable[[float, Attributes | None], None]) -> None:
        self._take = take

    def record(self, value: float, attributes: Attributes | None = None) -> None:
        self._take(value, attributes)


class _OtelMeter(Meter):
    is_on = True

    def __init__(self, meter: Any) -> None:
        self._meter = meter

    def instrument(self, metric: Metric) -> Instrument:
        if metric.kind == "counter":
            made = self._meter.create_counter(metric.name, metric.unit, metric.description)
            return _OtelInstrument(made.add)
        made = self._meter.create_histogram(
            metric.name,
            metric.unit,
            metric.description,
            explicit_bucket_boundaries_advisory=metric.buckets or None,
        )
        return _OtelInstrument(made.record)

    def gauge(self, metric: Metric, read: Callable[[], Iterable[Reading]]) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, attributes) for value, attributes in read()]

        self._meter.create_observable_gauge(metric.name, [observe], metric.unit, metric.description)
