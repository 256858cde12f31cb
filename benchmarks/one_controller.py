"""How many writes one controller acknowledges in a second, whatever their method. Owns the controller and the order of
the runs; the requests are its callers'.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.client import call_all, create_nodes, node_ids
from benchmarks.raw_etcd import BareEtcds, put_rate
from benchmarks.report import RUNS, report, say
from benchmarks.workload import values
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan

NODES = 2_000

#: Puts of one baseline run: two or three seconds.
PUTS = 10_000

#: The issue's number of callers.
IN_FLIGHT = 64

_DOMAIN = "global"


def run_writes(
    benchmark: str,
    method: str,
    requests: Callable[[int, Sequence[str]], list[bytes]],
    writes_a_request: int,
    callers: int,
    check: Callable[[list[bytes]], None],
) -> dict[str, Any]:
    """Makes `requests` of (number of the run, ids of the nodes) each run, and as many raw puts beside it."""
    with tempfile.TemporaryDirectory(prefix=f"souverix-{benchmark}-") as path:
        rates, puts = [], []
        with (
            LocalFederation(Path(path) / "federation", [DomainPlan(_DOMAIN)]) as federation,
            BareEtcds(Path(path) / "bare", ["bare"]) as bare,
        ):
            federation.start_all()
            ids = node_ids(NODES)
            uvloop.run(create_nodes(federation.address(_DOMAIN), ids))
            for number in range(RUNS):
                made = requests(number, ids)
                answered = uvloop.run(call_all(federation.address(_DOMAIN), method, made, callers))
                check(answered.replies)
                rates.append(len(made) * writes_a_request / answered.took_s)
                puts.append(uvloop.run(put_rate(bare.endpoint("bare"), values(PUTS), IN_FLIGHT)))
                say(f"{benchmark}: {rates[-1]:,.0f} writes/s, raw puts {puts[-1]:,.0f}")
    return report(
        benchmark,
        "writes/s",
        rates,
        {f"raw etcd puts, {IN_FLIGHT} in flight": puts},
        callers=callers,
    )
