"""One controller that knows a large fleet: memory, disk, the time of a start, and of every kind of query.

`python -m benchmarks twins` takes 100,000 nodes; `python -m benchmarks.twins 1000000` any number. The fleet's log is
made first (fleet_log), and a real controller started on it: once with the log alone, so that it makes its store, and
again with the store. Then the queries are asked over the API (queries), and beside them by hand-written SQL of the same
rows in plain SQLite (plain_fleet). Each measure is printed with its target; the JSON line has them all.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks import queries
from benchmarks.fleet import fleet, node_name
from benchmarks.fleet_log import write_fleet_log
from benchmarks.plain_fleet import PlainFleet
from benchmarks.report import RUNS, line, percentile, report, rounded, say
from benchmarks.sweep import Links
from controller.signing import Ed25519Signer
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from federation.proposal import Identity
from souverix.fleet.v1 import fleet_service_pb2
from souverix.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from souverix.policy.v1.policy_service_pb2_grpc import PolicyServiceStub

#: Nodes where nothing else is said: a run of some two minutes.
NODES = 100_000

#: Calls of one run, one after another. Pages: of each filter a sixth.
DETAILS = 2_000
PAGES = 480
OVERVIEWS = 300
SWEEPS = 50

#: Of the statements in plain SQLite that take long there.
PLAIN_OVERVIEWS = 3
PLAIN_SWEEPS = 5

#: A replay of millions of events, and the reading of all nodes.
START_TIMEOUT_S = 900.0

#: Between two looks whether all nodes are read.
LOOK_S = 0.5

DOMAIN = "global"
REPLICA = f"{DOMAIN}/r1"


@dataclass(slots=True)
class Measure:
    """One row of the result: the median of its runs, what is asked for, and the same in plain SQLite."""

    name: str
    unit: str
    target: float
    runs: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """The row as it is printed."""
        middle, beside = sorted(self.runs)[len(self.runs) // 2], sorted(self.plain)
        return {
            "measure": self.name,
            "value": rounded(middle),
            "unit": self.unit,
            "target": self.target,
            "reached": middle <= self.target,
            "plain": rounded(beside[len(beside) // 2]) if beside else None,
        }


def run(nodes: int = NODES) -> dict[str, Any]:
    """The 99th percentile of a node's detail in milliseconds; `rows` has every measure with its target."""
    with tempfile.TemporaryDirectory(prefix="souverix-twins-") as path:
        directory = Path(path)
        plan = DomainPlan(DOMAIN, kind="global", level="global", log="sqlite")
        with (
            LocalFederation(directory / "federation", [plan]) as federation,
            closing(PlainFleet(directory / "plain.sqlite")) as plain,
        ):
            return _Twins(federation, plain, nodes).run()


class _Twins:
    """One run of the benchmark."""

    def __init__(self, federation: LocalFederation, plain: PlainFleet, nodes: int) -> None:
        self._federation = federation
        self._plain = plain
        self._nodes = nodes
        self._now_s = int(time.time())
        self._further: dict[str, Any] = {"twins": nodes}

    def run(self) -> dict[str, Any]:
        self._make_log()
        self._replay()
        started = self._start_cold()
        self._fill_plain()
        detail = Measure("node detail p99", "ms", 10.0)
        page = Measure("filtered page of 100, p99", "ms", 25.0)
        overview = Measure("overview p99", "ms", 10.0)
        sweep = self._measure_sweep()
        with grpc.insecure_channel(self._federation.address(DOMAIN)) as channel:
            stub = FleetServiceStub(channel)
            self._compare_counts(stub)
            for number in range(RUNS):
                self._measure_details(detail, stub, number)
                self._measure_pages(page)
                self._measure_overviews(overview)
                for each in (detail, page, overview):
                    say(f"twins: {each.name} {each.runs[-1]:.2f} ms, plain {each.plain[-1]:.2f} ms")
            self._further["policy_change_s"] = rounded(self._change_policy(channel))
        memory = self._memory_mib()
        disk = self._bytes_a_twin("store.sqlite")
        self._federation.processes[REPLICA].stop()
        rows = [
            Measure("resident memory", "MiB", 2048, [memory["VmRSS"]]),
            Measure("disk a twin", "bytes", 2048, [disk], [self._plain.size / self._nodes]),
            overview,
            page,
            detail,
            sweep,
            Measure("cold start", "s", 60.0, [started]),
        ]
        for row in map(Measure.row, rows):
            mark = "" if row["reached"] else ", MISSED"
            say(
                f"twins: {row['measure']}: {row['value']} {row['unit']} (target {row['target']}{mark}),"
                f" plain SQLite {row['plain']}"
            )
        return report(
            "twins",
            "ms",
            detail.runs,
            {"plain SQLite in the same process": detail.plain},
            peak_resident_mib=memory["VmHWM"],
            log_bytes_a_twin=self._bytes_a_twin("log.sqlite"),
            rows=[each.row() for each in rows],
            **self._further,
        )

    # Setting up.

    def _make_log(self) -> None:
        """Begins the federation, then writes the fleet into the log of the stopped controller."""
        federation = self._federation
        federation.start_all()
        federation.wait_for_master(DOMAIN)
        federation.processes[REPLICA].stop()
        controller = federation.plan(DOMAIN).controller
        config = federation.config_path(DOMAIN).read_text()
        root = re.search(r'^root_public_key = "(\w+)"', config, re.M)
        assert root is not None
        began_s = time.perf_counter()
        events = asyncio.run(
            write_fleet_log(
                federation.data_dir(DOMAIN) / "log.sqlite",
                Identity(controller, DOMAIN, 1),
                Ed25519Signer.load(federation.directory / f"{controller}.pem"),
                bytes.fromhex(root[1]),
                fleet(self._nodes, self._now_s),
            )
        )
        self._further["events"] = events
        say(f"twins: a log of {events:,} events made in {time.perf_counter() - began_s:.0f} s")

    def _replay(self) -> None:
        """The first start, by the log alone; meanwhile the facts are written into plain SQLite."""
        began_s = time.perf_counter()
        self._federation.start_controller(DOMAIN)
        self._plain.take_facts(fleet(self._nodes, self._now_s))
        self._federation.wait_for_master(DOMAIN, START_TIMEOUT_S)
        self._further["replay_s"] = rounded(time.perf_counter() - began_s)
        say(f"twins: replayed in {self._further['replay_s']} s")
        self._wait_until_read()
        self._further["read_s"] = rounded(time.perf_counter() - began_s)
        say(f"twins: all nodes read for lists and counts after {self._further['read_s']} s")
        self._federation.processes[REPLICA].stop()

    def _start_cold(self) -> float:
        """The second start, with the store: the seconds until an overview and a page answer with whole data."""
        began_s = time.perf_counter()
        self._federation.start_controller(DOMAIN)
        self._federation.wait_for_master(DOMAIN, START_TIMEOUT_S)
        self._further["master_after_s"] = rounded(time.perf_counter() - began_s)
        self._wait_until_read()
        taken_s = time.perf_counter() - began_s
        self._further["resident_mib_at_start"] = self._memory_mib()["VmRSS"]
        say(f"twins: started from the store, lists and counts whole, in {taken_s:.1f} s")
        return taken_s

    def _fill_plain(self) -> None:
        began_s = time.perf_counter()
        rows = self._plain.take_rows(self._federation.data_dir(DOMAIN) / "store.sqlite")
        assert rows == self._nodes
        say(f"twins: {rows:,} rows in plain SQLite after {time.perf_counter() - began_s:.0f} s")

    def _wait_until_read(self) -> None:
        """Waits until an overview and a filtered page answer without anything pending."""
        overview = fleet_service_pb2.ListDomainOverviewsRequest()
        page = fleet_service_pb2.ListNodesRequest(
            domain=DOMAIN,
            include_subtree=True,
            filter=queries.FILTERS[0],
            page_size=queries.PAGE_SIZE,
        )
        end_s = time.perf_counter() + START_TIMEOUT_S
        with grpc.insecure_channel(
            self._federation.address(DOMAIN), options=queries.CHANNEL_OPTIONS
        ) as channel:
            stub = FleetServiceStub(channel)
            while time.perf_counter() < end_s:
                counted = stub.ListDomainOverviews(overview)
                if not counted.read_model.pending_node_count:
                    listed = stub.ListNodes(page)
                    if not listed.read_model.pending_node_count:
                        assert counted.overviews[0].subtree_node_count == self._nodes
                        return
                time.sleep(LOOK_S)
        raise TimeoutError(f"not all nodes were read within {START_TIMEOUT_S:.0f} s")

    # Measuring.

    def _compare_counts(self, stub: FleetServiceStub) -> None:
        """Every filter finds as many nodes as its statement."""
        now_ms = time.time_ns() // 1_000_000
        counts = {}
        for which, text in enumerate(queries.FILTERS):
            request = fleet_service_pb2.ListNodesRequest(
                domain=DOMAIN, include_subtree=True, filter=text, page_size=1
            )
            counts[text] = stub.ListNodes(request).total_size
            assert counts[text] == self._plain.page(which, now_ms), text
        self._further["found"] = counts

    def _measure_details(self, measure: Measure, stub: FleetServiceStub, number: int) -> None:
        chance = random.Random(number)
        names = [node_name(chance.randrange(self._nodes)) for _ in range(DETAILS)]

        def detail(name: str) -> None:
            request = fleet_service_pb2.GetNodeRequest(name=f"nodes/{name}")
            assert stub.GetNode(request).node.id == name

        measure.runs.append(_p99_ms([lambda n=name: detail(n) for name in names]))  # type: ignore[misc]
        measure.plain.append(_p99_ms([lambda n=name: self._plain.detail(n) for name in names]))  # type: ignore[misc]

    def _measure_pages(self, measure: Measure) -> None:
        """The slowest of the filters counts: each would hide behind the others."""
        now_ms = time.time_ns() // 1_000_000
        address = self._federation.address(DOMAIN)
        slowest: dict[str, float] = self._further.setdefault("page_p99_ms", {})
        for text in queries.FILTERS:
            taken = queries.filtered_page_latencies(address, PAGES // len(queries.FILTERS), [text])
            slowest[text] = max(slowest.get(text, 0.0), rounded(percentile(taken, 99) * 1000))
            measure.runs.append(percentile(taken, 99) * 1000)
        worst = max(measure.runs[-len(queries.FILTERS) :])
        measure.runs[-len(queries.FILTERS) :] = [worst]
        statements = range(len(queries.FILTERS))
        measure.plain.append(
            _p99_ms([lambda w=which: self._plain.page(w, now_ms) for which in statements])  # type: ignore[misc]
        )

    def _measure_overviews(self, measure: Measure) -> None:
        taken = queries.overview_latencies(self._federation.address(DOMAIN), OVERVIEWS)
        measure.runs.append(percentile(taken, 99) * 1000)
        measure.plain.append(_p99_ms([self._plain.overview] * PLAIN_OVERVIEWS))

    def _measure_sweep(self) -> Measure:
        links = Links(self._nodes)
        measure = Measure("sweep of all links, p99", "ms", 50.0)
        for _ in range(RUNS):
            measure.runs.append(percentile([links.sweep_s() for _ in range(SWEEPS)], 99) * 1000)
            measure.plain.append(
                percentile([links.plain_s() for _ in range(PLAIN_SWEEPS)], 99) * 1000
            )
        say(f"twins: {measure.row()}")
        return measure

    def _change_policy(self, channel: grpc.Channel) -> float:
        """Declares a policy at the root that governs every node; the seconds until all are compared anew."""
        began_s = time.perf_counter()
        spec = policy_pb2.PolicySpec(version="v1", target_version="1.5.9", enforced=True)
        request = policy_service_pb2.CreatePolicyRequest(
            domain=DOMAIN, policy_id="release", spec=spec
        )
        PolicyServiceStub(channel).CreatePolicy(request)
        self._wait_until_read()
        taken_s = time.perf_counter() - began_s
        say(f"twins: all nodes compared with a new policy of the root after {taken_s:.1f} s")
        return taken_s

    def _memory_mib(self) -> dict[str, int]:
        pid = self._federation.processes[REPLICA].pid
        text = Path(f"/proc/{pid}/status").read_text()
        return {
            name: round(int(kib) / 1024)
            for name, kib in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", text, re.M)
        }

    def _bytes_a_twin(self, name: str) -> int:
        files = self._federation.data_dir(DOMAIN).glob(f"{name}*")
        return round(sum(path.stat().st_size for path in files) / self._nodes)


def _p99_ms(calls: list[Callable[[], object]]) -> float:
    taken = []
    for call in calls:
        began_s = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began_s) * 1000)
    return percentile(taken, 99)


if __name__ == "__main__":
    print(line(run(int(sys.argv[1]) if len(sys.argv) > 1 else NODES)), flush=True)
