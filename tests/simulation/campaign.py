"""Many simulated fleets, one a seed, on at most two processes. Owns the figures of them all."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.simulation.history import Figures
from tests.simulation.run import simulate

#: Worker processes at most: the smallest machine this runs on has two cores.
MAX_WORKERS = 2

#: Seeds handed to a worker at once: half a minute's work at most, so that progress shows.
SEEDS_AT_ONCE = 250

#: Failures shown in full; the rest are counted.
FAILURES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed that failed, and why."""

    seed: int
    reason: str

    def __str__(self) -> str:
        return (
            f"seed {self.seed} failed: {self.reason}\n"
            f"  replay it: python -m tests.simulation --seed {self.seed} --verbose"
        )


@dataclass(slots=True)
class Summary:
    """What a range of seeds came to."""

    seeds: int = 0
    seconds: float = 0.0
    figures: Figures = field(default_factory=Figures)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Summary) -> None:
        """Adds the seeds of another range."""
        self.seeds += other.seeds
        self.figures.add(other.figures)
        self.failures.extend(other.failures)

    def __str__(self) -> str:
        figures = self.figures
        rate = self.seeds / self.seconds if self.seconds else 0.0
        return (
            f"seeds={self.seeds} seconds={self.seconds:.1f} seeds/s={rate:.1f} events={figures.events} "
            f"writes={figures.writes} conflicts={figures.conflicts} transfers={figures.transfers} "
            f"crashes={figures.crashes} cuts={figures.cuts} rotations={figures.rotations} "
            f"expulsions={figures.expulsions} forgeries={figures.forgeries} failures={len(self.failures)}"
        )


def run_range(start: int, seeds: int) -> Summary:
    """Simulates consecutive seeds in this process."""
    summary = Summary(seeds=seeds)
    for seed in range(start, start + seeds):
        try:
            summary.figures.add(simulate(seed))
        except Exception as error:  # noqa: BLE001 whatever a seed brings up is a finding of that seed
            summary.failures.append(Failure(seed, _reason(error)))
    return summary


def run_campaign(start: int, seeds: int) -> Summary:
    """Simulates consecutive seeds on up to `MAX_WORKERS` processes."""
    began = time.monotonic()
    total = Summary()
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    parts = list(_parts(start, seeds, workers))
    with ProcessPoolExecutor(workers) as pool:
        for part in pool.map(run_range, *zip(*parts, strict=True)):
            total.add(part)
    total.seconds = time.monotonic() - began
    return total


def _parts(start: int, seeds: int, workers: int) -> Iterator[tuple[int, int]]:
    size = max(1, min(SEEDS_AT_ONCE, -(-seeds // workers)))
    for first in range(start, start + seeds, size):
        yield first, min(size, start + seeds - first)


def _reason(error: Exception) -> str:
    if isinstance(error, AssertionError):
        return str(error)
    return "".join(traceback.format_exception(error, limit=-3)).strip()
