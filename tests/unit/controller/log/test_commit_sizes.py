from __future__ import annotations

from controller.log.commit_sizes import MOST_FITTING, CommitSizes


def noted(first: int, *sizes: int) -> CommitSizes:
    known = CommitSizes()
    for offset, size in enumerate(sizes, first):
        known.note(offset, size)
    return known


def test_as_many_commits_fit_as_their_sizes_allow() -> None:
    assert noted(0, 10, 20, 30, 40).fitting(1, 50) == 2
    assert noted(0, 10, 20, 30, 40).fitting(0, 1000) == 4


def test_one_commit_fits_however_large_it_is() -> None:
    assert noted(0, 10, 2000).fitting(1, 100) == 1


def test_no_more_fit_than_a_page_takes() -> None:
    assert noted(0, *[1] * (MOST_FITTING + 1)).fitting(0, 1 << 20) == MOST_FITTING


def test_sizes_that_were_not_seen_are_not_known() -> None:
    known = noted(5, 10, 20)
    assert [known.fitting(offset, 100) for offset in (4, 5, 6, 7)] == [0, 2, 1, 0]


def test_a_commit_noted_again_changes_nothing() -> None:
    known = noted(5, 10, 20)
    known.note(5, 99)
    assert known.fitting(5, 30) == 2


def test_a_commit_far_from_those_known_begins_anew() -> None:
    known = noted(5, 10, 20)
    known.note(9, 7)
    assert [known.fitting(offset, 100) for offset in (5, 9)] == [0, 1]


def test_what_is_forgotten_is_not_known() -> None:
    known = noted(0, 10, 20)
    known.forget()
    assert known.fitting(0, 100) == 0
    known.note(0, 5)
    assert known.fitting(0, 100) == 1
