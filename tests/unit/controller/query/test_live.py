"""The columns follow the log: whatever happened, they hold what is computed from the log anew."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.changes import Changes
from controller.query.columns import NodeColumns
from controller.query.live import LiveColumns
from controller.query.summary import NodeSummary
from controller.query.totals import DISTRIBUTIONS, ENUMS, SUMMED
from controller.twin.drift import DriftAnalyzer
from controller.twin.node import find_node
from federation.state import Applied
from tests.unit.controller.query.fleets import DOMAINS, RandomFleet


class Followed:
    """A random fleet, its commits published, and columns that follow them."""

    def __init__(self, seed: int, nodes: int = 12) -> None:
        self.fleet = RandomFleet(seed, nodes)
        self.changes = Changes()
        self.live = LiveColumns(
            self.fleet.state, self.changes, lambda: self.fleet.controller.now_ms
        )

    def step(self) -> None:
        controller = self.fleet.controller
        before = len(controller.commits)
        self.fleet.step()
        if len(controller.commits) > before and controller.last_applied is not None:
            self.changes.publish(controller.last_applied)

    def settle(self) -> None:
        self.live.columns.mark_ended(self.fleet.controller.now_ms)
        while self.live.work(1000):
            pass


def contents(columns: NodeColumns) -> dict[str, NodeSummary | None]:
    return {columns.ids.id_of(row): columns.summary(row) for row in columns.rows()}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), begun_after=st.integers(0, 60), pauses=st.integers(1, 30))
def test_live_columns_are_those_rebuilt_from_the_log(
    seed: int, begun_after: int, pauses: int
) -> None:
    followed = Followed(seed)
    for number in range(120):
        if number == begun_after:
            followed.live.begin()
        followed.step()
        if number % pauses == 0 and number > begun_after:
            followed.live.work(3)
    followed.settle()

    rebuilt = LiveColumns(
        followed.fleet.controller.replayed(), Changes(), lambda: followed.fleet.controller.now_ms
    )
    rebuilt.begin()
    while rebuilt.work(1000):
        pass
    assert contents(followed.live.columns) == contents(rebuilt.columns)
    assert followed.live.freshness().pending == 0
    check_totals(followed.live.columns)


def check_totals(columns: NodeColumns) -> None:
    """Sums kept in step are those counted from the rows."""
    for domains in (*((d,) for d in DOMAINS), DOMAINS):
        codes = [columns.values["domain"].known(domain) for domain in domains]
        sums = columns.totals.of([code for code in codes if code])
        held = [s for s in contents(columns).values() if s is not None and s.domain in domains]
        assert sums.nodes == len(held)
        for name in ENUMS:
            counts: Counter[Any] = Counter(getattr(summary, name) for summary in held)
            assert {v: n for v, n in enumerate(sums.by(name)) if n} == counts
        for name in SUMMED:
            assert sums.total(name) == sum(getattr(summary, name) for summary in held)
        for name in DISTRIBUTIONS:
            assert sums.distributions[name] == Counter(getattr(s, name) for s in held)


def test_a_policy_makes_nodes_below_be_read_again_and_tells_of_those_that_changed() -> None:
    followed = Followed(seed=3, nodes=20)
    followed.live.begin()
    for _ in range(200):
        followed.step()
    followed.settle()
    told: list[Applied] = []
    with followed.changes.subscribe(views=True) as subscription:
        subscription.offer = told.append  # type: ignore[method-assign,assignment]
        before = contents(followed.live.columns)
        followed.fleet._policy()
        applied = followed.fleet.controller.last_applied
        assert applied is not None
        followed.changes.publish(applied)
        followed.settle()

    after = contents(followed.live.columns)
    changed = {f"nodes/{node_id}" for node_id in after if after[node_id] != before[node_id]}
    assert {key.subject for each in told for key in each.keys if each is not applied} == changed


def test_an_ended_waiver_counts_no_more() -> None:
    followed = Followed(seed=5, nodes=6)
    followed.live.begin()
    while True:
        followed.step()
        followed.settle()
        waived = [s for s in contents(followed.live.columns).values() if s and s.drift_waived]
        if waived:
            break
    controller = followed.fleet.controller
    controller.now_ms = max(summary.valid_until_ms for summary in waived)
    followed.settle()

    analyzer = DriftAnalyzer(controller.state, controller.now_ms)
    for node_id, summary in contents(followed.live.columns).items():
        at = find_node(controller.state, f"nodes/{node_id}")
        assert at is not None
        assert summary is not None
        assert summary.drift_waived == len(analyzer.drift_of(at).waived) == 0


def test_a_million_rows_stay_within_their_memory() -> None:
    columns = NodeColumns()
    columns.reserve(10_000)
    for number in range(10_000):
        columns.put(f"edge-zone-a1-gw-{number:05}", NodeSummary("d", mode=1))
    assert columns.nbytes / 10_000 <= 180
    assert np.count_nonzero(columns.column("present")) == 10_000
