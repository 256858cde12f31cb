"""The quick version of the benchmark `hostile` for bundles and runs, with real processes, and proof that it notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.hostile import SEED, Harmed, attack
from benchmarks.hostile_bundles import Bundles, bundles
from benchmarks.hostile_runs import Runs, runs
from federation.keys import KeyRing


@pytest.fixture(scope="module")
def zones_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with runs(tmp_path_factory.mktemp("runs")) as target:
        yield target


def test_hostile_runs_do_no_harm(zones_runs: Runs) -> None:
    attacked = attack("run", zones_runs, SEED, 300)
    assert {"CHAIN_MISMATCH", "SEAL_INVALID", "OWN_STREAM_AHEAD"} <= set(attacked.outcomes)


def test_a_seal_that_is_not_checked_is_noticed(
    zones_runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeyRing, "seal_is_good", lambda *_: True)
    with pytest.raises(Harmed, match="taken for genuine"):
        attack("run", zones_runs, SEED, 300)


def test_hostile_bundles_do_no_harm_and_one_that_did_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bundles(tmp_path) as target:
        attacked = attack("bundle", target, SEED, 150)
        assert {"BUNDLE_SIGNATURE_INVALID", "BUNDLE_WRONG_AUDIENCE", "BUNDLE_EXPIRED"} <= set(
            attacked.outcomes
        )
        genuine, take = target.originals[0], Bundles.take

        def take_in(self: Bundles, data: bytes) -> str:
            take(self, genuine)
            return "BUNDLE_MALFORMED"

        monkeypatch.setattr(Bundles, "take", take_in)
        with pytest.raises(Harmed, match="had an effect"):
            attack("bundle", target, SEED, 150)
