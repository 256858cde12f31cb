"""What an agent or a relay tells of itself: metrics, and where they and spans go. Owns the catalogue; decides nothing.

The same table stands in docs/telemetry.md.
"""

from __future__ import annotations

from collections.abc import Callable

from nodeagent.errors import SettingsInvalid
from telemetry import started
from telemetry.instruments import Meter, Metric
from telemetry.settings import TelemetrySettings

SERVICE_NAME = "souverix-node"
RELAY_SERVICE_NAME = "souverix-relay"

BACKLOG = Metric(
    "souverix.agent.backlog", "gauge", "{report}", "Reports the controller has not acknowledged"
)
LINKED = Metric(
    "souverix.agent.linked", "gauge", "1", "1 while the agent is linked to its controller, else 0"
)

CARRIED = Metric("souverix.relay.nodes", "gauge", "{node}", "Nodes whose streams a relay carries")
KEPT_REPORTS = Metric(
    "souverix.relay.kept.reports",
    "gauge",
    "{report}",
    "Reports a relay keeps for a controller that was away",
)
KEPT_BYTES = Metric("souverix.relay.kept.size", "gauge", "By", "Size of these reports")

AGENT_METRICS = (BACKLOG, LINKED)
RELAY_METRICS = (CARRIED, KEPT_REPORTS, KEPT_BYTES)


def begin_telemetry(
    settings: TelemetrySettings, node: str, service_name: str = SERVICE_NAME
) -> started.Telemetry:
    """Begins to tell of one node's agent, or of a relay. Raises SettingsInvalid for what cannot be had here."""
    try:
        return started.start(settings, service_name, {"service.instance.id": node})
    except started.TelemetryUnavailable as error:
        raise SettingsInvalid(str(error)) from error


def add_gauges(
    meter: Meter, backlog_reports: Callable[[], int], is_linked: Callable[[], bool]
) -> None:
    """Has an agent's numbers read when they are told. Both are single values: any thread may read them."""
    meter.gauge(BACKLOG, lambda: [(backlog_reports(), {})])
    meter.gauge(LINKED, lambda: [(int(is_linked()), {})])


def add_relay_gauges(
    meter: Meter,
    carried: Callable[[], int],
    kept_reports: Callable[[], int],
    kept_bytes: Callable[[], int],
) -> None:
    """Has a relay's numbers read when they are told. All are single values: any thread may read them."""
    meter.gauge(CARRIED, lambda: [(carried(), {})])
    meter.gauge(KEPT_REPORTS, lambda: [(kept_reports(), {})])
    meter.gauge(KEPT_BYTES, lambda: [(kept_bytes(), {})])
