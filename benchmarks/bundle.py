"""A zone's events by file: export at the zone, verification of the file offline, import at the region.

The zone's log is made once (zone_log), and the region has nothing of it. Export and import are timed from the call to
its last answer, over gRPC, with the file written and read by the client; verification is a process of its own, as
`souverixctl bundle verify`. Beside it: what tar and zstd need for the same bytes, there and back.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from airgap.reader import BundleReader
from benchmarks.cut_off_zone import (
    REGION,
    ZONE,
    cut_off,
    plans,
    region_from_before,
    start_zone,
    wanted_of,
)
from benchmarks.report import report, rounded, say
from deploy.local_federation import LocalFederation
from deploy.local_processes import find_program
from souverix.bundle.v1 import bundle_service_pb2 as service
from souverix.bundle.v1.bundle_service_pb2_grpc import BundleServiceStub

EVENTS = 1_000_000

#: A call that takes longer has failed.
TIMEOUT_S = 600.0

PIECE_BYTES = 1024 * 1024


def run(events: int = EVENTS) -> dict[str, Any]:
    """Events a second of the slowest of the three; all three stand beside."""
    with tempfile.TemporaryDirectory(prefix="souverix-bundle-") as path:
        directory = Path(path)
        with LocalFederation(directory / "federation", plans("manual")) as federation:
            written = cut_off(federation, events)
            start_zone(federation)
            own = sum(wanted_of(federation, written).values())
            file = directory / "zone.svxb"
            exported = _export(federation, file)
            say(
                f"bundle: export {own / exported.took_s:,.0f} events/s, {file.stat().st_size:,} bytes"
            )
            verified_s, verify_mib = _verify(federation, file)
            say(f"bundle: verify {own / verified_s:,.0f} events/s")
            with region_from_before(federation):
                imported = _import(federation, file)
            say(f"bundle: import {own / imported.took_s:,.0f} events/s")
            packed_s, unpacked_s = _tar(directory, file)
    rates = {
        "export_events_per_s": own / exported.took_s,
        "verify_events_per_s": own / verified_s,
        "import_events_per_s": own / imported.took_s,
    }
    return report(
        "bundle",
        "events/s",
        [min(rates.values())],
        {"tar|zstd": [own / packed_s], "zstd|tar": [own / unpacked_s]},
        **{name: rounded(rate) for name, rate in rates.items()},
        events=own,
        export_memory_mib=exported.memory_mib,
        verify_memory_mib=verify_mib,
        import_memory_mib=imported.memory_mib,
    )


class _Timed:
    """One call: how long it took, and how far the controller's memory rose above where it stood."""

    def __init__(self, federation: LocalFederation, domain: str) -> None:
        self._pid = federation.processes[f"{domain}/r1"].pid
        self.took_s = 0.0
        self.memory_mib = 0

    def __enter__(self) -> _Timed:
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        self._before_kib = self._status("VmRSS")
        self._began_s = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.took_s = time.perf_counter() - self._began_s
        self.memory_mib = (self._status("VmHWM") - self._before_kib) // 1024

    def _status(self, name: str) -> int:
        found = re.search(
            rf"^{name}:\s+(\d+) kB", Path(f"/proc/{self._pid}/status").read_text(), re.M
        )
        assert found
        return int(found[1])


def _export(federation: LocalFederation, file: Path) -> _Timed:
    request = service.ExportBundleRequest(audience=federation.plan(REGION).controller, full=True)
    with (
        grpc.insecure_channel(federation.address(ZONE)) as channel,
        file.open("wb") as out,
        _Timed(federation, ZONE) as timed,
    ):
        for reply in BundleServiceStub(channel).ExportBundle(request, timeout=TIMEOUT_S):
            out.write(reply.data)
    return timed


def _verify(federation: LocalFederation, file: Path) -> tuple[float, int]:
    """Seconds of the process, its start included, and the memory it took."""
    config = federation.config_path(REGION).read_text()
    key = re.search(r'public_key = "([0-9a-f]{64})"\nkind', config)
    assert key
    began_s = time.perf_counter()
    # Of the process alone: the system's ru_maxrss counts what the one that started it held, too.
    code = (
        "import re, sys; from souverixctl.main import run; ended = run(sys.argv[1:]);"
        "told = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read());"
        "print(told[1], file=sys.stderr); sys.exit(ended)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "bundle", "verify", str(file), "--exporter-key", key[1]],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    return time.perf_counter() - began_s, int(ran.stderr.split()[-1]) // 1024


def _import(federation: LocalFederation, file: Path) -> _Timed:
    def pieces() -> Iterator[service.ImportBundleRequest]:
        yield service.ImportBundleRequest(begin=service.ImportBegin(size=file.stat().st_size))
        with file.open("rb") as opened:
            while data := opened.read(PIECE_BYTES):
                yield service.ImportBundleRequest(data=data)

    result = None
    with (
        grpc.insecure_channel(federation.address(REGION)) as channel,
        _Timed(federation, REGION) as timed,
    ):
        for reply in BundleServiceStub(channel).ImportBundle(pieces(), timeout=TIMEOUT_S):
            result = reply.result
    assert result is not None
    assert result.outcome == service.IMPORT_OUTCOME_APPLIED, result
    return timed


class _Trusting:
    """The file was verified a moment ago."""

    def signature_is_good(self, *_: Any) -> bool:
        return True


def _tar(directory: Path, file: Path) -> tuple[float, float]:
    """Seconds of tar and zstd for the events of the file, there and back."""
    plain = directory / "plain"
    plain.mkdir()
    with file.open("rb") as opened, (plain / "events").open("wb") as out:
        for content in BundleReader(opened, _Trusting()).contents():
            out.write(content.SerializeToString())
    packed, back = directory / "plain.tar.zst", directory / "back"
    back.mkdir()
    tar, zstd = find_program("tar"), find_program("zstd")
    pack = _piped([tar, "-C", str(plain), "-c", "events"], [zstd, "-q", "-1", "-o", str(packed)])
    unpack = _piped([zstd, "-q", "-dc", str(packed)], [tar, "-C", str(back), "-x"])
    return pack, unpack


def _piped(first: list[str], second: list[str]) -> float:
    began_s = time.perf_counter()
    with subprocess.Popen(first, stdout=subprocess.PIPE) as source:
        subprocess.run(second, stdin=source.stdout, check=True, timeout=TIMEOUT_S)
    assert source.returncode == 0
    return time.perf_counter() - began_s
