"""One controller that knows a large fleet: memory, disk, the time of a start, and of one node's detail.

`python -m benchmarks twins` takes 100,000 nodes; `python -m benchmarks.twins 1000000` any number. The fleet's log is
made first (fleet_log), and a real controller started on it: once with the log alone, so that it makes its store, and
again with the store. Beside it stand the same nodes in plain SQLite, a column an aspect, asked by hand-written SQL.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc

from benchmarks.fleet_log import NODES_A_ZONE, NodeFacts, fleet, write_fleet_log
from benchmarks.report import RUNS, line, percentile, report, rounded, say
from controller.signing import Ed25519Signer
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from federation.proposal import Identity
from souverix.fleet.v1 import domain_pb2, fleet_service_pb2, node_pb2
from souverix.fleet.v1.connectivity_pb2 import LinkState
from souverix.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub
from souverix.fleet.v1.lifecycle_pb2 import LifecycleState

#: Nodes where nothing else is said: a run of some two minutes.
NODES = 100_000

#: Nodes looked at in one run, each by a call of its own, one after another.
DETAILS = 2_000

#: A replay of millions of events, and the start that follows.
START_TIMEOUT_S = 900.0

#: After a start all nodes are read once for lists and counts, at the full speed of a core.
SETTLE_TIMEOUT_S = 600.0

#: A controller at rest sweeps and looks for what is due; that is a small part of a core.
LOOK_S = 3.0
RESTING_SHARE = 0.3

DOMAIN = "global"

_ASPECTS: dict[str, Any] = {
    "placement": node_pb2.Placement,
    "existence": domain_pb2.Existence,
    "node_spec": node_pb2.NodeSpec,
    "desired_state": node_pb2.DesiredState,
    "actual_state": node_pb2.ActualState,
    "lifecycle": LifecycleState,
    "link_state": LinkState,
}


def run(nodes: int = NODES) -> dict[str, Any]:
    """The 99th percentile of a node's detail in milliseconds, with memory, disk and starts beside it."""
    with tempfile.TemporaryDirectory(prefix="souverix-twins-") as path:
        directory = Path(path)
        plan = DomainPlan(DOMAIN, kind="global", level="global", log="sqlite")
        with (
            LocalFederation(directory / "federation", [plan]) as federation,
            closing(sqlite3.connect(directory / "plain.sqlite")) as plain,
        ):
            events = _fill(federation, plain, nodes)
            replay_s = _start(federation)
            say(f"twins: {events:,} events replayed in {replay_s:.1f} s")
            federation.processes[f"{DOMAIN}/r1"].stop()
            cold_s = _start(federation)
            pid = federation.processes[f"{DOMAIN}/r1"].pid
            started_mib = _memory_mib(pid)["VmRSS"]
            say(f"twins: started from the store in {cold_s:.1f} s, {started_mib} MiB")
            settled_s = cold_s + _settle(pid)
            say(f"twins: all nodes read in the background after {settled_s:.0f} s")
            details, beside = [], []
            with grpc.insecure_channel(federation.address(DOMAIN)) as channel:
                stub = FleetServiceStub(channel)
                for number in range(RUNS):
                    names = _names(nodes, number)
                    details.append(_p99_ms(names, lambda name: _detail(stub, name)))
                    beside.append(_p99_ms(names, lambda name: _plain_detail(plain, name)))
                    say(f"twins: detail p99 {details[-1]:.2f} ms, plain SQLite {beside[-1]:.3f}")
            memory = _memory_mib(pid)
            federation.processes[f"{DOMAIN}/r1"].stop()
            data = federation.data_dir(DOMAIN)
            return report(
                "twins",
                "ms",
                details,
                {"plain SQLite in the same process": beside},
                twins=nodes,
                events=events,
                resident_mib=memory["VmRSS"],
                peak_resident_mib=memory["VmHWM"],
                resident_mib_at_start=started_mib,
                store_bytes_a_twin=round(_size(data, "store.sqlite") / nodes),
                log_bytes_a_twin=round(_size(data, "log.sqlite") / nodes),
                plain_bytes_a_twin=round(_size(directory, "plain.sqlite") / nodes),
                cold_start_s=rounded(cold_s),
                settled_s=rounded(settled_s),
                replay_s=rounded(replay_s),
            )


def _fill(federation: LocalFederation, plain: sqlite3.Connection, nodes: int) -> int:
    """Begins the federation, then writes the fleet into the log of the stopped controller and into plain SQLite."""
    federation.start_all()
    federation.wait_for_master(DOMAIN)
    federation.processes[f"{DOMAIN}/r1"].stop()
    controller = federation.plan(DOMAIN).controller
    root = re.search(
        r'^root_public_key = "(\w+)"', federation.config_path(DOMAIN).read_text(), re.M
    )
    assert root is not None
    columns = ", ".join(f"{aspect} BLOB" for aspect in _ASPECTS)
    plain.execute("PRAGMA journal_mode = WAL")
    plain.execute(f"CREATE TABLE nodes (id TEXT PRIMARY KEY, domain TEXT, {columns})")
    began_s = time.perf_counter()
    events = asyncio.run(
        write_fleet_log(
            federation.data_dir(DOMAIN) / "log.sqlite",
            Identity(controller, DOMAIN, 1),
            Ed25519Signer.load(federation.directory / f"{controller}.pem"),
            bytes.fromhex(root[1]),
            _also_plain(fleet(nodes), plain),
        )
    )
    plain.commit()
    say(f"twins: a log of {events:,} events made in {time.perf_counter() - began_s:.0f} s")
    return events


def _also_plain(facts: Iterator[NodeFacts], plain: sqlite3.Connection) -> Iterator[NodeFacts]:
    insert = f"INSERT INTO nodes VALUES ({', '.join('?' * (2 + len(_ASPECTS)))})"  # noqa: S608
    for node in facts:
        values = [node.bodies[aspect].SerializeToString() for aspect in _ASPECTS]
        plain.execute(insert, (node.node, node.zone, *values))
        yield node


def _start(federation: LocalFederation) -> float:
    """Starts the controller; the seconds until it answers as master."""
    began_s = time.perf_counter()
    federation.start_controller(DOMAIN)
    federation.wait_for_master(DOMAIN, START_TIMEOUT_S)
    return time.perf_counter() - began_s


def _settle(pid: int) -> float:
    """Waits until the controller has read all nodes in the background, and rests; the seconds."""
    began_s = time.perf_counter()
    spent_s = _cpu_s(pid)
    while time.perf_counter() - began_s < SETTLE_TIMEOUT_S:
        time.sleep(LOOK_S)
        before_s, spent_s = spent_s, _cpu_s(pid)
        if spent_s - before_s < RESTING_SHARE * LOOK_S:
            return time.perf_counter() - began_s
    raise TimeoutError(f"the controller does not rest within {SETTLE_TIMEOUT_S:.0f} s")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _names(nodes: int, number: int) -> list[str]:
    chance = random.Random(number)
    picked = (chance.randrange(nodes) for _ in range(DETAILS))
    return [f"zone-{p // NODES_A_ZONE:04}-n{p % NODES_A_ZONE:04}" for p in picked]


def _p99_ms(names: list[str], ask: Any) -> float:
    took = []
    for name in names:
        began_s = time.perf_counter()
        ask(name)
        took.append((time.perf_counter() - began_s) * 1000)
    return percentile(took, 99)


def _detail(stub: FleetServiceStub, name: str) -> None:
    reply = stub.GetNode(fleet_service_pb2.GetNodeRequest(name=f"nodes/{name}"))
    assert reply.node.id == name


def _plain_detail(plain: sqlite3.Connection, name: str) -> None:
    row = plain.execute("SELECT * FROM nodes WHERE id = ?", (name,)).fetchone()
    for message, value in zip(_ASPECTS.values(), row[2:], strict=True):
        message.FromString(value)


def _memory_mib(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/status").read_text()
    return {
        name: round(int(kib) / 1024)
        for name, kib in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", text, re.M)
    }


def _size(directory: Path, name: str) -> int:
    return sum(path.stat().st_size for path in directory.glob(f"{name}*"))


if __name__ == "__main__":
    print(line(run(int(sys.argv[1]) if len(sys.argv) > 1 else NODES)), flush=True)
