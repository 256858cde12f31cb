"""Telemetry of one process: off, or started from settings. Owns the decision to import OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from telemetry.instruments import Meter
from telemetry.settings import TelemetrySettings
from telemetry.spans import Tracer


class TelemetryUnavailable(Exception):
    """What the settings ask for cannot be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Spans and instruments of one process."""

    tracer: Tracer
    meter: Meter
    #: Sends what waits and ends; takes a few seconds at most.
    stop: Callable[[], None]

    @property
    def is_on(self) -> bool:
        """Tells whether anything is recorded."""
        return self.tracer.is_on or self.meter.is_on


OFF = Telemetry(Tracer(), Meter(), lambda: None)


def start(settings: TelemetrySettings, service_name: str, resource: Mapping[str, str]) -> Telemetry:
    """Begins to tell what the settings ask for; `OFF` when they ask for nothing. Raises `TelemetryUnavailable`."""
    if not settings.is_on:
        return OFF
    try:
        from telemetry import exporting  # what it imports is not installed everywhere
    except ImportError as error:
        raise TelemetryUnavailable(
            f"telemetry is asked for, and {error.name or error} is not installed: install the project with its "
            "extras otlp or prometheus, or leave telemetry.endpoint and telemetry.prometheus_address empty"
        ) from error
    return exporting.start(settings, service_name, resource)
