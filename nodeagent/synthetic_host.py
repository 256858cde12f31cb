"""A made-up host for a simulated node, the same for the same seed and node.

Owns the made-up catalogue. Everything else of a simulated agent is the real thing: protocol, backlog, ledger.
Fulfils the Host protocol.
"""

from __future__ import annotations

import random
import time

from google.protobuf.timestamp_pb2 import Timestamp

from nodeagent.measurements import Register, text_part
from nodeagent.packages import DebianPackage, Packages, PythonPackage
from souverix.fleet.v1 import observation_pb2, supply_chain_pb2

GIB = 1024**3

DAY_S = 86_400
LONGEST_UPTIME_S = 90 * DAY_S

SOFTWARE_VERSIONS = ("souverix-rempart-1.4.6", "souverix-rempart-1.4.7")
PACKAGE_SETS = 4
"""Simulated nodes share a few images, as fleets do, so their package lists are few as well."""

_MODELS = (
    ("Example Systems", "EdgeBox 4", "Example Atom E4", 4, 8, 64),
    ("Example Systems", "EdgeBox 8", "Example Atom E8", 8, 16, 128),
    ("Sample Networks", "Gateway G2", "Sample Arm N2", 16, 32, 512),
    ("Sample Networks", "Rack R1", "Sample Xeon S1", 32, 128, 1024),
)
_DEBIAN = ("base-files", "bash", "chrony", "coreutils", "libc6", "nftables", "openssl", "systemd")
_PYTHON = ("cryptography", "grpcio", "protobuf", "souverix-control-plane")


class SyntheticHost:
    """The host of one simulated node."""

    def __init__(self, node: str, seed: int) -> None:
        # A seeded generator makes fleets repeatable; nothing here is a secret.
        chance = random.Random(f"{seed}/{node}")  # noqa: S311
        self._node = node
        self._model = chance.choice(_MODELS)
        self._serial = f"SX{chance.randrange(10**8):08d}"
        self._package_set = chance.randrange(PACKAGE_SETS)
        self._free_part = chance.uniform(0.3, 0.9)
        self._boot_s = time.time() - chance.uniform(0, LONGEST_UPTIME_S)
        self._accelerated = chance.random() < 0.2
        self.software_version = chance.choice(SOFTWARE_VERSIONS)

    def inventory(self) -> observation_pb2.Inventory:
        """The made-up host, always the same."""
        _, _, cpu, cores, memory_gib, storage_gib = self._model
        inventory = observation_pb2.Inventory(
            cpu=observation_pb2.Cpu(model=cpu, cores=cores, logical_processors=cores),
            memory_bytes=memory_gib * GIB,
            disks=[observation_pb2.Disk(device="nvme0n1", capacity_bytes=storage_gib * GIB)],
            filesystems=[
                observation_pb2.Filesystem(
                    mount_point="/",
                    source="/dev/nvme0n1p1",
                    type="ext4",
                    capacity_bytes=storage_gib * GIB,
                    available_bytes=int(storage_gib * GIB * self._free_part),
                )
            ],
            os=observation_pb2.OperatingSystem(
                id="debian", name="Debian GNU/Linux", version="12 (bookworm)"
            ),
            kernel="Linux 6.1.0-simulated",
            architecture="aarch64" if "Arm" in cpu else "x86_64",
            hostname=self._node,
            boot_time=Timestamp(seconds=int(self._boot_s)),
        )
        if self._accelerated:
            inventory.gpus.add(model="Example A2", vendor="Example Systems", memory_bytes=16 * GIB)
        return inventory

    def packages(self) -> Packages:
        """One of a few package sets."""
        patch = self._package_set
        architecture = "arm64" if "Arm" in self._model[2] else "amd64"
        return Packages(
            tuple(DebianPackage(name, architecture, f"1.{patch}-1") for name in _DEBIAN),
            tuple(PythonPackage(name, f"2.{patch}.0") for name in _PYTHON),
        )

    def hardware(self) -> supply_chain_pb2.HardwareIdentity | None:
        """The made-up unit."""
        manufacturer, model = self._model[:2]
        return supply_chain_pb2.HardwareIdentity(
            manufacturer=manufacturer, model=model, serial=self._serial
        )

    def registers(self) -> list[Register]:
        """Measurements of the made-up image, which simulated nodes share as they share package sets; the boot is the
        node's own.
        """
        image = f"image {self._package_set}"
        return [
            *(
                Register(name, (text_part(name, f"{image} {name}"),))
                for name in (
                    "agent.program",
                    "agent.runtime",
                    "kernel",
                    "kernel.cmdline",
                    "os.release",
                )
            ),
            Register("boot.id", (text_part("boot_id", f"{self._node} {self._boot_s}"),)),
            Register("firmware", (text_part("bios_version", self._model[1]),)),
        ]

    def uptime_s(self) -> float | None:
        """Time since the made-up boot."""
        return max(time.time() - self._boot_s, 0.0)
