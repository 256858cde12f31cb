"""A storm of returns: nobody comes early, everyone comes, and the rate stays what it is."""

from __future__ import annotations

import heapq
import random

from controller.nodelink.admission import BURST_S, JITTER_S, KEPT_S, MAX_WAIT_S, Admission, Calendar


def storm(nodes: int, per_s: float, late: float = 0.2) -> dict[str, float]:
    """When each of many nodes is let in that all ask at once; each comes back when told, up to a fifth late."""
    chance = random.Random(1)
    calendar = Calendar(per_s, nodes, chance.random)
    asking = [(chance.random(), f"n{number}") for number in range(nodes)]
    heapq.heapify(asking)
    admitted: dict[str, float] = {}
    while asking:
        now_s, node = heapq.heappop(asking)
        wait_s = calendar.ask(node, now_s)
        if wait_s == 0:
            admitted[node] = now_s
        else:
            heapq.heappush(asking, (now_s + wait_s * (1 + late * chance.random()), node))
    assert calendar.kept == 0
    return admitted


def test_everyone_comes_in_and_the_peak_is_no_more_than_thrice_the_mean() -> None:
    admitted = storm(10_000, 100.0)
    assert len(admitted) == 10_000
    seconds = [0] * (int(max(admitted.values())) + 1)
    for at_s in admitted.values():
        seconds[int(at_s)] += 1
    mean = len(admitted) / len(seconds)
    assert max(seconds) <= 3 * mean
    assert max(seconds) <= 100.0 * (1 + BURST_S)


def test_the_wait_is_bounded_by_the_place_in_the_line() -> None:
    nodes, per_s = 2_000, 50.0
    admitted = storm(nodes, per_s)
    assert max(admitted.values()) <= (nodes / per_s + JITTER_S + 1) * 1.2 + 1


def test_few_come_in_at_once() -> None:
    calendar = Calendar(100.0, 10, lambda: 0.5)
    assert [calendar.ask(f"n{number}", 5.0) for number in range(50)] == [0.0] * 50
    assert calendar.ask("n50", 5.0) == 0.0
    assert calendar.ask("n51", 5.0) > 0


def test_who_comes_early_is_told_the_rest_and_keeps_its_place() -> None:
    calendar = Calendar(1.0, 10, lambda: 0.0)
    assert calendar.ask("n0", 0.0) == 0.0
    while calendar.ask("first", 0.0) == 0.0:
        pass
    wait_s = calendar.ask("first", 0.0)
    calendar.ask("second", 0.0)
    assert calendar.ask("first", 0.25) == wait_s - 0.25
    assert calendar.ask("first", wait_s) == 0.0


def test_a_place_that_is_missed_for_long_is_given_up_and_one_missed_a_little_is_not() -> None:
    calendar = Calendar(1.0, 10, lambda: 0.0)
    for number in range(5):
        calendar.ask(f"n{number}", 0.0)
    kept = calendar.kept
    assert kept > 0
    assert calendar.ask("n4", KEPT_S) == 0.0
    calendar.ask("other", 1000.0)
    assert calendar.kept == 0


def test_places_beyond_the_bound_are_named_and_not_kept() -> None:
    calendar = Calendar(0.001, 1, lambda: 0.0)
    waits = [calendar.ask(f"n{number}", 0.0) for number in range(4)]
    assert calendar.kept == 1
    assert waits[-1] == MAX_WAIT_S


def test_nodes_without_a_backlog_do_not_wait_for_those_with_one() -> None:
    admission = Admission(1.0, 100.0, 100, lambda: 0.0)
    for number in range(20):
        admission.ask(f"b{number}", is_behind=True, now_s=0.0)
    assert admission.deferred > 10
    assert admission.ask("level", is_behind=False, now_s=0.0) == 0.0
