"""Hostile input by the thousand: genuine bundles, runs, SBOMs, envelopes and certificates with seeded faults, and
hand-made forgeries of them.

Nothing of it may crash what reads it, be taken for genuine, or leave an effect: the state of what is attacked is
compared after every case. What means the same as the genuine piece, such as another order of fields that nobody
signed, is told apart and not counted as refused. The figure is cases a second; beside it, how many genuine ones of the
same kinds are judged in that time.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.hostile_bundles import bundles
from benchmarks.hostile_documents import (
    certificates,
    chains,
    envelopes,
    requests,
    sboms,
)
from benchmarks.hostile_runs import runs
from benchmarks.mutations import mutated
from benchmarks.report import report, rounded, say

SEED = 20_260_101

#: What a target says of a piece that it took for genuine.
ACCEPTED = "ACCEPTED"

#: Told of what means the same as the genuine piece.
IDENTICAL = "identical"

#: Genuine pieces judged before the others, so that a target that refuses everything is noticed, and for the time of it.
GENUINE = 20

#: What the memory of an attacked process may grow by: what it keeps of refusals, and what the allocator keeps.
MAX_GROWTH_MIB = 64


class Target(Protocol):
    """Something that reads what others bring."""

    @property
    def originals(self) -> Sequence[bytes]:
        """Genuine pieces."""

    def crafted(self) -> Iterator[bytes]:
        """Forgeries by hand."""

    def is_same(self, data: bytes, original: bytes) -> bool:
        """Tells whether the data means what the original does, by nothing that the target itself computes."""

    def take(self, data: bytes) -> str:
        """Hands the data over; the reason why it was refused, or `ACCEPTED`. Any exception is a crash."""

    def is_genuine(self, original: bytes) -> bool:
        """Tells whether a genuine piece is found good; leaves no trace."""

    def state(self) -> object:
        """What must not change."""

    def resident_mib(self) -> int:
        """Memory of the process that reads."""


class Kind(NamedTuple):
    """One kind of hostile input: how its target is made in a directory, and how many cases there are."""

    target: Callable[[Path], AbstractContextManager[Target]]
    cases: int


KINDS: Mapping[str, Kind] = {
    "bundle": Kind(bundles, 2_000),
    "run": Kind(runs, 2_500),
    "sbom": Kind(sboms, 1_500),
    "envelope": Kind(envelopes, 2_000),
    "certificate": Kind(certificates, 1_500),
    "chain": Kind(chains, 1_000),
    "request": Kind(requests, 1_000),
}


class Harmed(AssertionError):
    """A case did harm; the message says which, and where its bytes are."""


@dataclass(slots=True)
class Attacked:
    """What became of the cases of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0
    genuine_s: float = 0.0
    before_mib: int = 0
    after_mib: int = 0

    @property
    def cases(self) -> int:
        """All cases, those that mean the same included."""
        return self.outcomes.total()


def run(seed: int = SEED, share: float = 1.0) -> dict[str, Any]:
    """All kinds, or a `share` of each one's cases. Raises `Harmed`."""
    say(f"hostile: seed {seed}")
    found: dict[str, Attacked] = {}
    for name, kind in KINDS.items():
        count = max(1, round(kind.cases * share))
        with (
            tempfile.TemporaryDirectory(prefix="souverix-hostile-") as path,
            kind.target(Path(path)) as target,
        ):
            found[name] = attack(name, target, seed, count)
        say(f"hostile: {name}: {dict(found[name].outcomes.most_common())}")
    took_s = sum(each.took_s for each in found.values())
    genuine_s = sum(each.genuine_s * each.cases for each in found.values())
    cases = sum(each.cases for each in found.values())
    return report(
        "hostile",
        "cases/s",
        [cases / took_s],
        {"genuine": [cases / genuine_s]},
        seed=seed,
        cases=cases,
        outcomes={name: dict(sorted(each.outcomes.items())) for name, each in found.items()},
        memory_mib={name: [each.before_mib, each.after_mib] for name, each in found.items()},
        seconds={name: rounded(each.took_s) for name, each in found.items()},
    )


def attack(name: str, target: Target, seed: int, count: int) -> Attacked:
    """Hands `count` cases to a target, the hand-made ones first. Raises `Harmed`."""
    attacked = Attacked(genuine_s=_judged_genuine(name, target))
    before, attacked.before_mib = target.state(), target.resident_mib()
    for number, data in enumerate(_cases(f"{seed}/{name}", target, count)):
        if any(target.is_same(data, original) for original in target.originals):
            attacked.outcomes[IDENTICAL] += 1
            continue
        began_s = time.perf_counter()
        with _blamed(name, seed, number, data):
            outcome = target.take(data)
            attacked.took_s += time.perf_counter() - began_s
            if outcome == ACCEPTED:
                raise AssertionError("it was taken for genuine")
            if target.state() != before:
                raise AssertionError(f"it was refused as {outcome} and had an effect all the same")
        attacked.outcomes[outcome] += 1
    attacked.after_mib = target.resident_mib()
    if attacked.after_mib - attacked.before_mib > MAX_GROWTH_MIB:
        raise Harmed(
            f"{name}, seed {seed}: memory grew from {attacked.before_mib} to {attacked.after_mib} MiB"
        )
    return attacked


def _judged_genuine(name: str, target: Target) -> float:
    """Seconds that a genuine piece takes. Raises `Harmed` where one is refused: then every refusal means nothing."""
    began_s = time.perf_counter()
    for number in range(GENUINE):
        if not target.is_genuine(target.originals[number % len(target.originals)]):
            raise Harmed(f"{name}: a genuine one is refused")
    return (time.perf_counter() - began_s) / GENUINE


def _cases(seed: str, target: Target, count: int) -> Iterator[bytes]:
    crafted = list(target.crafted())
    yield from crafted
    chance = random.Random(seed)
    for _ in range(count - len(crafted)):
        yield mutated(chance, chance.choice(target.originals), target.originals)


@contextmanager
def _blamed(name: str, seed: int, number: int, data: bytes) -> Iterator[None]:
    """Keeps the bytes of a case that did harm. Raises `Harmed`."""
    try:
        yield
    except Exception as error:  # any exception is what is looked for
        with tempfile.NamedTemporaryFile(prefix=f"hostile-{name}-", delete=False) as kept:
            kept.write(data)
        raise Harmed(
            f"{name}, seed {seed}, case {number} ({type(error).__name__}: {error}); its bytes are in {kept.name}"
        ) from error
