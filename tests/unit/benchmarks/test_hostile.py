"""The quick version of the benchmark, for what is attacked in this process, and proof that it notices harm."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.hostile import ACCEPTED, IDENTICAL, KINDS, SEED, Harmed, attack
from benchmarks.mutations import mutated

#: Kinds without processes, and how many cases of each: the SBOM's validator takes ten milliseconds a document.
QUICK = {"sbom": 80, "envelope": 150, "certificate": 200, "chain": 200, "request": 200}


@pytest.mark.parametrize(("name", "count"), QUICK.items())
def test_hostile_documents_do_no_harm(name: str, count: int, tmp_path: Path) -> None:
    with KINDS[name].target(tmp_path) as target:
        attacked = attack(name, target, SEED, count)
    assert attacked.cases == count
    refused = {reason: n for reason, n in attacked.outcomes.items() if reason != IDENTICAL}
    assert sum(refused.values()) > count // 2
    assert len(refused) >= 3
    assert ACCEPTED not in refused


def test_a_signature_that_is_not_checked_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.supply.judging.signed_by", lambda *_: True)
    with KINDS["envelope"].target(tmp_path) as target, pytest.raises(Harmed, match="for genuine"):
        attack("envelope", target, SEED, 100)


class Leaking:
    """Refuses everything but the genuine piece, and does harm in its own way."""

    def __init__(self, harm: str) -> None:
        self.originals = [b"genuine"]
        self._harm = harm
        self._kept: list[bytes] = []

    def crafted(self) -> Iterator[bytes]:
        yield b"forged"

    def is_same(self, data: bytes, original: bytes) -> bool:
        return data == original

    def take(self, data: bytes) -> str:
        if self._harm == "crash":
            raise KeyError(data)
        if self._harm == "effect":
            self._kept.append(data)
        return "REFUSED"

    def is_genuine(self, original: bytes) -> bool:
        return self._harm != "deaf"

    def state(self) -> object:
        return list(self._kept)

    def resident_mib(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("crash", "KeyError"),
        ("effect", "had an effect"),
        ("deaf", "a genuine one is refused"),
    ],
)
def test_each_kind_of_harm_is_noticed(harm: str, said: str) -> None:
    with pytest.raises(Harmed, match=said):
        attack("leaking", Leaking(harm), SEED, 3)


def test_memory_that_grows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = iter((10, 1_000))
    target = Leaking("none")
    monkeypatch.setattr(target, "resident_mib", lambda: next(grown))
    with pytest.raises(Harmed, match="from 10 to 1000 MiB"):
        attack("leaking", target, SEED, 3)


def test_a_seed_makes_the_same_faults() -> None:
    def some(seed: int) -> list[bytes]:
        chance = random.Random(seed)
        return [mutated(chance, b"some data" * 9, [b"other data"]) for _ in range(50)]

    assert some(1) == some(1) != some(2)
    assert len(set(some(1))) > 40
