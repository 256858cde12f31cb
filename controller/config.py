"""A controller's configuration: one TOML file a replica. Owns its shape, defaults and checks; never its meaning."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from controller.attention_settings import AttentionSection, attention_problems
from controller.connectivity import thresholds
from controller.lifecycle_settings import LifecycleSection, lifecycle_problems
from federation.identifiers import is_valid_id
from telemetry import settings
from telemetry.settings import TelemetrySettings

T = TypeVar("T")

MAX_PORT = 65535


class ConfigError(Exception):
    """The configuration is wrong; the operator must change the file. The message names the place."""


@dataclass(frozen=True, slots=True)
class ControllerSection:
    """Who this is."""

    id: str
    domain: str
    data_dir: Path
    replica: str = "r1"


@dataclass(frozen=True, slots=True)
class ListenSection:
    """Where it can be called."""

    address: str = "127.0.0.1:7400"
    #: Listener for channelz; empty: none.
    admin_address: str = ""


@dataclass(frozen=True, slots=True)
class EtcdAccessSection:
    """How to reach an etcd that is not embedded."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    #: Accept the etcd versions that can lose acknowledged data when killed (3.5.0 to 3.5.2).
    allow_lossy_versions: bool = False


@dataclass(frozen=True, slots=True)
class LogSection:
    """Where the event log is kept."""

    #: "etcd" or "sqlite".
    kind: str = "etcd"
    #: Empty with kind "etcd": the controller starts and supervises an etcd of its own.
    endpoints: tuple[str, ...] = ()
    prefix: str = "/souverix"
    etcd_binary: str = "etcd"
    lease_ttl_s: float = 5.0
    access: EtcdAccessSection = field(default_factory=EtcdAccessSection)


@dataclass(frozen=True, slots=True)
class TrustSection:
    """Keys."""

    #: PEM file of the controller's Ed25519 signing key; replicas of one controller share it.
    signing_key: Path
    #: Root public key, hexadecimal.
    root_public_key: str
    #: Signed genesis; the root's controller only.
    genesis: str = ""


@dataclass(frozen=True, slots=True)
class ParentSection:
    """The controller above."""

    controller: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AutonomySection:
    """What a child's controller may do on its own."""

    can_operate_isolated: bool = True
    can_modify_policies: bool = False
    can_deploy_versions: bool = False


@dataclass(frozen=True, slots=True)
class SyncSection:
    """How a controller syncs with its parent."""

    #: "continuous", "periodic", "opportunistic" or "manual".
    mode: str = "continuous"
    #: 0: the mode's default.
    frequency_s: float = 0.0
    batch_size: int = 0


@dataclass(frozen=True, slots=True)
class ChildSection:
    """A controller below: its domain is declared, and its key granted, by this controller."""

    controller: str
    domain: str
    #: Ed25519 public key, hexadecimal.
    public_key: str
    display_name: str = ""
    #: "region", "edge-zone", "cluster", "tenant" or "air-gap-island".
    kind: str = "edge-zone"
    #: "regional", "local" or "autonomous".
    level: str = "local"
    #: Empty: the child's controller.
    master_of_record: str = ""
    autonomy: AutonomySection = field(default_factory=AutonomySection)
    sync: SyncSection = field(default_factory=SyncSection)


@dataclass(frozen=True, slots=True)
class AgentsSection:
    """Nodes' agents."""

    #: "known": a node must have been created. "open": an unknown node is created when it greets.
    enrolment: str = "known"
    heartbeat_interval_s: float = 2.0
    max_links: int = 10_000
    #: Nodes with a backlog let in a second. Each costs a handshake, a replay and some commits, five milliseconds of a
    #: core in all: a fifth of one, of which live nodes notice little.
    returns_per_s: float = 40.0
    #: Nodes without a backlog let in a second: they cost a handshake.
    arrivals_per_s: float = 300.0
    #: Replays that run at once: enough to fill the log's commits, and a bound on what is staged in memory.
    max_replays: int = 32


@dataclass(frozen=True, slots=True)
class DomainConnectivitySection:
    """Evidence that changes the modes of one domain's nodes; what is not set is as for all."""

    domain: str
    delayed_rtt_s: float | None = None
    live_rtt_share: float | None = None
    rtt_settle_s: float | None = None
    autonomous_after_s: float | None = None
    disconnected_after_s: float | None = None
    steady_after_s: float | None = None
    replay_backlog: int | None = None


@dataclass(frozen=True, slots=True)
class ConnectivitySection:
    """How much evidence changes a node's place on the connectivity spectrum; the reasons are with the defaults."""

    delayed_rtt_s: float = thresholds.DELAYED_RTT_S
    live_rtt_share: float = thresholds.LIVE_RTT_SHARE
    rtt_settle_s: float = thresholds.RTT_SETTLE_S
    autonomous_after_s: float = thresholds.AUTONOMOUS_AFTER_S
    disconnected_after_s: float = thresholds.DISCONNECTED_AFTER_S
    steady_after_s: float = thresholds.STEADY_AFTER_S
    replay_backlog: int = thresholds.REPLAY_BACKLOG
    domains: tuple[DomainConnectivitySection, ...] = ()

    def of_all(self) -> thresholds.Thresholds:
        """The thresholds of domains that have none of their own."""
        return thresholds.Thresholds(**{n: getattr(self, n) for n in _THRESHOLDS})

    def of_domains(self) -> dict[str, thresholds.Thresholds]:
        """The thresholds of the domains that have their own."""
        own = {
            section.domain: {
                n: value for n in _THRESHOLDS if (value := getattr(section, n)) is not None
            }
            for section in self.domains
        }
        return {domain: dataclasses.replace(self.of_all(), **set_) for domain, set_ in own.items()}


_THRESHOLDS = tuple(f.name for f in dataclasses.fields(thresholds.Thresholds))


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """Everything one replica is told."""

    controller: ControllerSection
    trust: TrustSection
    listen: ListenSection = field(default_factory=ListenSection)
    log: LogSection = field(default_factory=LogSection)
    parent: ParentSection | None = None
    #: None: as the authority record of the own domain says.
    sync: SyncSection | None = None
    children: tuple[ChildSection, ...] = ()
    agents: AgentsSection = field(default_factory=AgentsSection)
    connectivity: ConnectivitySection = field(default_factory=ConnectivitySection)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    attention: AttentionSection = field(default_factory=AttentionSection)
    lifecycle: LifecycleSection = field(default_factory=LifecycleSection)
    #: Directory of large values; replicas of one controller share it. Empty: below data_dir.
    values_dir: str = ""


_CHOICES = {
    ("log", "kind"): ("etcd", "sqlite"),
    ("sync", "mode"): ("continuous", "periodic", "opportunistic", "manual"),
    ("agents", "enrolment"): ("known", "open"),
    ("children", "kind"): ("region", "edge-zone", "cluster", "tenant", "air-gap-island"),
    ("children", "level"): ("regional", "local", "autonomous"),
}


def load_config(path: Path) -> ControllerConfig:
    """Reads and checks a configuration file. Raises `ConfigError`."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    config = _build(ControllerConfig, document, str(path))
    _check(config, str(path))
    return config


def is_loopback(address: str) -> bool:
    """Tells whether HOST:PORT names this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _build(kind: type[T], table: Any, where: str) -> T:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: a table is expected")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise ConfigError(
            f"{where}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(fields))}"
        )
    values = {
        name: _convert(hints[name], value, f"{where}: {name}") for name, value in table.items()
    }
    missing = [
        f.name
        for f in fields.values()
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: setting {missing[0]!r} is required")
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        hint = next(a for a in typing.get_args(hint) if a is not types.NoneType)
        origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: a list is expected")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: {hint.__name__} is expected, not {type(value).__name__}")
    return value


def _check(config: ControllerConfig, where: str) -> None:
    for name, value in (
        ("controller.id", config.controller.id),
        ("controller.domain", config.controller.domain),
        ("controller.replica", config.controller.replica),
        *((("parent.controller", config.parent.controller),) if config.parent else ()),
        *((f"children[{i}].domain", c.domain) for i, c in enumerate(config.children)),
        *((f"children[{i}].controller", c.controller) for i, c in enumerate(config.children)),
    ):
        if not is_valid_id(value):
            raise ConfigError(
                f"{where}: {name} {value!r} is no id (lower-case letters, digits and '-', at most 63)"
            )
    _check_choices(config, where)
    _check_children(config, where)
    _check_numbers(config, where)
    _check_connectivity(config.connectivity, where)
    for problem in (*attention_problems(config.attention), *lifecycle_problems(config.lifecycle)):
        raise ConfigError(f"{where}: {problem}")
    _check_keys(config, where)
    _check_addresses(config, where)
    complaint = settings.check(config.telemetry)
    if complaint:
        raise ConfigError(f"{where}: telemetry.{complaint}")


def _check_choices(config: ControllerConfig, where: str) -> None:
    children = [(f"children[{i}]", child) for i, child in enumerate(config.children)]
    sections: dict[str, list[tuple[str, Any]]] = {
        "log": [("log", config.log)],
        "agents": [("agents", config.agents)],
        "sync": [*_sync_sections(config)],
        "children": [*children],
    }
    for (section, setting), choices in _CHOICES.items():
        for name, held in sections[section]:
            value = getattr(held, setting)
            if value not in choices:
                raise ConfigError(
                    f"{where}: {name}.{setting} {value!r} is not one of {', '.join(choices)}"
                )


def _check_children(config: ControllerConfig, where: str) -> None:
    taken = {config.controller.domain: "controller.domain"}
    controllers = {config.controller.id: "controller.id"}
    for i, child in enumerate(config.children):
        for name, value, held in (
            ("domain", child.domain, taken),
            ("controller", child.controller, controllers),
        ):
            if value in held:
                raise ConfigError(
                    f"{where}: children[{i}].{name} {value!r} is that of {held[value]} already"
                )
            held[value] = f"children[{i}].{name}"


def _sync_sections(config: ControllerConfig) -> list[tuple[str, SyncSection]]:
    own = [] if config.sync is None else [("sync", config.sync)]
    return own + [(f"children[{i}].sync", child.sync) for i, child in enumerate(config.children)]


def _check_numbers(config: ControllerConfig, where: str) -> None:
    syncs = _sync_sections(config)
    numbers: list[tuple[str, float, float]] = [
        ("log.lease_ttl_s", config.log.lease_ttl_s, 1),
        ("agents.heartbeat_interval_s", config.agents.heartbeat_interval_s, 0.1),
        ("agents.max_links", config.agents.max_links, 0),
        ("agents.returns_per_s", config.agents.returns_per_s, 0.1),
        ("agents.arrivals_per_s", config.agents.arrivals_per_s, 0.1),
        ("agents.max_replays", config.agents.max_replays, 1),
        *((f"{name}.frequency_s", sync.frequency_s, 0) for name, sync in syncs),
        *((f"{name}.batch_size", sync.batch_size, 0) for name, sync in syncs),
    ]
    for name, value, least in numbers:
        if not least <= value < math.inf:
            raise ConfigError(
                f"{where}: {name} {value} is out of range; at least {least} is needed"
            )


def _check_connectivity(section: ConnectivitySection, where: str) -> None:
    named = [part.domain for part in section.domains]
    for i, domain in enumerate(named):
        place = f"{where}: connectivity.domains[{i}].domain {domain!r}"
        if not is_valid_id(domain):
            raise ConfigError(f"{place} is no id (lower-case letters, digits and '-', at most 63)")
        if domain in named[:i]:
            raise ConfigError(f"{place} is there already")
    sections = {"connectivity": section.of_all()}
    sections |= {
        f"connectivity.domains[{named.index(domain)}]": limits
        for domain, limits in section.of_domains().items()
    }
    for name, limits in sections.items():
        for setting in _THRESHOLDS:
            value = getattr(limits, setting)
            least = 1 if setting == "replay_backlog" else 0
            if not least <= value < math.inf:
                raise ConfigError(
                    f"{where}: {name}.{setting} {value} is out of range; at least {least} is needed"
                )
        if not 0 < limits.live_rtt_share <= 1:
            raise ConfigError(
                f"{where}: {name}.live_rtt_share {limits.live_rtt_share} is not a share: above 0, at most 1"
            )
        if limits.disconnected_after_s < limits.autonomous_after_s:
            raise ConfigError(
                f"{where}: {name}.disconnected_after_s is below autonomous_after_s: a node is cut off before it "
                "is given up"
            )


def _check_keys(config: ControllerConfig, where: str) -> None:
    keys = [("trust.root_public_key", config.trust.root_public_key)]
    keys += [(f"children[{i}].public_key", c.public_key) for i, c in enumerate(config.children)]
    for name, value in keys:
        try:
            raw = bytes.fromhex(value)
        except ValueError:
            raw = b""
        if len(raw) != 32:
            raise ConfigError(f"{where}: {name} must be 64 hexadecimal digits (an Ed25519 key)")
    if (config.parent is None) != bool(config.trust.genesis):
        raise ConfigError(
            f"{where}: the root controller has trust.genesis and no [parent]; every other one has "
            "[parent] and no trust.genesis"
        )


def _check_addresses(config: ControllerConfig, where: str) -> None:
    addresses = [("listen.address", config.listen.address)]
    if config.listen.admin_address:
        addresses.append(("listen.admin_address", config.listen.admin_address))
    if config.parent is not None:
        if not config.parent.addresses:
            raise ConfigError(f"{where}: parent.addresses names no address")
        addresses += [("parent.addresses", a) for a in config.parent.addresses]
    for name, address in addresses:
        port = address.rpartition(":")[2]
        if not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
            raise ConfigError(f"{where}: {name} {address!r} is not HOST:PORT")
        if not is_loopback(address):
            raise ConfigError(
                f"{where}: {name} {address!r} is not a loopback address; without TLS a controller binds and dials "
                "loopback only"
            )
