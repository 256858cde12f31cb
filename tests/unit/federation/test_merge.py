from __future__ import annotations

import functools
import random

from hypothesis import given
from hypothesis import strategies as st

from federation.causality import Context, covers
from federation.codec import Term, Write
from federation.identifiers import Dot, Key, Origin
from federation.merge import (
    Siblings,
    conflict_id_of,
    context_of,
    etag_of,
    merge,
    rivals_of,
    winner_of,
)

KEY = Key("edge-a1", "policies/p1", "policy")
OWN_KEY = Key("edge-a1", "nodes/n1", "actual_state")
A, B, C = (Origin(name, 1) for name in "abc")


def write(
    origin: Origin,
    sequence: int,
    context: Context = (),
    *,
    stamp: int = 0,
    term: Term = (),
    request: tuple[str, str] = ("", ""),
) -> Write:
    principal, request_id = request
    return Write(
        origin,
        sequence,
        stamp,
        KEY.subject,
        KEY.aspect,
        context,
        term,
        request_id,
        principal,
        False,
        (),
        b"",
    )


def rank(_: Key, write: Write) -> tuple[Term, int]:
    return write.term, write.stamp


def folded(writes: list[Write]) -> Siblings:
    return functools.reduce(lambda held, w: merge(held, w), writes, ())


@st.composite
def histories(draw: st.DrawFn) -> list[Write]:
    """Writes as controllers really make them: each sees what has reached it, and numbers its own densely."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    origins = [A, B, C, Origin("a", 2)]
    here: dict[Origin, list[Write]] = {origin: [] for origin in origins}
    made: list[Write] = []
    for _ in range(draw(st.integers(1, 14))):
        origin = chance.choice(origins)
        if made and chance.random() < 0.5:
            source = chance.choice(origins)
            here[origin].extend(w for w in here[source] if w not in here[origin])
        seen = folded(here[origin])
        sequence = 1 + sum(w.origin == origin for w in made)
        fresh = write(
            origin,
            sequence,
            context_of(seen),
            stamp=chance.randrange(4),
            term=(1, chance.randrange(3)),
        )
        here[origin].append(fresh)
        made.append(fresh)
    return made


@given(histories(), st.randoms(use_true_random=False))
def test_siblings_are_the_same_in_whatever_order_and_however_often_writes_come(
    history: list[Write], chance: random.Random
) -> None:
    shuffled = history + chance.choices(history, k=5)
    chance.shuffle(shuffled)
    assert set(folded(shuffled)) == set(folded(history))


@given(histories(), st.integers(0, 14))
def test_merging_merged_parts_is_merging_all(history: list[Write], at: int) -> None:
    left, right = folded(history[:at]), folded(history[at:])
    assert set(folded([*left, *right])) == set(folded(history))


@given(histories())
def test_siblings_are_exactly_the_writes_that_no_other_saw(history: list[Write]) -> None:
    maximal = {w for w in history if not any(covers(o.context, w.dot) for o in history)}
    assert set(folded(history)) == maximal


@given(histories())
def test_merging_again_changes_nothing(history: list[Write]) -> None:
    held = folded(history)
    for again in history:
        assert merge(held, again) is held


@given(histories(), st.randoms(use_true_random=False))
def test_winner_and_etag_do_not_depend_on_order(
    history: list[Write], chance: random.Random
) -> None:
    shuffled = list(history)
    chance.shuffle(shuffled)
    one, other = folded(history), folded(shuffled)
    first, second = winner_of(KEY, one, rank), winner_of(KEY, other, rank)
    assert first == second
    assert etag_of(one, first) == etag_of(other, second)


def test_write_that_saw_another_supersedes_it_whatever_the_clocks_say() -> None:
    first = write(A, 1, stamp=900, term=(9,))
    second = write(B, 1, (Dot(A, 1),), stamp=1, term=(1,))
    assert folded([first, second]) == (second,)
    assert folded([second, first]) == (second,)


def test_write_waits_for_nothing_its_writer_had_seen() -> None:
    late = write(B, 4, (Dot(A, 3), Dot(B, 2)))
    assert merge((), late) == (late,)


def test_winner_goes_by_term_then_time_then_origin_then_number() -> None:
    old_term = write(A, 1, stamp=99, term=(1, 1))
    early = write(A, 2, stamp=5, term=(1, 2))
    late = write(B, 1, stamp=6, term=(1, 2))
    later_origin = write(C, 1, stamp=6, term=(1, 2))
    assert winner_of(KEY, (old_term, early), rank) is early
    assert winner_of(KEY, (late, early), rank) is late
    assert winner_of(KEY, (later_origin, late), rank) is later_origin


def test_rivals_are_the_siblings_of_a_contested_aspect_winner_first() -> None:
    loser, winner = write(A, 1, stamp=1), write(B, 1, stamp=2)
    assert rivals_of(KEY, (loser, winner), rank) == (winner, loser)
    assert rivals_of(KEY, (winner,), rank) == ()


def test_aspect_with_one_writer_is_never_in_conflict() -> None:
    assert rivals_of(OWN_KEY, (write(A, 1), write(B, 1)), rank) == ()


def test_one_request_executed_twice_is_no_conflict() -> None:
    request = ("user:alice", "r1")
    twice = (write(A, 1, request=request, stamp=1), write(B, 1, request=request, stamp=2))
    assert rivals_of(KEY, twice, rank) == ()


def test_one_request_executed_twice_counts_once_against_another_write() -> None:
    request = ("user:alice", "r1")
    older, newer = write(A, 1, request=request, stamp=1), write(B, 1, request=request, stamp=2)
    other = write(C, 1, stamp=3)
    assert rivals_of(KEY, (older, newer, other), rank) == (other, newer)


def test_same_request_id_of_two_principals_is_a_conflict() -> None:
    one = write(A, 1, request=("user:alice", "r1"))
    other = write(B, 1, request=("user:bob", "r1"))
    assert len(rivals_of(KEY, (one, other), rank)) == 2


def test_etag_changes_with_the_siblings_and_with_the_winner() -> None:
    one, other = write(A, 1), write(B, 1)
    etags = {
        etag_of((one,), one),
        etag_of((one, other), one),
        etag_of((one, other), other),
    }
    assert len(etags) == 3


def test_conflict_is_named_by_its_key_and_numbers() -> None:
    dots = (Dot(A, 1), Dot(B, 1))
    named = conflict_id_of(KEY, dots)
    assert named == conflict_id_of(KEY, tuple(reversed(dots)))
    assert named != conflict_id_of(KEY, (Dot(A, 1), Dot(B, 2)))
    assert named != conflict_id_of(KEY._replace(subject="policies/p2"), dots)
