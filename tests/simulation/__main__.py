"""Simulates fleets from the command line: `python -m tests.simulation --seeds 1000 --start 0`, or one of them with all
that happens: `python -m tests.simulation --seed 17 --verbose`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from tests.simulation.campaign import FAILURES_SHOWN, run_campaign
from tests.simulation.planted import PLANTED, planted
from tests.simulation.run import simulate
from tests.simulation.world import InvariantViolated


def main() -> int:
    """Returns 0 when every seed holds all invariants."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many fleets")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="one fleet only")
    parser.add_argument("--verbose", action="store_true", help="say what happens in that fleet")
    parser.add_argument("--plant", choices=sorted(PLANTED), help="with this bug planted in it")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _one(arguments.seed, arguments.plant, verbose=arguments.verbose)
    if arguments.seeds < 1 or arguments.plant or arguments.verbose:
        parser.error("--seeds is at least 1; --verbose and --plant go with --seed")
    summary = run_campaign(arguments.start, arguments.seeds)
    for failure in summary.failures[:FAILURES_SHOWN]:
        print(failure)
    print(summary)
    return 1 if summary.failures else 0


def _one(seed: int, plant: str | None, *, verbose: bool) -> int:
    with planted(plant) if plant else contextlib.nullcontext():
        try:
            figures = simulate(seed, verbose=verbose)
        except InvariantViolated as violated:
            print(f"seed {seed} failed: {violated}")
            return 1
    print(f"seed {seed} holds: {figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
