"""What becomes one item and what is taken together, what ends, and that neither order nor repetition matters."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.attention import queue as queue_module
from controller.attention.conditions import Cause, Condition, Kind, Severity, item_id
from controller.attention.queue import AttentionQueue, Item

DOMAIN = "edge-a1"
KINDS = (Kind.NODE_DRIFT, Kind.NODE_DISCONNECTED, Kind.NODE_UNHEALTHY)


def condition(
    node: int, since_ms: int = 10, kind: Kind = Kind.NODE_DRIFT, severity: Severity = Severity.LOW
) -> Condition:
    return Condition(
        kind, DOMAIN, f"nodes/n{node:03}", severity, since_ms, f"words of {node}", "souverixctl x"
    )


def put(queue: AttentionQueue, *conditions: Condition) -> None:
    for each in conditions:
        queue.put(each.subject, [each])
    queue.refresh()


def shown(queue: AttentionQueue) -> list[Item]:
    return sorted(queue.items(), key=lambda item: item.id)


def a_queue(*told: Condition, group_above: int = 3) -> AttentionQueue:
    return AttentionQueue(lambda subject: [c for c in told if c.subject == subject], group_above)


def test_a_condition_is_an_item_until_it_ends() -> None:
    queue = a_queue()
    put(queue, condition(1))
    (item,) = shown(queue)
    assert item.id == item_id(Cause(Kind.NODE_DRIFT, DOMAIN, "nodes/n001"))
    assert (item.words, item.since_ms, item.nodes) == ("words of 1", 10, 1)
    assert queue.stands(condition(1).cause)
    queue.put("nodes/n001", [])
    queue.refresh()
    assert shown(queue) == []
    assert queue.ended_after(0) == [item.id]
    assert not queue.stands(condition(1).cause)


def test_the_same_again_is_no_change_and_another_is() -> None:
    queue = a_queue()
    put(queue, condition(1))
    before = queue.revision
    put(queue, condition(1))
    assert queue.revision == before
    put(queue, condition(1, severity=Severity.HIGH))
    (item,) = shown(queue)
    assert queue.revision_of(item.id) > before


def test_many_are_one_item_dated_by_the_oldest_and_as_bad_as_the_worst() -> None:
    queue = a_queue()
    put(queue, *(condition(n, 100 - n) for n in range(8)))
    put(queue, condition(8, 500, severity=Severity.CRITICAL))
    (group,) = shown(queue)
    assert (group.subject, group.nodes, group.severity) == (
        f"domains/{DOMAIN}",
        9,
        Severity.CRITICAL,
    )
    assert group.since_ms == 93
    assert group.examples == tuple(f"nodes/n{n:03}" for n in (7, 6, 5, 4, 3))
    assert "9 nodes of edge-a1 drift" in group.words
    assert queue.stands(condition(4).cause)


def test_members_come_and_go_without_making_the_group_wrong() -> None:
    queue = a_queue()
    for _ in range(60):
        put(queue, *(condition(n, 100 + n) for n in range(6)))
        put(queue, condition(0, 50))
        (group,) = shown(queue)
        assert (group.since_ms, group.examples[0]) == (50, "nodes/n000")
    queue.put("nodes/n000", [])
    queue.refresh()
    (group,) = shown(queue)
    assert (group.since_ms, group.nodes) == (101, 5)


def test_a_group_that_shrinks_is_told_one_by_one_again() -> None:
    told = [condition(n, 10 + n) for n in range(5)]
    queue = a_queue(*told)
    put(queue, *told)
    assert len(shown(queue)) == 1
    for node in (0, 1):
        queue.put(f"nodes/n{node:03}", [])
    queue.refresh()
    assert sorted(item.words for item in shown(queue)) == ["words of 2", "words of 3", "words of 4"]


def test_what_cannot_be_told_again_keeps_its_words() -> None:
    links = [
        Condition(
            Kind.NODE_SYNC_DEBT,
            DOMAIN,
            f"nodes/n{n}",
            Severity.LOW,
            n,
            f"debt {n}",
            "souverixctl x",
        )
        for n in range(5)
    ]
    queue = a_queue()
    queue.put("links", links)
    queue.refresh()
    queue.put("links", links[:2])
    queue.refresh()
    assert sorted(item.words for item in shown(queue)) == ["debt 0", "debt 1"]


def test_what_no_fact_dates_keeps_the_time_it_was_first_seen() -> None:
    queue = a_queue()
    put(queue, condition(1, 10, Kind.NODE_UNHEALTHY))
    put(queue, condition(1, 900, Kind.NODE_UNHEALTHY))
    assert [item.since_ms for item in queue.items()] == [10]
    put(queue, condition(2, 10), condition(2, 900))
    assert [i.since_ms for i in queue.items() if i.kind is Kind.NODE_DRIFT] == [900]


def test_a_node_that_moves_takes_its_item_along() -> None:
    queue = a_queue()
    put(queue, condition(1))
    moved = Condition(
        Kind.NODE_DRIFT, "edge-a2", "nodes/n001", Severity.LOW, 10, "words", "souverixctl x"
    )
    put(queue, moved)
    assert [item.domain for item in queue.items()] == ["edge-a2"]


def test_ended_items_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "MAX_ENDED", 2)
    queue = a_queue()
    for node in range(4):
        put(queue, condition(node))
        queue.put(f"nodes/n{node:03}", [])
        queue.refresh()
    assert len(queue.ended_after(0)) == 2
    assert 0 < queue.forgotten_revision < queue.revision


steps = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.sampled_from([None, *KINDS]),
        st.integers(0, 50),
        st.sampled_from(Severity),
    ),
    max_size=60,
)


@given(steps, st.randoms(use_true_random=False))
def test_items_depend_on_the_last_word_of_each_source_alone(
    history: list[tuple[int, Kind | None, int, Severity]], chance: random.Random
) -> None:
    """Lived through, rebuilt from what stands, in whatever order: the same items, but for what no fact dates."""
    last: dict[str, list[Condition]] = {}
    told: dict[str, list[Condition]] = {}
    live = AttentionQueue(lambda subject: told.get(subject, []), 3)
    for node, kind, since_ms, severity in history:
        subject = f"nodes/n{node:03}"
        found = [condition(node, since_ms, kind, severity)] if kind is not None else []
        told[subject] = last[subject] = found
        live.put(subject, found)
        if chance.random() < 0.5:
            live.refresh()
    live.refresh()
    rebuilt = AttentionQueue(lambda subject: told.get(subject, []), 3)
    order = list(last)
    chance.shuffle(order)
    for subject in order:
        rebuilt.put(subject, last[subject])
    rebuilt.refresh()

    def dated(queue: AttentionQueue) -> list[Item]:
        return [item for item in shown(queue) if item.kind is not Kind.NODE_UNHEALTHY]

    assert dated(live) == dated(rebuilt)
    undated = [Kind.NODE_UNHEALTHY]
    assert [(i.id, i.nodes) for i in shown(live) if i.kind in undated] == [
        (i.id, i.nodes) for i in shown(rebuilt) if i.kind in undated
    ]
