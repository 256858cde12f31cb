"""What an agent tells of itself: its metrics, and where they and its spans go. Owns the catalogue; decides nothing.

The same table stands in docs/telemetry.md.
"""

from __future__ import annotations

from collections.abc import Callable

from nodeagent.errors import SettingsInvalid
from telemetry import started
from telemetry.instruments import Meter, Metric
from telemetry.settings import TelemetrySettings

SERVICE_NAME = "souverix-node"

BACKLOG = Metric(
    "souverix.agent.backlog", "gauge", "{report}", "Reports the controller has not acknowledged"
)
LINKED = Metric(
    "souverix.agent.linked", "gauge", "1", "1 while the agent is linked to its controller, else 0"
)

METRICS = (BACKLOG, LINKED)


def begin_telemetry(settings: TelemetrySettings, node: str) -> started.Telemetry:
    """Begins to tell of one node's agent. Raises SettingsInvalid for what cannot be had here."""
    try:
        return started.start(settings, SERVICE_NAME, {"service.instance.id": node})
    except started.TelemetryUnavailable as error:
        raise SettingsInvalid(str(error)) from error


def add_gauges(
    meter: Meter, backlog_reports: Callable[[], int], is_linked: Callable[[], bool]
) -> None:
    """Has an agent's numbers read when they are told. Both are single values: any thread may read them."""
    meter.gauge(BACKLOG, lambda: [(backlog_reports(), {})])
    meter.gauge(LINKED, lambda: [(int(is_linked()), {})])
