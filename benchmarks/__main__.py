"""`python -m benchmarks [NAME]`: runs all benchmarks, or one, and prints a line of JSON for each."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence

from benchmarks.report import line, say

#: In the order in which they run: name -> module with `run`.
BENCHMARKS = {
    "simulation": "benchmarks.simulation",
    "catchup": "benchmarks.catchup",
    "verified-catchup": "benchmarks.verified_catchup",
    "replay": "benchmarks.replay",
    "bundle": "benchmarks.bundle",
    "convergence": "benchmarks.convergence",
    "watch": "benchmarks.watch",
    "writes": "benchmarks.writes",
    "batch-writes": "benchmarks.batch_writes",
    "return-storm": "benchmarks.return_storm",
    "twins": "benchmarks.twins",
    "heartbeats": "benchmarks.heartbeats",
    "heartbeat-streams": "benchmarks.heartbeat_streams",
    "sbom": "benchmarks.sbom",
    "rotation": "benchmarks.rotation",
    "hostile": "benchmarks.hostile",
}


def main(arguments: Sequence[str]) -> int:
    """Runs the named benchmarks, all when none is named; the exit code."""
    unknown = [name for name in arguments if name not in BENCHMARKS]
    if unknown:
        say(f"no benchmark is named {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
        return 2
    for name in arguments or BENCHMARKS:
        began_s = time.monotonic()
        say(f"{name}: begins")
        result = importlib.import_module(BENCHMARKS[name]).run()
        say(f"{name}: took {time.monotonic() - began_s:.0f} s")
        print(line(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
