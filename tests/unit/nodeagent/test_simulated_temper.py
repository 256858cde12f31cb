"""What scenarios make of nodes: repeatable, in the shares they say, and labelled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.simulated_temper import SCENARIOS, Misbehaviour, Temper, temper_of

NODES = [f"n{number}" for number in range(1000)]


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_the_same_seed_gives_the_same_fleet_and_another_seed_another(name: str) -> None:
    scenario = SCENARIOS[name]
    first = [temper_of(scenario, 1, node) for node in NODES]
    assert first == [temper_of(scenario, 1, node) for node in NODES]
    other = [temper_of(scenario, 2, node) for node in NODES]
    assert first != other


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_shares_are_as_the_scenario_says(name: str) -> None:
    scenario = SCENARIOS[name]
    tempers = [temper_of(scenario, 1, node) for node in NODES]
    shares = (
        (scenario.cut_share, sum(bool(t.cut_every_s) for t in tempers)),
        (scenario.slow_share, sum(bool(t.late_s) for t in tempers)),
        (
            scenario.unruly_share,
            sum(t.misbehaviour is not Misbehaviour.NONE for t in tempers),
        ),
        (float(scenario.upgrades), sum(t.upgrade_after_s is not None for t in tempers)),
    )
    for share, found in shares:
        assert found / len(NODES) == pytest.approx(share, abs=0.06)
        assert bool(found) == bool(share)


def test_every_kind_of_misbehaviour_occurs() -> None:
    found = {temper_of(SCENARIOS["unruly"], 1, node).misbehaviour for node in NODES}
    assert found == set(Misbehaviour)


def test_outages_come_again_and_are_foretold() -> None:
    temper = Temper(cut_every_s=100, cut_for_s=20, cut_at_s=30)
    assert temper.cut_until_s(29.9) is None
    assert temper.next_cut_s(10) == 30
    assert temper.cut_until_s(30) == 50
    assert temper.cut_until_s(49.9) == pytest.approx(50)
    assert temper.cut_until_s(50) is None
    assert temper.next_cut_s(50) == 130
    assert temper.cut_until_s(135) == 150
    assert replace(temper, cut_every_s=0).next_cut_s(5) is None


def test_no_outage_takes_more_than_half_of_the_time() -> None:
    for node in NODES:
        temper = temper_of(SCENARIOS["outages"], 4, node)
        assert not temper.cut_every_s or temper.cut_for_s <= temper.cut_every_s / 2
