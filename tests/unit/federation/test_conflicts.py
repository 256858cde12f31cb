from __future__ import annotations

from federation.codec import Term, Write
from federation.conflicts import (
    MAX_RECORDED_VALUES_BYTES,
    ConflictLedger,
    DueConflict,
    conflict_record,
    is_resolved_by,
    resolves_of,
)
from federation.identifiers import Dot, Key, Origin
from federation.merge import conflict_id_of

KEY = Key("edge-a1", "policies/p1", "policy")
ORIGINS = {name: Origin(name, 1) for name in "abcr"}


def write(name: str, *, resolves: str = "", stamp: int = 0, raw: bytes = b"") -> Write:
    dots = tuple(Dot(ORIGINS[n], 1) for n in resolves)
    return Write(
        ORIGINS[name], 1, stamp, KEY.subject, KEY.aspect, dots, (), "", "", False, dots, raw
    )


A, B, C = write("a"), write("b"), write("c")


def rank(_: Key, write: Write) -> tuple[Term, int]:
    return (), write.stamp


def never_here(_: Key, __: Dot) -> bool:
    return False


def id_of(*writes: Write) -> str:
    return conflict_id_of(KEY, tuple(w.dot for w in writes))


def due_ids(ledger: ConflictLedger) -> set[str]:
    return {due.conflict_id for due in ledger.records_due()}


def test_rivals_that_stand_side_by_side_are_due_with_their_values() -> None:
    ledger = ConflictLedger()
    ledger.saw_rivals(KEY, (B, A))
    [due] = ledger.records_due()
    assert (due.key, due.conflict_id, due.dots) == (KEY, id_of(A, B), (A.dot, B.dot))
    assert due.siblings == {A.dot: A, B.dot: B}
    assert ledger.open_keys == {KEY: id_of(A, B)}


def test_conflict_that_is_over_is_open_no_more_and_still_due() -> None:
    ledger = ConflictLedger()
    ledger.saw_rivals(KEY, (A, B))
    ledger.saw_rivals(KEY, ())
    assert ledger.open_keys == {}
    assert due_ids(ledger) == {id_of(A, B)}


def test_recorded_conflict_is_due_no_more_even_when_its_rivals_are_seen_again() -> None:
    ledger = ConflictLedger()
    ledger.saw_rivals(KEY, (A, B))
    ledger.saw_record(id_of(A, B), KEY, C, (A.dot, B.dot))
    ledger.saw_rivals(KEY, (A, B))
    assert ledger.due == {}
    assert ledger.recorded == {id_of(A, B): (KEY, C)}


def test_record_that_came_first_leaves_nothing_due() -> None:
    ledger = ConflictLedger()
    ledger.saw_record(id_of(A, B), KEY, C, (A.dot, B.dot))
    ledger.saw_rivals(KEY, (A, B))
    ledger.saw_resolution(KEY, write("r", resolves="ab"), (), never_here)
    assert ledger.due == {}


def test_record_speaks_for_the_pairs_among_its_siblings() -> None:
    ledger = ConflictLedger()
    ledger.saw_rivals(KEY, (A, B))
    ledger.saw_rivals(KEY, (A, B, C))
    ledger.saw_record(id_of(A, B, C), KEY, write("r"), (A.dot, B.dot, C.dot))
    ledger.saw_rivals(KEY, (A, C))
    assert ledger.due == {}


def test_record_does_not_speak_for_a_sibling_it_does_not_list() -> None:
    ledger = ConflictLedger()
    ledger.saw_record(id_of(A, B), KEY, write("r"), (A.dot, B.dot))
    ledger.saw_rivals(KEY, (A, B, C))
    assert due_ids(ledger) == {id_of(A, B, C)}


def test_record_speaks_for_its_key_only() -> None:
    ledger = ConflictLedger()
    other = KEY._replace(subject="policies/p2")
    ledger.saw_record("x", other, write("r"), (A.dot, B.dot))
    ledger.saw_rivals(KEY, (A, B))
    assert due_ids(ledger) == {id_of(A, B)}


def test_resolution_of_rivals_that_never_stood_here_waits_for_their_values() -> None:
    ledger = ConflictLedger()
    ledger.saw_resolution(KEY, write("r", resolves="ab"), (A,), never_here)
    assert ledger.records_due() == []
    ledger.saw_covered(KEY, B)
    [due] = ledger.records_due()
    assert due.siblings == {A.dot: A, B.dot: B}


def test_several_conflicts_may_wait_for_one_value() -> None:
    ledger = ConflictLedger()
    ledger.saw_resolution(KEY, write("r", resolves="ab"), (B,), never_here)
    ledger.saw_resolution(KEY, write("r", resolves="abc"), (B, C), never_here)
    ledger.saw_covered(KEY, A)
    assert due_ids(ledger) == {id_of(A, B), id_of(A, B, C)}


def test_value_that_was_superseded_here_before_is_not_waited_for() -> None:
    ledger = ConflictLedger()
    ledger.saw_resolution(KEY, write("r", resolves="ab"), (B,), lambda _, dot: dot == A.dot)
    [due] = ledger.records_due()
    assert due.gone == {A.dot}
    record = conflict_record(due, rank, resolved=True)
    assert [(s.controller, s.winner) for s in record.siblings] == [("b", True), ("a", False)]


def test_record_ends_the_waiting_for_values() -> None:
    ledger = ConflictLedger()
    ledger.saw_resolution(KEY, write("r", resolves="ab"), (), never_here)
    ledger.saw_record(id_of(A, B), KEY, C, (A.dot, B.dot))
    ledger.saw_covered(KEY, A)
    ledger.saw_covered(KEY, B)
    assert ledger.due == {}


def test_record_lists_all_siblings_winner_first_with_what_each_counts_for() -> None:
    late, early = write("a", stamp=9, raw=b"late"), write("b", stamp=1, raw=b"early")
    due = DueConflict(KEY, "id", (late.dot, early.dot), {w.dot: w for w in (early, late)})
    record = conflict_record(due, rank, resolved=False)
    assert (record.domain, record.subject, record.aspect) == KEY
    assert [(s.controller, s.effective_stamp, s.event) for s in record.siblings] == [
        ("a", 9, b"late"),
        ("b", 1, b"early"),
    ]
    assert not record.resolved_when_recorded


def test_values_that_are_too_large_together_leave_the_winners_out_first() -> None:
    large = bytes(MAX_RECORDED_VALUES_BYTES // 2 + 1)
    winner, loser = write("a", stamp=9, raw=large), write("b", stamp=1, raw=large)
    due = DueConflict(KEY, "id", (winner.dot, loser.dot), {w.dot: w for w in (winner, loser)})
    record = conflict_record(due, rank, resolved=False)
    assert [len(s.event) for s in record.siblings] == [0, len(large)]


def test_event_resolves_what_it_lists_once_it_has_seen_all_of_it() -> None:
    resolver = write("r", resolves="ab")
    assert resolves_of((B, A)) == (A.dot, B.dot)
    assert is_resolved_by(resolver, (A.dot, B.dot))
    assert not is_resolved_by(resolver, (A.dot, C.dot))
