"""Ten thousand nodes that were linked and then half an hour away come back within a second. Owns the order of the run
and its checks; the nodes are `returning_nodes`'.

Nodes share the machine's cores with the controller, which they would not. So that what is measured is the controller,
returning nodes come last on these cores, and live ones first where the user may say so.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.client import create_nodes, node_ids
from benchmarks.report import percentile, report, say
from benchmarks.returning_nodes import Absence, come_and_come_back
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.federation.v1 import federation_service_pb2 as service
from souverix.federation.v1.federation_service_pb2_grpc import FederationServiceStub

NODES = 10_000

#: A report every five minutes for half an hour, and the one of the return.
REPORTS = 7

#: Nodes that are live all the while, each beating at this interval.
LIVE_NODES = 200
BEAT_S = 1.0

#: How long they beat before the storm, for comparison.
BEFORE_S = 15.0

#: Within which all come.
SPREAD_S = 1.0

#: Nodes that come a second at first, without a backlog: fewer than are let in.
FIRST_PER_S = 200.0

#: Until all that went are recorded as cut off, and the controller is at rest.
AT_REST_S = 30.0

#: Longest storm: twice what the rate of returns takes.
LIMIT_S = 500.0

_DOMAIN = "global"


def run(nodes: int = NODES) -> dict[str, Any]:
    """One storm: a run takes minutes, and its figures are of thousands of nodes."""
    with tempfile.TemporaryDirectory(prefix="souverix-return-storm-") as path:
        federation = LocalFederation(Path(path), [DomainPlan(_DOMAIN)])
        with federation:
            config = federation.config_path(_DOMAIN)
            config.write_text(
                config.read_text().replace(
                    "heartbeat_interval_s = 1.0", "heartbeat_interval_s = 200.0\nmax_links = 20000"
                )
            )
            federation.start_all()
            return _measured(federation, nodes)


def _measured(federation: LocalFederation, count: int) -> dict[str, Any]:
    address = federation.address(_DOMAIN)
    ids = node_ids(count + LIVE_NODES)
    uvloop.run(create_nodes(address, ids))
    say(f"return-storm: {count} nodes are known, {LIVE_NODES} are live")
    program = [sys.executable, "-m", "benchmarks.returning_nodes", address, str(BEAT_S)]
    # A file, for a pipe that nobody reads would stop the nodes.
    told = federation.directory / "beats"
    with (
        told.open("w") as output,
        subprocess.Popen(
            [*program, *ids[count:]], stdin=subprocess.PIPE, stdout=output, text=True
        ) as live,
    ):
        absence = Absence(count / FIRST_PER_S, AT_REST_S + BEFORE_S, REPORTS, SPREAD_S, LIMIT_S)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _come_last) as others:
            came_back = others.submit(come_and_come_back, address, ids[:count], absence)
            began_s, storm = came_back.result()
        ended_s = max(storm.live_s)
        live.communicate()
    beats = [json.loads(text) for text in told.read_text().splitlines()]
    before = [trip for sent, trip in beats if began_s - BEFORE_S <= sent < began_s]
    during = [trip for sent, trip in beats if began_s <= sent and sent + trip <= ended_s]
    seconds = Counter(int(at_s - began_s) for at_s in storm.welcomed_s)
    mean = len(storm.welcomed_s) / (max(storm.welcomed_s) - began_s)
    applied = _events_applied(address)
    if applied != count * REPORTS:
        raise RuntimeError(f"{applied} reports are in the log, not {count * REPORTS}")
    return report(
        "return-storm",
        "ms, p99 of live heartbeats in the storm",
        [percentile(during, 99) * 1000],
        {"ms, the same before it": [percentile(before, 99) * 1000]},
        p50_ms=[round(percentile(part, 50) * 1000, 2) for part in (before, during)],
        nodes=count,
        live_at_the_end=len(storm.live_s),
        events_applied=applied,
        storm_s=round(ended_s - began_s, 1),
        peak_admission_per_s=max(seconds.values()),
        mean_admission_per_s=round(mean, 1),
        peak_to_mean=round(max(seconds.values()) / mean, 2),
        sent_away=storm.refusals,
        broken_streams=storm.broken,
    )


def _come_last() -> None:
    """This process has the cores only while nobody else wants them: niceness would still give it slices of its own."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _events_applied(address: str) -> int:
    """Reports of inventories in the log: the telemetry lane holds nothing else."""
    with grpc.insecure_channel(address) as channel:
        request = service.ListStreamsRequest(domain=_DOMAIN)
        streams = FederationServiceStub(channel).ListStreams(request, timeout=30).streams
    return sum(stream.applied for stream in streams if stream.lane == "telemetry")
