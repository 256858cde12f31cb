"""How large the commits of a log are, as far as they were seen. Owns the sizes alone; a reader asks it how many commits
make a page of so many bytes, since etcd bounds a range by the number of keys only.
"""

from __future__ import annotations

from array import array

MOST_FITTING = 4096
"""Commits in one page, however small: beyond it a page gains nothing over its round trip."""


class CommitSizes:
    """Sizes of consecutive commits: four bytes each, 40 MB for ten million."""

    __slots__ = ("_first", "_sizes")

    def __init__(self) -> None:
        self._first = 0
        self._sizes = array("I")

    def note(self, offset: int, size: int) -> None:
        """Takes note of a commit. One that does not follow those known begins anew."""
        end = self._first + len(self._sizes)
        if offset == end:
            self._sizes.append(size)
        elif not self._first <= offset < end:
            self._first = offset
            self._sizes = array("I", (size,))

    def forget(self) -> None:
        """Sizes were wrong: another log stands there now."""
        self._sizes = array("I")

    def fitting(self, first_offset: int, max_bytes: int) -> int:
        """How many commits from an offset on come to at most `max_bytes`, at least one; 0 when that is not known."""
        at = first_offset - self._first
        if not 0 <= at < len(self._sizes):
            return 0
        count = left = 0
        for size in self._sizes[at : at + MOST_FITTING]:
            left += size
            if left > max_bytes:
                break
            count += 1
        return max(1, count)
