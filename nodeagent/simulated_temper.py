"""How a made-up node behaves beside doing its duty: outages, long ways, upgrades, and misbehaviour.

Owns the scenarios and what they make of a node: the same for the same seed, scenario and node. Must never misbehave
unlabelled: a node that breaks the protocol on purpose says so in its labels.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

LABEL = "simulated"
"""Label that names what a made-up node does amiss."""


class Misbehaviour(Enum):
    """What a node does amiss."""

    NONE = ""
    LATE = "late"
    """Frames leave only after a while."""
    DUPLICATE = "duplicate"
    """Each report is sent twice."""
    OUT_OF_ORDER = "out-of-order"
    """Now and then a report is sent after its successor."""
    GARBAGE = "garbage"
    """Now and then a frame says what no frame may say."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Shares of the fleet that behave in a way, and how much. Times are seconds, drawn evenly from ranges."""

    told: str
    cut_share: float = 0.0
    cut_every_s: tuple[float, float] = (30.0, 120.0)
    cut_for_s: tuple[float, float] = (5.0, 40.0)
    slow_share: float = 0.0
    slow_s: tuple[float, float] = (1.1, 2.5)
    unruly_share: float = 0.0
    upgrades: bool = False
    upgrade_after_s: tuple[float, float] = (2.0, 20.0)


SCENARIOS: Mapping[str, Scenario] = {
    "calm": Scenario("every node does its duty"),
    "outages": Scenario("half of the nodes are cut off now and then", cut_share=0.5),
    "slow": Scenario("a third of the nodes are a long way off", slow_share=0.33),
    "upgrades": Scenario("versions that are declared come into force", upgrades=True),
    "unruly": Scenario("a tenth of the nodes break the protocol", unruly_share=0.1),
    "mixed": Scenario(
        "some of everything", cut_share=0.2, slow_share=0.1, unruly_share=0.03, upgrades=True
    ),
}


@dataclass(frozen=True, slots=True)
class Temper:
    """How one node behaves."""

    late_s: float = 0.0
    """By how much what it hears is late."""
    cut_every_s: float = 0.0
    """Time from one outage to the next; 0: there are none."""
    cut_for_s: float = 0.0
    cut_at_s: float = 0.0
    """When in each such time the outage begins."""
    misbehaviour: Misbehaviour = Misbehaviour.NONE
    upgrade_after_s: float | None = None
    """How long it takes to bring a declared version into force; None: it never does."""

    def cut_until_s(self, age_s: float) -> float | None:
        """Until when it is cut off, at an age of the fleet; None: it is not."""
        if not self.cut_every_s:
            return None
        began_s = age_s - (age_s - self.cut_at_s) % self.cut_every_s
        until_s = began_s + self.cut_for_s
        return until_s if began_s >= 0 and age_s < until_s else None

    def next_cut_s(self, age_s: float) -> float | None:
        """When it is cut off next, at an age of the fleet at which it is not; None: never."""
        if not self.cut_every_s:
            return None
        if age_s < self.cut_at_s:
            return self.cut_at_s
        return age_s + self.cut_every_s - (age_s - self.cut_at_s) % self.cut_every_s


def temper_of(scenario: Scenario, seed: int, node: str) -> Temper:
    """The temper of a node, the same for the same arguments."""
    # A seeded generator makes fleets repeatable; nothing here is a secret.
    chance = random.Random(f"{seed}/{scenario.told}/{node}")  # noqa: S311
    is_cut, is_slow, is_unruly = (chance.random() for _ in range(3))
    every_s = chance.uniform(*scenario.cut_every_s)
    for_s = min(chance.uniform(*scenario.cut_for_s), every_s / 2)
    at_s = chance.uniform(0, every_s - for_s)
    late_s = chance.uniform(*scenario.slow_s)
    misbehaviour = chance.choice([m for m in Misbehaviour if m is not Misbehaviour.NONE])
    upgrade_s = chance.uniform(*scenario.upgrade_after_s)
    cut = is_cut < scenario.cut_share
    return Temper(
        late_s=late_s if is_slow < scenario.slow_share else 0.0,
        cut_every_s=every_s if cut else 0.0,
        cut_for_s=for_s,
        cut_at_s=at_s,
        misbehaviour=misbehaviour if is_unruly < scenario.unruly_share else Misbehaviour.NONE,
        upgrade_after_s=upgrade_s if scenario.upgrades else None,
    )
