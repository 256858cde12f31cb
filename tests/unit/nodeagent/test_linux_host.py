from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.linux_host import LinuxHost
from souverix.fleet.v1 import observation_pb2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def write(root: Path, path: str, content: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def test_a_host_that_shows_nothing_gives_an_inventory_all_the_same(root: Path) -> None:
    host = LinuxHost(root)
    inventory = host.inventory()
    inventory.ClearField("architecture")
    assert inventory == observation_pb2.Inventory(
        cpu=observation_pb2.Cpu(), os=observation_pb2.OperatingSystem()
    )
    assert host.hardware() is None
    assert host.uptime_s() is None
    assert host.packages().debian == ()


def test_processors_are_counted_by_socket_and_core(root: Path) -> None:
    processors = [
        f"processor\t: {number}\nvendor_id\t: Vendor\nmodel name\t: Model X\n"
        f"physical id\t: {socket}\ncore id\t\t: {core}\n"
        for number, (socket, core) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1)])
    ]
    write(root, "proc/cpuinfo", "\n".join(processors))
    cpu = LinuxHost(root).inventory().cpu
    assert (cpu.model, cpu.vendor, cpu.cores, cpu.logical_processors) == ("Model X", "Vendor", 4, 6)


def test_processors_without_core_ids_are_counted_by_topology(root: Path) -> None:
    write(root, "proc/cpuinfo", "processor : 0\nCPU implementer : 0x41\n\nprocessor : 1\n")
    for number in range(2):
        topology = f"sys/devices/system/cpu/cpu{number}/topology"
        write(root, f"{topology}/physical_package_id", "0\n")
        write(root, f"{topology}/core_id", f"{number}\n")
    cpu = LinuxHost(root).inventory().cpu
    assert (cpu.vendor, cpu.cores, cpu.logical_processors) == ("0x41", 2, 2)


def test_memory_kernel_name_and_times(root: Path) -> None:
    write(root, "proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n")
    write(root, "proc/stat", "cpu 1 2 3\nbtime 1700000000\n")
    write(root, "proc/uptime", "12.5 20.0\n")
    for name, content in {
        "ostype": "Linux\n",
        "osrelease": "6.1.0-18-amd64\n",
        "hostname": "edge-7\n",
        "arch": "riscv64\n",
    }.items():
        write(root, f"proc/sys/kernel/{name}", content)
    write(root, "etc/os-release", 'ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n# no = x\n')
    host = LinuxHost(root)
    inventory = host.inventory()
    assert inventory.memory_bytes == 2048 * 1024
    assert inventory.boot_time.seconds == 1_700_000_000
    assert host.uptime_s() == 12.5
    assert (inventory.kernel, inventory.hostname) == ("Linux 6.1.0-18-amd64", "edge-7")
    assert inventory.architecture == "riscv64"
    assert (inventory.os.id, inventory.os.name, inventory.os.version) == (
        "debian",
        "Debian GNU/Linux",
        "12",
    )


def test_only_devices_with_hardware_behind_them_are_disks(root: Path) -> None:
    write(root, "sys/block/loop0/size", "8\n")
    write(root, "sys/block/sr0/size", "0\n")
    write(root, "sys/block/sr0/device/model", "Drive\n")
    write(root, "sys/block/nvme0n1/size", "1000\n")
    write(root, "sys/block/nvme0n1/device/model", "Disk 1\n")
    write(root, "sys/block/nvme0n1/device/serial", "S1  \n")
    assert list(LinuxHost(root).inventory().disks) == [
        observation_pb2.Disk(
            device="nvme0n1", model="Disk 1", serial="S1", capacity_bytes=1000 * 512
        )
    ]


def test_file_systems_are_those_backed_by_storage_each_once(root: Path) -> None:
    (root / "data disk").mkdir()
    (root / "bind/of/data").mkdir(parents=True)
    mounts = [
        "proc /proc proc rw 0 0",
        "/dev/vda /bind/of/data ext4 rw 0 0",
        "/dev/vda /data\\040disk ext4 rw 0 0",
        "overlay / overlay rw 0 0",
        "/dev/loop1 /snap/core squashfs ro 0 0",
        "/dev/gone /not/there ext4 rw 0 0",
        "tmpfs /tmp tmpfs rw 0 0",
        "cut short",
    ]
    write(root, "proc/mounts", "\n".join(mounts))
    filesystems = LinuxHost(root).inventory().filesystems
    assert [(fs.mount_point, fs.source, fs.type) for fs in filesystems] == [
        ("/", "overlay", "overlay"),
        ("/data disk", "/dev/vda", "ext4"),
    ]
    assert all(fs.capacity_bytes >= fs.available_bytes > 0 for fs in filesystems)


def test_accelerators_are_named_by_the_driver_or_by_the_bus(root: Path) -> None:
    write(root, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t NVIDIA A2\nIRQ: 1\n")
    write(root, "sys/class/drm/card0/device/vendor", "0x10de\n")
    write(root, "sys/class/drm/card1/device/vendor", "0x1002\n")
    write(root, "sys/class/drm/card1/device/device", "0x73bf\n")
    write(root, "sys/class/drm/card1/device/mem_info_vram_total", "1024\n")
    write(root, "sys/class/drm/card1-HDMI-A-1/device/vendor", "0x1002\n")
    assert list(LinuxHost(root).inventory().gpus) == [
        observation_pb2.Gpu(model="NVIDIA A2", vendor="NVIDIA"),
        observation_pb2.Gpu(model="PCI 1002:73bf", vendor="AMD", memory_bytes=1024),
    ]


def test_hardware_comes_from_dmi_or_the_device_tree(root: Path) -> None:
    write(root, "proc/device-tree/model", "Board 4\0")
    write(root, "proc/device-tree/serial-number", "0001\0")
    board = LinuxHost(root).hardware()
    assert board is not None
    assert (board.model, board.serial) == ("Board 4", "0001")
    write(root, "sys/class/dmi/id/sys_vendor", "Maker\n")
    write(root, "sys/class/dmi/id/product_name", "Box\n")
    box = LinuxHost(root).hardware()
    assert box is not None
    assert (box.manufacturer, box.model) == ("Maker", "Box")


def test_packages_of_a_status_file_with_odd_bytes(root: Path) -> None:
    status = b"Package: p\nStatus: install ok installed\nVersion: 1\nMaintainer: J\xf8rgen\x0c\n\n"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_bytes(status)
    packages = LinuxHost(root).packages()
    assert [package.name for package in packages.debian] == ["p"]
    assert "protobuf" in {package.name for package in packages.python}


def test_the_real_host_is_seen() -> None:
    inventory = LinuxHost().inventory()
    assert inventory.cpu.logical_processors >= 1
    assert inventory.memory_bytes > 0
    assert inventory.kernel.startswith("Linux ")
    assert any(filesystem.mount_point == "/" for filesystem in inventory.filesystems)
