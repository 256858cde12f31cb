"""What a configuration may say: ids, choices, ranges, keys and addresses. Owns the rules that no section's own module
has; never reads a file or changes a value.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from controller.access.bindings import is_member
from controller.attention_settings import attention_problems
from controller.config import ControllerConfig, SyncSection
from controller.connectivity_settings import connectivity_problems
from controller.lifecycle_settings import lifecycle_problems
from federation.identifiers import is_valid_id
from telemetry import settings
from trust.authority import MAX_LEAF_LIFE
from trust.renewal import MAX_RECOVERY

MAX_PORT = 65535

#: Of an Ed25519 key.
PUBLIC_KEY_BYTES = 32

#: Clocks that differ by more are wrong: certificates allow as much.
MAX_CLOCK_SKEW_S = 300

#: Longest life of a person's token: nothing takes it back before, but the removal of its key.
MAX_TOKEN_LIFE_S = 7 * 24 * 3600

_CHOICES = {
    ("log", "kind"): ("etcd", "sqlite"),
    ("sync", "mode"): ("continuous", "periodic", "opportunistic", "manual"),
    ("agents", "enrolment"): ("known", "open"),
    ("access", "mode"): ("", "off", "enforce"),
    ("children", "kind"): ("region", "edge-zone", "cluster", "tenant", "air-gap-island"),
    ("children", "level"): ("regional", "local", "autonomous"),
}


def problems(config: ControllerConfig) -> Iterator[str]:
    """What is wrong with a configuration, in words that name the setting."""
    yield from _id_problems(config)
    yield from _choice_problems(config)
    yield from _child_problems(config)
    yield from _number_problems(config)
    yield from connectivity_problems(config.connectivity)
    yield from attention_problems(config.attention)
    yield from lifecycle_problems(config.lifecycle)
    yield from _trust_problems(config)
    yield from _tls_problems(config)
    yield from _authority_problems(config)
    yield from _address_problems(config)
    yield from _people_problems(config)
    for i, admin in enumerate(config.access.admins):
        if not is_member(admin):
            yield f"access.admins[{i}] {admin!r} is not a principal such as user:alice or oidc:alice@corp"
    complaint = settings.check(config.telemetry)
    if complaint:
        yield f"telemetry.{complaint}"


def is_loopback(address: str) -> bool:
    """Tells whether HOST:PORT names this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _id_problems(config: ControllerConfig) -> Iterator[str]:
    for name, value in (
        ("controller.id", config.controller.id),
        ("controller.domain", config.controller.domain),
        ("controller.replica", config.controller.replica),
        *((("parent.controller", config.parent.controller),) if config.parent else ()),
        *((f"children[{i}].domain", c.domain) for i, c in enumerate(config.children)),
        *((f"children[{i}].controller", c.controller) for i, c in enumerate(config.children)),
    ):
        if not is_valid_id(value):
            yield f"{name} {value!r} is no id (lower-case letters, digits and '-', at most 63)"


def _choice_problems(config: ControllerConfig) -> Iterator[str]:
    sections: dict[str, list[tuple[str, Any]]] = {
        "log": [("log", config.log)],
        "agents": [("agents", config.agents)],
        "access": [("access", config.access)],
        "sync": [*_sync_sections(config)],
        "children": [(f"children[{i}]", child) for i, child in enumerate(config.children)],
    }
    for (section, setting), choices in _CHOICES.items():
        for name, held in sections[section]:
            value = getattr(held, setting)
            if value not in choices:
                yield f"{name}.{setting} {value!r} is not one of {', '.join(filter(None, choices))}"


def _child_problems(config: ControllerConfig) -> Iterator[str]:
    domains = {config.controller.domain: "controller.domain"}
    controllers = {config.controller.id: "controller.id"}
    for i, child in enumerate(config.children):
        for name, value, taken in (
            ("domain", child.domain, domains),
            ("controller", child.controller, controllers),
        ):
            if value in taken:
                yield f"children[{i}].{name} {value!r} is that of {taken[value]} already"
            taken[value] = f"children[{i}].{name}"


def _number_problems(config: ControllerConfig) -> Iterator[str]:
    syncs = _sync_sections(config)
    numbers: list[tuple[str, float, float]] = [
        ("log.lease_ttl_s", config.log.lease_ttl_s, 1),
        ("log.budget_mib", config.log.budget_mib, 1),
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
            yield f"{name} {value} is out of range; at least {least} is needed"


def _sync_sections(config: ControllerConfig) -> list[tuple[str, SyncSection]]:
    own = [] if config.sync is None else [("sync", config.sync)]
    return own + [(f"children[{i}].sync", child.sync) for i, child in enumerate(config.children)]


def _trust_problems(config: ControllerConfig) -> Iterator[str]:
    keys = [("trust.root_public_key", config.trust.root_public_key)]
    keys += [(f"children[{i}].public_key", c.public_key) for i, c in enumerate(config.children)]
    if config.parent is not None and config.parent.public_key:
        keys.append(("parent.public_key", config.parent.public_key))
    for name, value in keys:
        try:
            raw = bytes.fromhex(value)
        except ValueError:
            raw = b""
        if len(raw) != PUBLIC_KEY_BYTES:
            yield f"{name} must be {2 * PUBLIC_KEY_BYTES} hexadecimal digits (an Ed25519 key)"
    if (config.parent is None) != bool(config.trust.genesis):
        yield (
            "the root controller has trust.genesis and no [parent]; every other one has [parent] and no trust.genesis"
        )


def _tls_problems(config: ControllerConfig) -> Iterator[str]:
    tls = config.tls
    if tls is None:
        return
    files = (tls.certificate, tls.key, tls.roots)
    if bool(tls.directory) == any(files) or (any(files) and not all(files)):
        yield "tls names either directory, or certificate, key and roots"


def _authority_problems(config: ControllerConfig) -> Iterator[str]:
    authority = config.authority
    if config.listen.enrolment_address and authority is None:
        yield "listen.enrolment_address is of use with [authority] only: what it is for is issuing certificates"
    if authority is None:
        return
    if config.tls is None:
        yield "[authority] issues certificates, and nobody here speaks TLS: add [tls]"
    if not authority.directory:
        yield "authority.directory is required: where ca-key.pem and ca.pem are"
    for name, value, most in (
        ("machine_life_h", authority.machine_life_h, MAX_LEAF_LIFE / timedelta(hours=1)),
        ("recovery_days", authority.recovery_days, MAX_RECOVERY.days),
    ):
        if not 0 < value <= most:
            yield f"authority.{name} {value} is out of range; it is above 0 and at most {most:g}"


def _people_problems(config: ControllerConfig) -> Iterator[str]:
    oidc, address = config.access.oidc, config.listen.people_address
    if (oidc is None) == bool(address):
        yield "listen.people_address and [access.oidc] come together: where tokens are taken, and whose"
    if oidc is None:
        return
    if config.tls is None:
        yield "tokens are taken by TLS only: [access.oidc] needs [tls]"
    if address == config.listen.address:
        yield "listen.people_address is that of listen.address already, where certificates are demanded"
    if not is_valid_id(oidc.name):
        yield f"access.oidc.name {oidc.name!r} is no id (lower-case letters, digits and '-', at most 63)"
    for setting in ("issuer", "audience", "name_claim"):
        if not getattr(oidc, setting):
            yield f"access.oidc.{setting} is empty"
    if not 0 <= oidc.clock_skew_s <= MAX_CLOCK_SKEW_S:
        yield f"access.oidc.clock_skew_s {oidc.clock_skew_s} is out of range; 0 to {MAX_CLOCK_SKEW_S} is taken"
    if not 1 <= oidc.max_life_s <= MAX_TOKEN_LIFE_S:
        yield f"access.oidc.max_life_s {oidc.max_life_s} is out of range; 1 to {MAX_TOKEN_LIFE_S} is taken"


def _address_problems(config: ControllerConfig) -> Iterator[str]:
    addresses = [("listen.address", config.listen.address)]
    if config.listen.people_address:
        addresses.append(("listen.people_address", config.listen.people_address))
    if config.listen.admin_address:
        addresses.append(("listen.admin_address", config.listen.admin_address))
    if config.listen.enrolment_address:
        addresses.append(("listen.enrolment_address", config.listen.enrolment_address))
    if config.parent is not None:
        if not config.parent.addresses:
            yield "parent.addresses names no address"
        addresses += [("parent.addresses", a) for a in config.parent.addresses]
    for name, address in addresses:
        port = address.rpartition(":")[2]
        if not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
            yield f"{name} {address!r} is not HOST:PORT"
        elif not is_loopback(address):
            if name == "listen.admin_address":
                yield f"{name} {address!r} is not a loopback address, and what it serves is for this machine only"
            elif config.tls is None:
                yield (
                    f"{name} {address!r} is not a loopback address; without TLS a controller binds and dials loopback "
                    "only: add [tls]"
                )
