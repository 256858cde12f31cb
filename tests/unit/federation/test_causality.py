from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.causality import EMPTY, covers, join
from federation.identifiers import Dot, Origin

A, B = Origin("a", 1), Origin("b", 1)

dots = st.builds(
    Dot, st.builds(Origin, st.sampled_from("abc"), st.integers(1, 2)), st.integers(1, 9)
)
contexts = st.lists(dots, max_size=4).map(lambda ds: join([(EMPTY, d) for d in ds]))


def test_context_covers_its_numbers_and_all_below() -> None:
    context = (Dot(A, 3),)
    assert covers(context, Dot(A, 3))
    assert covers(context, Dot(A, 1))
    assert not covers(context, Dot(A, 4))


def test_context_says_nothing_of_other_origins_or_incarnations() -> None:
    context = (Dot(A, 3),)
    assert not covers(context, Dot(B, 1))
    assert not covers(context, Dot(Origin("a", 2), 1))
    assert not covers(EMPTY, Dot(A, 1))


@given(st.lists(st.tuples(contexts, dots), max_size=5))
def test_join_covers_exactly_what_any_part_covers(seen: list[tuple[tuple[Dot, ...], Dot]]) -> None:
    joined = join(seen)
    for origin in {dot.origin for context, own in seen for dot in (*context, own)}:
        for sequence in range(1, 12):
            dot = Dot(origin, sequence)
            expected = any(
                covers((*context, own), dot) or covers((own,), dot) for context, own in seen
            )
            assert covers(joined, dot) == expected


@given(st.lists(st.tuples(contexts, dots), max_size=5))
def test_join_is_sorted_and_names_an_origin_once(seen: list[tuple[tuple[Dot, ...], Dot]]) -> None:
    joined = join(seen)
    assert list(joined) == sorted(joined)
    assert len({dot.origin for dot in joined}) == len(joined)
