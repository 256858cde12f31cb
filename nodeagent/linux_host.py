"""The host as Linux shows it: /proc, /sys, /etc and dpkg's status.

Owns these readings. Must never fail because a file is missing, unreadable or odd: what cannot be read is absent.
Fulfils the Host protocol. `root` is another directory in tests.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from nodeagent.measurements import Register, file_part, program_register, text_part
from nodeagent.packages import Packages, PythonPackage, parse_dpkg_status
from souverix.fleet.v1 import observation_pb2, supply_chain_pb2

SECTOR_BYTES = 512
"""/sys/block/*/size counts in these, whatever the device's own sectors are."""

POOLED_TYPES = frozenset({"zfs", "btrfs", "bcachefs"})
"""File systems whose source is a pool's name rather than a device."""

READ_ONLY_IMAGES = frozenset({"squashfs", "iso9660", "erofs"})
"""Images of something installed: always full, never the host's storage."""

PCI_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel", "0x1a03": "ASPEED"}

PROGRAM_ROOT = Path(__file__).resolve().parents[1]
"""Where the packages of the agent lie."""

_OCTAL = re.compile(r"\\([0-7]{3})")
_CARD = re.compile(r"card\d+")


class LinuxHost:
    """The machine this process runs on."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def inventory(self) -> observation_pb2.Inventory:
        """The host as it is now."""
        kernel = f"{self._text('proc/sys/kernel/ostype')} {self._text('proc/sys/kernel/osrelease')}"
        return observation_pb2.Inventory(
            cpu=self._cpu(),
            memory_bytes=self._memory_bytes(),
            disks=self._disks(),
            filesystems=self._filesystems(),
            gpus=[*self._nvidia_gpus(), *self._drm_gpus()],
            os=self._operating_system(),
            kernel=kernel.strip(),
            architecture=self._text("proc/sys/kernel/arch") or os.uname().machine,
            hostname=self._text("proc/sys/kernel/hostname"),
            boot_time=self._boot_time(),
            firmware_version=self._text("sys/class/dmi/id/bios_version"),
        )

    def packages(self) -> Packages:
        """Debian packages from dpkg's status, Python distributions from this interpreter's path."""
        debian = parse_dpkg_status(self._lines("var/lib/dpkg/status"))
        found = {(dist.name, dist.version) for dist in distributions() if dist.metadata["Name"]}
        python = sorted(PythonPackage(name, version) for name, version in found)
        return Packages(tuple(debian), tuple(python))

    def hardware(self) -> supply_chain_pb2.HardwareIdentity | None:
        """DMI on PCs and servers, the device tree on boards."""
        dmi = "sys/class/dmi/id"
        hardware = supply_chain_pb2.HardwareIdentity(
            manufacturer=self._text(f"{dmi}/sys_vendor"),
            model=self._text(f"{dmi}/product_name") or self._text("proc/device-tree/model"),
            serial=self._text(f"{dmi}/product_serial")
            or self._text("proc/device-tree/serial-number"),
        )
        return hardware if hardware.ByteSize() else None

    def uptime_s(self) -> float | None:
        """Seconds since boot, without those asleep."""
        try:
            return float(self._text("proc/uptime").split()[0])
        except (IndexError, ValueError):
            return None

    def registers(self) -> list[Register]:
        """What runs from the firmware up to the agent, as far as a program can see."""
        return [
            self._texts(
                "firmware", "sys/class/dmi/id", ("bios_vendor", "bios_version", "bios_date")
            ),
            self._texts("kernel", "proc/sys/kernel", ("osrelease", "version")),
            self._texts("kernel.cmdline", "proc", ("cmdline",)),
            self._texts("boot.id", "proc/sys/kernel/random", ("boot_id",)),
            self._texts("os.release", "etc", ("os-release",)),
            program_register(PROGRAM_ROOT),
            Register("agent.runtime", (file_part(Path(sys.executable).resolve(), "python"),)),
        ]

    def _texts(self, register: str, directory: str, files: Sequence[str]) -> Register:
        """Short files as the parts of a register, without surrounding blanks."""
        parts = [text_part(file, self._text(f"{directory}/{file}")) for file in files]
        return Register(register, tuple(parts))

    def _cpu(self) -> observation_pb2.Cpu:
        logical = 0
        cores: set[tuple[str, str]] = set()
        model = vendor = socket = ""
        for line in self._lines("proc/cpuinfo"):
            name, _, value = (part.strip() for part in line.partition(":"))
            match name:
                case "processor":
                    logical += 1
                case "vendor_id" | "CPU implementer":
                    vendor = vendor or value
                case "model name" | "Model":
                    model = model or value
                case "physical id":
                    socket = value
                case "core id":
                    cores.add((socket, value))
        return observation_pb2.Cpu(
            model=model,
            vendor=vendor,
            cores=len(cores) or len(self._core_topology()),
            logical_processors=logical,
        )

    def _core_topology(self) -> set[tuple[str, str]]:
        """(socket, core) of each processor, for architectures whose cpuinfo does not name them."""
        return {
            (self._text(f"{topology}/physical_package_id"), self._text(f"{topology}/core_id"))
            for topology in self._below("sys/devices/system/cpu", "cpu[0-9]*/topology")
        }

    def _memory_bytes(self) -> int:
        for line in self._lines("proc/meminfo"):
            if line.startswith("MemTotal:"):
                return _number(line.split()[1]) * 1024
        return 0

    def _disks(self) -> list[observation_pb2.Disk]:
        """Devices with hardware behind them: no loop, RAM, mapper or RAID device, and no empty drive."""
        disks = []
        for block in self._below("sys/block", "*"):
            capacity_bytes = _number(self._text(f"{block}/size")) * SECTOR_BYTES
            if capacity_bytes and (self._root / block / "device").exists():
                disks.append(
                    observation_pb2.Disk(
                        device=Path(block).name,
                        model=self._text(f"{block}/device/model"),
                        serial=self._text(f"{block}/device/serial")
                        or self._text(f"{block}/serial"),
                        capacity_bytes=capacity_bytes,
                    )
                )
        return disks

    def _filesystems(self) -> list[observation_pb2.Filesystem]:
        """Each source once, where it is mounted highest up; a container's root may be an overlay."""
        by_source: dict[str, observation_pb2.Filesystem] = {}
        for line in self._lines("proc/mounts"):
            words = [_unescape(word) for word in line.split()]
            if len(words) < 3:
                continue
            source, mount_point, fs_type = words[:3]
            local = source.startswith("/dev/") or fs_type in POOLED_TYPES
            if fs_type in READ_ONLY_IMAGES or not (local or mount_point == "/"):
                continue
            known = by_source.get(source)
            if known is not None and len(known.mount_point) <= len(mount_point):
                continue
            filesystem = self._measured(source, mount_point, fs_type)
            if filesystem is not None:
                by_source[source] = filesystem
        return sorted(by_source.values(), key=lambda filesystem: filesystem.mount_point)

    def _measured(
        self, source: str, mount_point: str, fs_type: str
    ) -> observation_pb2.Filesystem | None:
        try:
            size = os.statvfs(self._root / mount_point.lstrip("/"))
        except OSError:
            return None
        return observation_pb2.Filesystem(
            mount_point=mount_point,
            source=source,
            type=fs_type,
            capacity_bytes=size.f_blocks * size.f_frsize,
            available_bytes=size.f_bavail * size.f_frsize,
        )

    def _nvidia_gpus(self) -> list[observation_pb2.Gpu]:
        """The proprietary driver's own account, which names models."""
        gpus = []
        for information in self._below("proc/driver/nvidia/gpus", "*/information"):
            for line in self._lines(information):
                name, _, value = line.partition(":")
                if name.strip() == "Model":
                    gpus.append(observation_pb2.Gpu(model=value.strip(), vendor="NVIDIA"))
        return gpus

    def _drm_gpus(self) -> list[observation_pb2.Gpu]:
        """Graphics devices on the PCI bus; those that the NVIDIA driver names itself are left to it."""
        named = bool(self._below("proc/driver/nvidia/gpus", "*/information"))
        gpus = []
        for card in self._below("sys/class/drm", "card*"):
            vendor = self._text(f"{card}/device/vendor")
            if not _CARD.fullmatch(Path(card).name) or not vendor:
                continue
            if vendor == "0x10de" and named:
                continue
            device = self._text(f"{card}/device/device")
            gpus.append(
                observation_pb2.Gpu(
                    model=f"PCI {vendor.removeprefix('0x')}:{device.removeprefix('0x')}",
                    vendor=PCI_VENDORS.get(vendor, ""),
                    memory_bytes=_number(self._text(f"{card}/device/mem_info_vram_total")),
                )
            )
        return gpus

    def _operating_system(self) -> observation_pb2.OperatingSystem:
        fields = {}
        for line in self._lines("etc/os-release") or self._lines("usr/lib/os-release"):
            name, equals, value = line.strip().partition("=")
            if equals:
                fields[name] = value.strip("\"'")
        return observation_pb2.OperatingSystem(
            id=fields.get("ID", ""),
            name=fields.get("NAME", ""),
            version=fields.get("VERSION", "") or fields.get("VERSION_ID", ""),
        )

    def _boot_time(self) -> Timestamp | None:
        for line in self._lines("proc/stat"):
            if line.startswith("btime "):
                return Timestamp(seconds=_number(line.split()[1]))
        return None

    def _text(self, path: str) -> str:
        """A small file's content without surrounding blanks and NULs; empty when it cannot be read."""
        try:
            content = (self._root / path).read_text("utf-8", errors="replace")
        except OSError:
            return ""
        return content.strip(" \t\r\n\0")

    def _lines(self, path: str) -> list[str]:
        text = self._text(path)
        return text.split("\n") if text else []

    def _below(self, directory: str, pattern: str) -> list[str]:
        """Paths below a directory that match, relative to the root, sorted."""
        return sorted(_relative(self._root, directory, pattern))


def _relative(root: Path, directory: str, pattern: str) -> Iterator[str]:
    for path in (root / directory).glob(pattern):
        yield str(path.relative_to(root))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _unescape(word: str) -> str:
    """/proc/mounts writes blanks and backslashes as octal escapes."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), word)
