"""What an operator may set, from a TOML file and from the command line.

Owns names, defaults and checks of settings; the command line goes before the file. Every complaint names the
setting, the cause and the next step. Starts nothing.

Without TLS the agent dials loopback only: anybody on the way could otherwise read reports and forge commands.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from nodeagent.agent import NodeSettings
from nodeagent.errors import SettingsInvalid
from nodeagent.link import DEFAULT_HEARTBEAT_S
from nodeagent.reporter import DEFAULT_INTERVAL_S
from souverix.fleet.v1 import node_pb2
from telemetry.settings import TelemetrySettings, from_table
from trust.files import TrustFiles

KINDS = {
    "edge": node_pb2.NODE_KIND_EDGE,
    "dc": node_pb2.NODE_KIND_DC,
    "gateway": node_pb2.NODE_KIND_GATEWAY,
    "relay": node_pb2.NODE_KIND_RELAY,
    "virtual": node_pb2.NODE_KIND_VIRTUAL,
}

MAX_TAGS = 64
"""Tags and labels each: a node is found by a handful, and each hello carries them."""

LONGEST_WORD = 128
"""Characters of a tag, label, or name."""

MAX_MEASURED_FILES = 64
"""Files that a node attests beside its own program: those that decide what it does, not a directory tree."""

LONGEST_PATH = 256
"""Bytes of such a path: as long as a statement may name a part."""

LONGEST_INTERVAL_S = 86_400.0
"""Most seconds of any interval: a node should be heard of once a day."""

_NODE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

_TLS_FILES = ("certificate", "key", "roots")

_FILE_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "node": str,
    "controllers": list,
    "enrolment": list,
    "listen": str,
    "state_dir": str,
    "kind": str,
    "display_name": str,
    "component_type": str,
    "region": str,
    "zone": str,
    "tags": list,
    "labels": dict,
    "heartbeat_s": (int, float),
    "report_interval_s": (int, float),
    "software_version": str,
    "measured_files": list,
    "telemetry": dict,
    "tls": (str, dict),
}

Settings = dict[str, object]
"""Settings by name, as in `_FILE_TYPES`."""


def read_file(path: Path) -> Settings:
    """The settings of a TOML file. Raises SettingsInvalid."""
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsInvalid(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{path} is not TOML: {error}") from error
    for name, value in found.items():
        expected = _FILE_TYPES.get(name)
        if expected is None:
            known = ", ".join(_FILE_TYPES)
            raise SettingsInvalid(f"{path}: {name} is no setting; settings are {known}")
        if not isinstance(value, expected) or isinstance(value, bool):
            raise SettingsInvalid(f"{path}: {name} has a value of the wrong type: {value!r}")
    return found


def merged(file: Settings, command_line: Settings) -> Settings:
    """The file's settings, overridden by what the command line names (None, empty list or dict: names nothing)."""
    named = {name: value for name, value in command_line.items() if value not in (None, [], {})}
    return {**file, **named}


def node_settings(settings: Settings, node: str) -> NodeSettings:
    """Check the settings and give those of one node. Raises SettingsInvalid."""
    return NodeSettings(
        node=checked_node(node),
        controllers=checked_controllers(
            _words(settings, "controllers"), secured=bool(settings.get("tls"))
        ),
        spec=_spec(settings),
        heartbeat_s=_span_s(settings, "heartbeat_s", DEFAULT_HEARTBEAT_S),
        report_interval_s=_span_s(settings, "report_interval_s", DEFAULT_INTERVAL_S),
        software_version=_word(settings, "software_version"),
        measured_files=_measured_files(settings),
        enrolment=checked_enrolment(settings),
    )


def _measured_files(settings: Settings) -> tuple[str, ...]:
    """Paths of files the node attests. Raises SettingsInvalid."""
    values = settings.get("measured_files", [])
    if not isinstance(values, list) or len(values) > MAX_MEASURED_FILES:
        raise SettingsInvalid(f"measured_files: at most {MAX_MEASURED_FILES} paths")
    for path in values:
        if not isinstance(path, str) or not 1 < len(path.encode()) <= LONGEST_PATH:
            raise SettingsInvalid(f"measured_files: {str(path)[:80]!r} is no path of a file")
        if not Path(path).is_absolute():
            raise SettingsInvalid(
                f"measured_files: {path!r} is not absolute; name it from /, as the agent may run anywhere"
            )
    return tuple(dict.fromkeys(values))


def telemetry_settings(settings: Settings) -> TelemetrySettings:
    """What is to be told, and where. Raises SettingsInvalid."""
    table = dict(settings.get("telemetry", {}))  # type: ignore[call-overload]
    if settings.get("otlp_endpoint"):
        table["endpoint"] = settings["otlp_endpoint"]
    try:
        return from_table(table)
    except ValueError as error:
        raise SettingsInvalid(f"telemetry: {error}") from error


def checked_node(node: str) -> str:
    """The node id, if it is one. Raises SettingsInvalid."""
    if not _NODE.fullmatch(node):
        raise SettingsInvalid(
            f"{node!r} is no node id: 1 to 63 lower-case letters, digits or '-', "
            "with no '-' at either end"
        )
    return node


def tls_files(settings: Settings) -> TrustFiles | None:
    """Where certificate, key and roots lie; None: everything goes in clear. Raises SettingsInvalid."""
    given = settings.get("tls")
    if not given:
        return None
    if isinstance(given, str):
        return TrustFiles.in_directory(Path(given))
    if not isinstance(given, dict) or set(given) != set(_TLS_FILES):
        raise SettingsInvalid(
            f"tls names a directory, or a file each as {', '.join(_TLS_FILES)}; see docs/agent.md"
        )
    return TrustFiles(*(Path(_checked_word(f"tls.{name}", given[name])) for name in _TLS_FILES))


def checked_controllers(addresses: Sequence[str], *, secured: bool = False) -> tuple[str, ...]:
    """The addresses, without repeats, if the agent may dial them. Raises SettingsInvalid."""
    if not addresses:
        raise SettingsInvalid(
            "no controller is named: add --controller HOST:PORT, or controllers in the file"
        )
    for address in addresses:
        if not _is_loopback(_host_of("controller", address)) and not secured:
            raise SettingsInvalid(
                f"controller {address} is not on this machine's loopback: without TLS the agent dials "
                "127.0.0.0/8, [::1] and localhost only; give it a certificate with --tls DIR"
            )
    return tuple(dict.fromkeys(addresses))


def split_addresses(words: Sequence[str]) -> list[str]:
    """Addresses as the command line has them: options repeated, or joined by commas."""
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def checked_enrolment(settings: Settings) -> tuple[str, ...]:
    """Addresses of enrolment listeners. Raises SettingsInvalid."""
    addresses = _words(settings, "enrolment")
    for address in addresses:
        _host_of("enrolment", address)
    return tuple(dict.fromkeys(addresses))


def checked_listen(settings: Settings) -> str:
    """Where a relay listens, if it may. Raises SettingsInvalid."""
    address = _word(settings, "listen")
    if not address:
        raise SettingsInvalid(
            "where do agents dial the relay? Add --listen HOST:PORT, or listen in the file"
        )
    if not _is_loopback(_host_of("listen", address)) and not settings.get("tls"):
        raise SettingsInvalid(
            f"listen {address} is not on this machine's loopback: without TLS the relay listens on 127.0.0.0/8, "
            "[::1] and localhost only; give it a certificate with --tls DIR"
        )
    return address


def _host_of(setting: str, address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise SettingsInvalid(f"{setting} {address!r} is not HOST:PORT, as in 127.0.0.1:7443")
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _spec(settings: Settings) -> node_pb2.NodeSpec:
    kind = _word(settings, "kind", "edge")
    if kind not in KINDS:
        raise SettingsInvalid(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    labels = settings.get("labels", {})
    if not isinstance(labels, dict) or len(labels) > MAX_TAGS:
        raise SettingsInvalid(f"labels: at most {MAX_TAGS} pairs of name and value")
    return node_pb2.NodeSpec(
        kind=KINDS[kind],
        display_name=_word(settings, "display_name"),
        component_type=_word(settings, "component_type"),
        region=_word(settings, "region"),
        zone=_word(settings, "zone"),
        tags=_words(settings, "tags"),
        labels={
            _checked_word("labels", name): _checked_word("labels", value)
            for name, value in labels.items()
        },
    )


def _word(settings: Settings, name: str, default: str = "") -> str:
    return _checked_word(name, settings.get(name, default))


def _words(settings: Settings, name: str) -> list[str]:
    values = settings.get(name, [])
    if not isinstance(values, list) or len(values) > MAX_TAGS:
        raise SettingsInvalid(f"{name}: at most {MAX_TAGS} entries")
    return [_checked_word(name, value) for value in values]


def _checked_word(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_WORD or not value.isprintable():
        raise SettingsInvalid(
            f"{name}: {str(value)[:80]!r} is not usable: at most {LONGEST_WORD} printable characters"
        )
    return value


def _span_s(settings: Settings, name: str, default_s: float) -> float:
    value = settings.get(name, default_s)
    if not isinstance(value, (int, float)) or not 0 < value <= LONGEST_INTERVAL_S:
        raise SettingsInvalid(
            f"{name}: {value!r} is not a number of seconds above 0 and at most {LONGEST_INTERVAL_S:g}"
        )
    return float(value)
