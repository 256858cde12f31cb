"""What a mark speaks for: one occurrence, as bad and as large as it was, until it is taken back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.attention.conditions import Cause, Kind, Severity, item_id
from controller.attention.marks import (
    MAX_SNOOZE_S,
    MarkState,
    acknowledgement,
    check_reason,
    check_snooze,
    ending,
    reopening,
    snooze,
    state_of,
)
from controller.attention.queue import Item
from federation.errors import InvalidWrite, WrongState
from souverix.attention.v1 import attention_pb2

NOW_MS = 1_800_000_000_000
CAUSE = Cause(Kind.NODE_DISCONNECTED, "edge-a1", "nodes/n1")
ITEM = Item(
    item_id(CAUSE), *CAUSE, Severity.MEDIUM, NOW_MS - 60_000, "words", "souverixctl x", 1.0, 1
)
GROUP = replace(ITEM, subject="domains/edge-a1", nodes=10, examples=("nodes/n1", "nodes/n2"))
SEEN = acknowledgement(ITEM, "on it", NOW_MS)
OPEN, ACKNOWLEDGED, SNOOZED = MarkState.OPEN, MarkState.ACKNOWLEDGED, MarkState.SNOOZED


def test_an_item_without_a_mark_is_open() -> None:
    assert state_of(None, ITEM, NOW_MS) is OPEN


def test_a_mark_speaks_for_its_occurrence_only() -> None:
    assert state_of(SEEN, ITEM, NOW_MS) is ACKNOWLEDGED
    assert state_of(SEEN, replace(ITEM, since_ms=NOW_MS), NOW_MS) is OPEN


def test_a_mark_does_not_speak_for_what_became_worse_or_much_larger() -> None:
    assert state_of(SEEN, replace(ITEM, severity=Severity.HIGH), NOW_MS) is OPEN
    assert state_of(SEEN, replace(ITEM, severity=Severity.LOW), NOW_MS) is ACKNOWLEDGED
    group = acknowledgement(GROUP, "power cut", NOW_MS)
    assert state_of(group, replace(GROUP, nodes=19), NOW_MS) is ACKNOWLEDGED
    assert state_of(group, replace(GROUP, nodes=20), NOW_MS) is OPEN


def test_a_mark_on_many_lasts_while_one_of_them_is_still_in_trouble() -> None:
    group = acknowledgement(GROUP, "power cut", NOW_MS)
    assert state_of(group, replace(GROUP, since_ms=NOW_MS), NOW_MS) is ACKNOWLEDGED
    assert state_of(group, replace(GROUP, since_ms=NOW_MS + 1), NOW_MS) is OPEN


def test_where_no_fact_dates_the_beginning_a_mark_counts_until_it_is_taken_back() -> None:
    hot = replace(ITEM, kind=Kind.NODE_UNHEALTHY)
    mark = acknowledgement(hot, "fan ordered", NOW_MS)
    assert state_of(mark, replace(hot, since_ms=NOW_MS + 5), NOW_MS) is ACKNOWLEDGED
    assert state_of(ending(mark), hot, NOW_MS) is OPEN


def test_a_snoozed_item_is_open_again_when_its_time_is_over() -> None:
    mark = snooze(ITEM, "tonight", 1000, NOW_MS)
    assert state_of(mark, ITEM, NOW_MS + 999) is SNOOZED
    assert state_of(mark, ITEM, NOW_MS + 1000) is OPEN


def test_a_mark_is_taken_back_once() -> None:
    mark = reopening(ITEM, SEEN, "wrong node", NOW_MS)
    assert state_of(mark, ITEM, NOW_MS) is OPEN
    for held in (None, mark, ending(SEEN)):
        with pytest.raises(WrongState):
            reopening(ITEM, held, "", NOW_MS)


def test_a_mark_keeps_what_it_was_made_for() -> None:
    assert (SEEN.kind, SEEN.subject) == (
        attention_pb2.ATTENTION_KIND_NODE_DISCONNECTED,
        "nodes/n1",
    )
    assert SEEN.occurrence_time.ToMilliseconds() == ITEM.since_ms
    assert (ending(SEEN).kind, ending(SEEN).subject) == (SEEN.kind, SEEN.subject)


@pytest.mark.parametrize("span_ms", [0, -1, MAX_SNOOZE_S * 1000 + 1])
def test_a_snooze_has_bounds(span_ms: int) -> None:
    with pytest.raises(InvalidWrite):
        check_snooze(span_ms)


def test_a_mark_says_why() -> None:
    with pytest.raises(InvalidWrite):
        check_reason("")
