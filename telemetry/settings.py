"""What an operator may set of telemetry, in every program alike. Owns names, defaults and checks; starts nothing."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, fields
from urllib.parse import urlsplit

PROTOCOLS = ("grpc", "http/protobuf")

#: Longest time between two exports: a gauge older than this is no measurement of the present.
MAX_INTERVAL_S = 3600.0

MAX_RESOURCE_ATTRIBUTES = 64


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """Where a program tells of itself; by default nowhere."""

    #: Where OTLP is taken, as a URL; empty: nothing is sent.
    endpoint: str = ""
    #: "grpc" or "http/protobuf".
    protocol: str = "grpc"
    #: Share of the traces begun here that are recorded; traces begun elsewhere are recorded as their beginner decided.
    sampling_ratio: float = 1.0
    #: HOST:PORT where Prometheus may scrape; empty: nowhere.
    prometheus_address: str = ""
    #: Name in traces and metrics; empty: the program's own.
    service_name: str = ""
    #: More that is said of this process with everything: "name=value" each.
    resource_attributes: tuple[str, ...] = ()
    #: Time between two exports of metrics, and between two looks at what is gauged.
    interval_s: float = 15.0

    @property
    def is_on(self) -> bool:
        """Tells whether anything is to be told."""
        return bool(self.endpoint or self.prometheus_address)


def from_table(table: dict[str, object]) -> TelemetrySettings:
    """Settings from a table of a TOML file. Raises `ValueError` that names the setting."""
    known = {field.name: field for field in fields(TelemetrySettings)}
    for name, value in table.items():
        if name not in known:
            raise ValueError(f"{name} is no setting; settings are {', '.join(known)}")
        wanted = type(known[name].default)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if wanted is tuple:
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise ValueError(f"{name} is to be a list of texts")
        elif not isinstance(value, wanted):
            raise ValueError(f"{name} has a value of the wrong type: {value!r}")
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in table.items()}
    settings = TelemetrySettings(**given)  # type: ignore[arg-type]
    complaint = check(settings)
    if complaint:
        raise ValueError(complaint)
    return settings


def check(settings: TelemetrySettings) -> str:
    """What is wrong with settings, beginning with its name; empty: nothing."""
    if settings.protocol not in PROTOCOLS:
        return f"protocol {settings.protocol!r} is not one of {', '.join(PROTOCOLS)}"
    if not 0 <= settings.sampling_ratio <= 1:
        return f"sampling_ratio {settings.sampling_ratio} is not a share: 0 to 1"
    if not 0.1 <= settings.interval_s <= MAX_INTERVAL_S or math.isnan(settings.interval_s):
        return (
            f"interval_s {settings.interval_s} is out of range; 0.1 to {MAX_INTERVAL_S:g} is needed"
        )
    pairs = [each.partition("=") for each in settings.resource_attributes]
    if len(pairs) > MAX_RESOURCE_ATTRIBUTES or any(not n or not eq for n, eq, _ in pairs):
        return f"resource_attributes: at most {MAX_RESOURCE_ATTRIBUTES} of the form name=value"
    return _check_endpoint(settings.endpoint) or _check_prometheus(settings.prometheus_address)


def _check_endpoint(endpoint: str) -> str:
    if not endpoint:
        return ""
    try:
        url = urlsplit(endpoint)
        usable = url.scheme in ("http", "https") and url.hostname and url.port is not None
    except ValueError:
        usable = False
    if not usable:
        return f"endpoint {endpoint!r} is no URL such as http://127.0.0.1:4317"
    if url.scheme == "http" and not _is_loopback(url.hostname or ""):
        return f"endpoint {endpoint!r} is not on this host: beyond it only https:// is spoken"
    return ""


def _check_prometheus(address: str) -> str:
    if not address:
        return ""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        return f"prometheus_address {address!r} is not HOST:PORT"
    if not _is_loopback(host.strip("[]")):
        return f"prometheus_address {address!r} is not a loopback address; it knows no TLS"
    return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
