"""What the table finds: each evidence, hysteresis, and the sweep against a model of one node at a time."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from controller.connectivity.due import MIN_VISITS, OVERDUE_INTERVALS
from controller.connectivity.measurements import Change, Gone
from controller.connectivity.spectrum import TRANSITIONS, Evidence, Mode
from controller.connectivity.table import (
    FIRST_ROWS,
    INTERVAL_WEIGHT,
    RTT_WEIGHT,
    ConnectivityTable,
)
from controller.connectivity.thresholds import Thresholds

LOST = Gone("connection_lost", "the stream broke")
LIMITS = Thresholds(
    delayed_rtt_s=1.0,
    live_rtt_share=0.7,
    rtt_settle_s=10.0,
    autonomous_after_s=10.0,
    disconnected_after_s=1000.0,
    steady_after_s=60.0,
    replay_backlog=4,
)


def linked_table(waiting: int = 0, now_s: float = 0.0) -> ConnectivityTable:
    table = ConnectivityTable(LIMITS)
    table.linked("n1", "zone", waiting, now_s)
    return table


def mode_of(table: ConnectivityTable, node: str = "n1", now_s: float = 0.0) -> Mode:
    measured = table.measured(node, now_s)
    assert measured is not None
    return measured.mode


def heartbeats(table: ConnectivityTable, rtt_s: float, first_s: float, last_s: float) -> None:
    now_s = first_s
    while now_s <= last_s:
        table.heard("n1", rtt_s, 0, now_s)
        table.sweep(now_s)
        now_s += 2.0


def visit(table: ConnectivityTable, at_s: float, stay_s: float = 5.0) -> list[Change]:
    """One short visit, swept every second until the grace after it is over."""
    changes = [table.linked("n1", "zone", 0, at_s)]
    table.unlinked("n1", LOST, at_s + stay_s, stopped=False)
    for second in range(int(stay_s) + int(LIMITS.autonomous_after_s) + 2):
        changes += table.sweep(at_s + second) if second > stay_s else []
    return [change for change in changes if change is not None]


def test_a_node_never_heard_is_not_measured() -> None:
    table = ConnectivityTable(LIMITS)
    table.heard("n1", 0.1, 0, 1.0)
    assert table.measured("n1", 1.0) is None
    assert table.arrived("n1", 1, 1.0) is None
    assert table.reconciled("n1", 1.0) is None
    assert table.unlinked("n1", LOST, 1.0, stopped=True) is None
    assert table.sweep(1.0) == []


def test_long_round_trips_make_it_delayed_once_they_have_settled() -> None:
    table = linked_table()
    heartbeats(table, 5.0, 1.0, 10.0)
    assert mode_of(table) is Mode.LIVE
    heartbeats(table, 5.0, 11.0, 15.0)
    assert mode_of(table) is Mode.DELAYED
    heartbeats(table, 0.05, 16.0, 80.0)
    assert mode_of(table) is Mode.LIVE


def test_a_link_that_is_gone_counts_as_lost_after_the_grace_with_its_cause() -> None:
    table = linked_table()
    table.unlinked("n1", LOST, 100.0, stopped=False)
    assert table.sweep(109.9) == []
    (change,) = table.sweep(110.0)
    assert (change.before, change.mode, change.reason) == (
        Mode.LIVE,
        Mode.AUTONOMOUS,
        "connection_lost",
    )
    assert "the stream broke" in change.evidence
    assert "limit 10 s" in change.evidence
    assert change.last_seen_s == 0.0
    assert table.sweep(111.0) == []


def test_silence_beyond_what_a_node_is_trusted_for_makes_it_disconnected() -> None:
    table = linked_table()
    table.unlinked("n1", LOST, 0.0, stopped=False)
    table.sweep(10.0)
    assert table.sweep(999.0) == []
    (change,) = table.sweep(1000.0)
    assert (change.mode, change.reason) == (Mode.DISCONNECTED, "silent_too_long")


def test_an_agents_own_word_counts_at_once() -> None:
    table = linked_table()
    gone = Gone("agent_stopped", "the host is shut down")
    change = table.unlinked("n1", gone, 5.0, stopped=True)
    assert change is not None
    assert (change.mode, change.reason, change.evidence) == (
        Mode.DISCONNECTED,
        "agent_stopped",
        "the host is shut down",
    )


def test_a_return_with_a_backlog_is_replayed_with_its_progress_rate_and_end() -> None:
    table = linked_table()
    table.unlinked("n1", LOST, 0.0, stopped=False)
    table.sweep(10.0)
    back = table.linked("n1", "zone", 100, 50.0)
    assert back is not None
    assert (back.mode, back.reason, back.backlog) == (Mode.RETURNING, "connection_detected", 100)
    table.replay_begins("n1", 51.0)
    first = table.arrived("n1", 10, 52.0)
    assert first is not None
    assert (first.mode, first.reason) == (Mode.REPLAYING, "replay_started")
    table.replay_begins("n1", 53.0)
    assert table.arrived("n1", 40, 55.0) is None
    table.durable("n1", 40, 55.0)
    measured = table.measured("n1", 55.0)
    assert measured is not None
    assert (measured.replay_total, measured.replay_done, measured.backlog) == (100, 40, 60)
    assert measured.replay_per_s == 10.0
    assert table.arrived("n1", 100, 60.0) is None
    table.durable("n1", 60, 61.0)
    last = table.reconciled("n1", 61.0)
    assert last is not None
    assert (last.mode, last.reason, last.backlog) == (Mode.LIVE, "replay_completed", 0)
    assert "all 100 reports are in effect, 10.0 s after" in last.evidence


def test_a_small_backlog_is_no_replay() -> None:
    table = linked_table()
    table.unlinked("n1", LOST, 0.0, stopped=False)
    table.sweep(10.0)
    back = table.linked("n1", "zone", LIMITS.replay_backlog - 1, 50.0)
    assert back is not None
    assert back.mode is Mode.LIVE
    assert table.arrived("n1", 3, 51.0) is None
    assert table.reconciled("n1", 51.0) is None


def test_a_replay_whose_link_breaks_goes_on_over_the_next() -> None:
    table = linked_table(100)
    table.arrived("n1", 40, 1.0)
    table.unlinked("n1", LOST, 2.0, stopped=False)
    assert table.linked("n1", "zone", 60, 3.0) is None
    assert mode_of(table) is Mode.REPLAYING
    last = table.reconciled("n1", 4.0)
    assert last is not None
    assert last.mode is Mode.LIVE


def test_a_replay_that_ended_while_the_link_was_away_is_complete_at_the_next() -> None:
    table = linked_table(100)
    table.arrived("n1", 99, 1.0)
    table.unlinked("n1", LOST, 2.0, stopped=False)
    change = table.linked("n1", "zone", 0, 3.0)
    assert change is not None
    assert (change.mode, change.reason) == (Mode.LIVE, "replay_completed")


def test_a_node_that_comes_by_at_intervals_is_edge_cached_and_expected() -> None:
    table = ConnectivityTable(LIMITS)
    for number in range(MIN_VISITS):
        changes = visit(table, number * 100.0)
    assert (changes[-1].mode, changes[-1].interval_s) == (Mode.EDGE_CACHED, 100.0)
    measured = table.measured("n1", 250.0)
    assert measured is not None
    assert (measured.interval_s, measured.expected_s) == (100.0, 300.0)
    assert [visit(table, number * 100.0) for number in range(MIN_VISITS, 10)] == [[]] * 7


def test_a_visit_that_does_not_come_ends_the_pattern() -> None:
    table = ConnectivityTable(LIMITS)
    for number in range(MIN_VISITS):
        visit(table, number * 100.0)
    left_s = (MIN_VISITS - 1) * 100.0 + 5.0
    assert table.sweep(left_s + OVERDUE_INTERVALS * 100.0 - 1) == []
    (change,) = table.sweep(left_s + OVERDUE_INTERVALS * 100.0)
    assert (change.mode, change.reason) == (Mode.AUTONOMOUS, "contact_overdue")


def test_an_edge_cached_node_that_stays_is_live_and_its_visits_are_forgotten() -> None:
    table = ConnectivityTable(LIMITS)
    for number in range(MIN_VISITS):
        visit(table, number * 100.0)
    assert table.linked("n1", "zone", 0, 300.0) is None
    assert table.sweep(359.0) == []
    (change,) = table.sweep(360.0)
    assert (change.mode, change.reason) == (Mode.LIVE, "link_steady")
    table.unlinked("n1", LOST, 370.0, stopped=False)
    (lost,) = table.sweep(380.0)
    assert lost.mode is Mode.AUTONOMOUS


def test_a_domain_has_thresholds_of_its_own() -> None:
    table = ConnectivityTable(LIMITS, {"moon": Thresholds(autonomous_after_s=100.0)})
    for node, domain in (("n1", "zone"), ("n2", "moon")):
        table.linked(node, domain, 0, 0.0)
        table.unlinked(node, LOST, 0.0, stopped=False)
    assert [c.node for c in table.sweep(50.0)] == ["n1"]
    assert [c.node for c in table.sweep(100.0)] == ["n2"]


def test_what_was_recorded_before_goes_on_and_gets_time_to_come_back() -> None:
    table = ConnectivityTable(LIMITS)
    gone = Gone("not_back_after_change_of_master", "no link since")
    table.known("n1", "zone", Mode.LIVE, None, None, 30.0, gone)
    assert table.sweep(29.0) == []
    (change,) = table.sweep(30.0)
    assert change.reason == "not_back_after_change_of_master"


def test_an_interval_that_was_recorded_before_counts_on() -> None:
    table = ConnectivityTable(LIMITS)
    table.known("n1", "zone", Mode.EDGE_CACHED, 0.0, 100.0, 30.0, LOST)
    assert table.sweep(219.0) == []
    (change,) = table.sweep(220.0)
    assert change.reason == "contact_overdue"


def test_a_link_that_takes_anothers_place_is_no_visit() -> None:
    table = linked_table()
    for second in range(1, 10):
        assert table.linked("n1", "zone", 0, float(second)) is None
    table.unlinked("n1", LOST, 10.0, stopped=False)
    (change,) = table.sweep(20.0)
    assert change.mode is Mode.AUTONOMOUS


def test_rows_grow_and_are_used_again() -> None:
    table = ConnectivityTable(LIMITS)
    for number in range(FIRST_ROWS * 3):
        table.linked(f"n{number}", "zone", 0, 0.0)
    table.forget("n7")
    assert "n7" not in table
    table.linked("fresh", "zone", 0, 1.0)
    assert mode_of(table, "fresh") is Mode.LIVE
    assert len(table) == FIRST_ROWS * 3
    assert len(table._columns["mode"]) == FIRST_ROWS * 4
    table.forget("n7")


# Hysteresis.


@given(st.lists(st.floats(0.1, 9.9), min_size=1, max_size=60), st.floats(0.01, 5.0))
def test_a_link_that_flaps_faster_than_the_grace_changes_nothing(
    gaps_s: list[float], stay_s: float
) -> None:
    table = linked_table()
    now_s = 1.0
    for gap_s in gaps_s:
        table.unlinked("n1", LOST, now_s, stopped=False)
        assert table.sweep(now_s + gap_s * 0.99) == []
        now_s += gap_s
        assert table.linked("n1", "zone", 0, now_s) is None
        assert table.sweep(now_s) == []
        now_s += stay_s
    assert mode_of(table) is Mode.LIVE


@given(st.floats(10.5, 300.0), st.floats(0.1, 50.0), st.integers(5, 30))
def test_a_link_that_flaps_slowly_and_steadily_settles(
    gap_s: float, stay_s: float, rounds: int
) -> None:
    table = linked_table()
    now_s, changes = 0.0, []
    for _ in range(rounds):
        now_s += stay_s
        table.unlinked("n1", LOST, now_s, stopped=False)
        changes += table.sweep(now_s + gap_s)
        now_s += gap_s
        back = table.linked("n1", "zone", 0, now_s)
        changes += [back] if back is not None else []
    # Lost and back for the visits that make the pattern, then EDGE_CACHED for good.
    assert len(changes) <= 2 * MIN_VISITS
    assert changes[-1].mode is Mode.EDGE_CACHED


@given(st.lists(st.floats(0.71, 0.99), min_size=1, max_size=100), st.booleans())
def test_round_trips_between_both_lines_change_nothing(rtts_s: list[float], long: bool) -> None:
    table = linked_table()
    heartbeats(table, 5.0 if long else 0.8, 1.0, 40.0)
    before = mode_of(table)
    assert before is (Mode.DELAYED if long else Mode.LIVE)
    if long:
        heartbeats(table, 0.85, 42.0, 42.0)
    now_s = 44.0
    for rtt_s in rtts_s:
        table._columns["rtt"][0] = rtt_s
        assert table.sweep(now_s) == []
        now_s += 2.0


@given(st.lists(st.booleans(), min_size=10, max_size=80))
def test_round_trips_that_swing_across_a_line_move_it_no_faster_than_they_settle(
    swings: list[bool],
) -> None:
    table = linked_table()
    moved_s = [0.0]
    for number, high in enumerate(swings):
        now_s = 2.0 * number
        table._columns["rtt"][0] = 5.0 if high else 0.1
        moved_s += [change.at_s for change in table.sweep(now_s)]
    assert all(b - a >= LIMITS.rtt_settle_s for a, b in itertools.pairwise(moved_s))


# The sweep against a model.


@dataclass
class Model:
    """One node by plain arithmetic."""

    mode: Mode = Mode.UNKNOWN
    linked_s: float | None = None
    left_s: float | None = None
    seen_s: float = 0.0
    rtt_s: float | None = None
    turned_s: float | None = None
    visit_s: float | None = None
    interval_s: float | None = None
    visits: int = 0
    history: list[tuple[Mode, float]] = field(default_factory=list)

    def move(self, evidence: Evidence, now_s: float) -> None:
        edge = TRANSITIONS.get((self.mode, evidence))
        if edge is None:
            return
        self.mode, self.turned_s = edge.to, None
        if evidence is Evidence.STEADY:
            self.visits, self.interval_s, self.visit_s = 0, None, None
        self.history.append((edge.to, now_s))

    def link(self, now_s: float) -> None:
        if self.left_s is None or now_s - self.left_s >= LIMITS.autonomous_after_s:
            if self.visit_s is not None:
                gap_s = now_s - self.visit_s
                held = self.interval_s
                self.interval_s = gap_s if held is None else held + INTERVAL_WEIGHT * (gap_s - held)
            self.visit_s, self.visits = now_s, self.visits + 1
        self.linked_s, self.left_s, self.seen_s, self.turned_s = now_s, None, now_s, None
        self.move(Evidence.LINKED, now_s)

    def hear(self, rtt_s: float, now_s: float) -> None:
        self.seen_s = now_s
        self.rtt_s = rtt_s if self.rtt_s is None else self.rtt_s + RTT_WEIGHT * (rtt_s - self.rtt_s)

    def leave(self, now_s: float, stopped: bool) -> None:
        assert self.linked_s is not None
        if now_s - self.linked_s >= LIMITS.steady_after_s:
            self.visits, self.interval_s, self.visit_s = 0, None, None
        self.linked_s, self.left_s, self.turned_s = None, now_s, None
        if stopped:
            self.move(Evidence.STOPPED, now_s)

    def sweep(self, now_s: float) -> None:
        if self.linked_s is None:
            self._sweep_absent(now_s)
        else:
            self._sweep_linked(now_s)

    def _sweep_absent(self, now_s: float) -> None:
        absent_s = now_s - self.left_s if self.left_s is not None else math.nan
        if self.mode in (Mode.LIVE, Mode.DELAYED) and absent_s >= LIMITS.autonomous_after_s:
            pattern = self.visits >= MIN_VISITS
            self.move(Evidence.VISITS if pattern else Evidence.LOST, now_s)
        elif self.mode is Mode.EDGE_CACHED:
            limit_s = LIMITS.autonomous_after_s
            if self.interval_s is not None:
                limit_s = OVERDUE_INTERVALS * self.interval_s
            if absent_s >= limit_s:
                self.move(Evidence.VISIT_OVERDUE, now_s)
        elif self.mode is Mode.AUTONOMOUS and now_s - self.seen_s >= LIMITS.disconnected_after_s:
            self.move(Evidence.SILENT_TOO_LONG, now_s)

    def _sweep_linked(self, now_s: float) -> None:
        assert self.linked_s is not None
        if self.mode is Mode.EDGE_CACHED:
            if now_s - self.linked_s >= LIMITS.steady_after_s:
                self.move(Evidence.STEADY, now_s)
            return
        rtt_s = self.rtt_s if self.rtt_s is not None else math.nan
        long = self.mode is Mode.LIVE and rtt_s > LIMITS.delayed_rtt_s
        line_s = LIMITS.delayed_rtt_s * LIMITS.live_rtt_share
        short = self.mode is Mode.DELAYED and rtt_s < line_s
        if not long and not short:
            self.turned_s = None
            return
        self.turned_s = now_s if self.turned_s is None else self.turned_s
        if now_s - self.turned_s >= LIMITS.rtt_settle_s:
            self.move(Evidence.ROUND_TRIP_LONG if long else Evidence.ROUND_TRIP_SHORT, now_s)


STEP = st.tuples(
    st.sampled_from(["link", "leave", "stop", "hear", "wait"]),
    st.integers(0, 3),
    st.sampled_from([0.05, 0.8, 6.0]),
    st.sampled_from([0.0, 1.0, 7.0, 20.0, 70.0, 600.0]),
)


@given(st.lists(STEP, max_size=120))
def test_the_sweep_finds_what_a_model_of_one_node_at_a_time_finds(
    steps: list[tuple[str, int, float, float]],
) -> None:
    table = ConnectivityTable(LIMITS)
    models = [Model() for _ in range(4)]
    seen: list[list[tuple[Mode, float]]] = [[] for _ in models]
    now_s = 0.0

    def take(changes: list[Change | None]) -> None:
        for change in changes:
            if change is not None:
                seen[int(change.node[1:])].append((change.mode, change.at_s))

    for action, number, rtt_s, wait_s in steps:
        node, model = f"n{number}", models[number]
        linked = model.linked_s is not None
        if action == "link" and not linked:
            model.link(now_s)
            take([table.linked(node, "zone", 0, now_s)])
        elif action in ("leave", "stop") and linked:
            model.leave(now_s, action == "stop")
            gone = Gone("agent_stopped" if action == "stop" else "connection_lost", "")
            take([table.unlinked(node, gone, now_s, stopped=action == "stop")])
        elif action == "hear" and linked:
            model.hear(rtt_s, now_s)
            table.heard(node, rtt_s, 0, now_s)
        now_s += wait_s
        for each in models:
            each.sweep(now_s)
        take(list(table.sweep(now_s)))
    assert seen == [model.history for model in models]
