"""One controller with many registered nodes, a bare server beside it, and what both cost. Owns processes, and reads
their memory and CPU; never the heartbeats.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.client import create_nodes
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan

DOMAIN = "zone"

#: Nodes that wait until all have greeted must not count as silent meanwhile.
HEARTBEAT_S = 30.0

#: Links that the controller may hold: more than any benchmark needs.
MAX_LINKS = 50_000

#: Nodes let in a second: as many as can be, for how they come in is another benchmark.
ARRIVALS_PER_S = 10_000

#: Long enough for a process that is held up by 10,000 greetings.
LEASE_TTL_S = 10.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process has used so far."""

    cpu_s: float
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Running:
    """Where the controller and the bare server listen, and their process ids."""

    controller: str
    controller_pid: int
    bare: str


@contextlib.contextmanager
def running(benchmark: str, ids: Sequence[str]) -> Iterator[Running]:
    """A controller that knows the nodes, and a bare server, while the block runs."""
    _allow_many_files()
    plans = [DomainPlan(DOMAIN, kind="global", level="global", log="sqlite")]
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"souverix-{benchmark}-"))
        federation = stack.enter_context(
            LocalFederation(Path(path), plans, lease_ttl_s=LEASE_TTL_S)
        )
        config = federation.config_path(DOMAIN)
        config.write_text(
            config.read_text().replace(
                "heartbeat_interval_s = 1.0",
                f"heartbeat_interval_s = {HEARTBEAT_S}\nmax_links = {MAX_LINKS}\n"
                f"arrivals_per_s = {ARRIVALS_PER_S}",
            )
        )
        federation.start_all()
        uvloop.run(create_nodes(federation.address(DOMAIN), ids))
        bare = stack.enter_context(_bare())
        pid = federation.processes[f"{DOMAIN}/r1"].pid
        yield Running(federation.address(DOMAIN), pid, bare)


def cost(pid: int) -> Cost:
    """What a process and its threads have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Cost(cpu_s, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))


@contextlib.contextmanager
def _bare() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare_streams"], stdout=subprocess.PIPE, text=True
    )
    try:
        if process.stdout is None:
            raise RuntimeError("the bare server has no output")
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def _allow_many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
