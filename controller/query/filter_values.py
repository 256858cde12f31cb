"""What the values of a filter's comparisons stand for: times, durations, patterns, versions. Owns how each is read and
compared with one held value; knows no field and no column.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from controller.twin.versions import Version, prerelease_key, read_version

Test = Callable[[Any], bool]

ORDERINGS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

#: Longest duration: every unit once, with more digits than a time has.
MAX_DURATION_LENGTH: Final = 64

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def time_of(text: str) -> tuple[int, bool] | None:
    """Milliseconds since the epoch of a time as RFC 3339 writes it, and whether it lies between them and the next; None
    when it is no time.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    offset = "+00:00" if found[4] in "zZ" else found[4]
    try:
        whole = datetime.fromisoformat(f"{found[1]}T{found[2]}{offset}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    nanoseconds = int((found[3] or "").ljust(9, "0"))
    milliseconds = int(whole.timestamp()) * 1000 + nanoseconds // 1_000_000
    return milliseconds, nanoseconds % 1_000_000 > 0


def duration_of(text: str) -> float | None:
    """Milliseconds of a duration such as 1h30m; None when it is none."""
    if len(text) > MAX_DURATION_LENGTH or not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNIT_MS[unit] for number, unit in _DURATION_PART.findall(text))


def text_test(value: str, sign: str) -> Test:
    """Whether a text is as the comparison says; `*` stands for anything unless texts are ordered."""
    compare = ORDERINGS.get(sign)
    if compare is not None:
        return lambda held: bool(compare(held, value))
    if "*" in value:
        return _pattern_test(value.split("*"))
    return lambda held: bool(held == value)


def _pattern_test(pieces: list[str]) -> Test:
    """Whether a text consists of these pieces with anything between: searched one after the other, so that many
    wildcards cost no more than one. A regular expression would try every way to divide the text among them.
    """
    first, *middle, last = pieces

    def fits(held: str) -> bool:
        if not held.startswith(first):
            return False
        at = len(first)
        for piece in middle:
            place = held.find(piece, at)
            if place < 0:
                return False
            at = place + len(piece)
        return held.endswith(last) and at + len(last) <= len(held)

    return fits


def version_test(text: str, sign: str) -> Test | None:
    """Whether a version is as the comparison says (SemVer precedence, within one component); None when the text is no
    version and only versions are ordered.
    """
    if "*" in text and sign not in ORDERINGS:
        test = text_test(text, "=")

        def fits(held: str) -> bool:
            read = read_version(held)
            return test(held) or (
                read is not None
                and bool(read.component)
                and test(held.strip()[len(read.component) + 1 :])
            )

        return fits
    wanted = read_version(text)
    if wanted is None:
        if sign in ORDERINGS:
            return None
        return lambda held: bool(held == text)
    compare = ORDERINGS.get(sign)

    def holds(held: str) -> bool:
        found = read_version(held)
        if found is None or not _comparable(found, wanted):
            return False
        if compare is not None:
            return bool(compare(_precedence(found), _precedence(wanted)))
        same_build = not wanted.build or wanted.build == found.build
        return same_build and _precedence(found) == _precedence(wanted)

    return holds


def _comparable(one: Version, other: Version) -> bool:
    return not one.component or not other.component or one.component == other.component


def _precedence(version: Version) -> Any:
    return version.release, prerelease_key(version.prerelease)
