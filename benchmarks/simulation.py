"""How many simulated fleets a second one core judges: the real core, from greeting to merge, with every check.

Beside it: the events of the same fleets, merged by one replica of the root that reads them from its log, without
network, faults or checks.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.report import RUNS, report, say
from federation.state import State
from souverix.event.v1 import event_pb2
from tests.simulation.keys import ROOT, VERIFIER
from tests.simulation.run import play

#: Fleets in one run: some seconds, so that neither a pause of the machine nor one large fleet decides.
SEEDS_A_RUN = 150


def run() -> dict[str, Any]:
    """Measures both on the same seeds; each run takes others."""
    simulated, replayed = [], []
    events = 0
    for number in range(RUNS):
        logs: list[tuple[str, list[bytes]]] = []
        spent_s = 0.0
        for seed in range(number * SEEDS_A_RUN, (number + 1) * SEEDS_A_RUN):
            began_s = time.perf_counter()
            fleet = play(seed)
            spent_s += time.perf_counter() - began_s
            logs.append((fleet.root.name, fleet.root.log.data))
            events += fleet.history.figures.events
        simulated.append(SEEDS_A_RUN / spent_s)
        replayed.append(SEEDS_A_RUN / _replay(logs))
        say(f"simulation: {simulated[-1]:.1f} seeds/s")
    return report(
        "simulation",
        "seeds/s",
        simulated,
        {"one replica, without network": replayed},
        simulated_steps_a_seed=round(events / (RUNS * SEEDS_A_RUN)),
    )


def _replay(logs: list[tuple[str, list[bytes]]]) -> float:
    """Seconds in which one replica each merges what the root of a fleet received."""
    began_s = time.perf_counter()
    for controller, log in logs:
        state = State(controller, VERIFIER, ROOT.public_key)
        for data in log:
            commit = event_pb2.Commit.FromString(data)
            state.apply(commit.offset, commit)
    return time.perf_counter() - began_s
