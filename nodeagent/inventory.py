"""What a host is made of: the port to the platform, and the judgement of what was seen.

Owns the Host protocol (declared here, fulfilled by the Linux host and by synthetic ones) and what counts as a
change. Reads nothing itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from nodeagent.clock import timestamp
from nodeagent.measurements import Register
from nodeagent.packages import LargeValue, Packages, packages_value
from nodeagent.sbom import sbom_value
from souverix.fleet.v1 import node_pb2, observation_pb2, supply_chain_pb2

FREE_SPACE_STEPS = 20
"""Free space counts as changed when it crosses a twentieth of the capacity: it moves all the time."""

NEARLY_FULL = 0.05
"""Part of a file system that must be free for the node to call itself healthy."""


class Host(Protocol):
    """The platform a node runs on. Called in a thread of its own; may block on the disk, never on the network."""

    def inventory(self) -> observation_pb2.Inventory:
        """The host as it is now, without time and large values. What cannot be read is left absent."""
        ...

    def packages(self) -> Packages:
        """What is installed, sorted."""
        ...

    def hardware(self) -> supply_chain_pb2.HardwareIdentity | None:
        """What the firmware says of the hardware; None when it says nothing."""
        ...

    def uptime_s(self) -> float | None:
        """Seconds since the host was started; None when not known."""
        ...

    def registers(self) -> list[Register]:
        """Measurements of the platform and of the agent's own program."""
        ...


@dataclass(frozen=True, slots=True)
class Observed:
    """An inventory as it is reported, with the large values it names."""

    inventory: observation_pb2.Inventory
    values: tuple[LargeValue, ...]
    package_count: int


def observe(host: Host, now_us: int) -> Observed:
    """Look at the host. Blocks on the disk."""
    inventory = host.inventory()
    inventory.observe_time.CopyFrom(timestamp(now_us))
    packages = host.packages()
    values: list[LargeValue | None] = []
    if packages.debian or packages.python:
        values = [packages_value(packages), sbom_value(packages, inventory.os)]
    held = tuple(value for value in values if value is not None)
    inventory.large_values.extend(value.reference for value in held)
    return Observed(inventory, held, len(packages.debian) + len(packages.python))


def change_digest(inventory: observation_pb2.Inventory) -> bytes:
    """A digest that differs when two inventories differ in a way worth a report."""
    essential = observation_pb2.Inventory()
    essential.CopyFrom(inventory)
    essential.ClearField("observe_time")
    for filesystem in essential.filesystems:
        if filesystem.capacity_bytes:
            step = filesystem.available_bytes * FREE_SPACE_STEPS // filesystem.capacity_bytes
            filesystem.available_bytes = step
    return hashlib.sha256(essential.SerializeToString(deterministic=True)).digest()


def judge_health(inventory: observation_pb2.Inventory) -> tuple[node_pb2.RuntimeHealth, str]:
    """The node's health as its host shows it, and the reason when it is not OK."""
    full = [
        filesystem.mount_point
        for filesystem in inventory.filesystems
        if filesystem.HasField("available_bytes")
        and filesystem.available_bytes < filesystem.capacity_bytes * NEARLY_FULL
    ]
    if full:
        return node_pb2.RUNTIME_HEALTH_DEGRADED, f"nearly full: {', '.join(full)}"
    return node_pb2.RUNTIME_HEALTH_OK, ""
