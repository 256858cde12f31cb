from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.twin.versions import component_of, read_version, version_difference
from souverix.fleet.v1 import drift_pb2

LOW = drift_pb2.DRIFT_SEVERITY_LOW
MEDIUM = drift_pb2.DRIFT_SEVERITY_MEDIUM
HIGH = drift_pb2.DRIFT_SEVERITY_HIGH

words = st.from_regex(r"[a-z]{1,5}", fullmatch=True)
numbers = st.integers(0, 10**6)
versions = st.builds(
    lambda c, a, b, p, pre, build: (
        f"{c + '-' if c else ''}{a}.{b}.{p}{'-' + pre if pre else ''}{'+' + build if build else ''}"
    ),
    st.none() | words,
    numbers,
    numbers,
    numbers,
    st.none() | words,
    st.none() | words,
)


@pytest.mark.parametrize(
    ("desired", "actual"),
    [
        ("1.4.7", "1.4.7"),
        ("1.4.7", " 1.4.7 "),
        ("1.4.7", "v1.4.7"),
        ("1.4", "1.4.0"),
        ("2", "2.0.0"),
        ("1.4.7", "souverix-rempart-1.4.7"),
        ("souverix-rempart-1.4.7", "1.4.7"),
        ("1.4.7", "1.4.7+build.5"),
        ("1.04.7", "1.4.7"),
        ("nightly", "nightly"),
    ],
)
def test_spellings_of_one_version_do_not_drift(desired: str, actual: str) -> None:
    assert version_difference(desired, actual) is None


@pytest.mark.parametrize(
    ("desired", "actual", "severity", "impact"),
    [
        ("1.4.7", "1.4.6", MEDIUM, "missing_security_patch"),
        ("souverix-1.4.7", "souverix-1.4.6", MEDIUM, "missing_security_patch"),
        ("1.5.0", "1.4.9", MEDIUM, "missing_minor_release"),
        ("2.0.0", "1.9.9", HIGH, "missing_major_release"),
        ("1.4.7", "1.4.10", LOW, "ahead_of_desired"),
        ("1.4.7", "2.0.0", MEDIUM, "ahead_of_desired"),
        ("1.4.7", "1.4.7-rc.1", LOW, "prerelease"),
        ("1.4.7-rc.1", "1.4.7", LOW, "ahead_of_desired"),
        ("1.4.7-rc.10", "1.4.7-rc.9", LOW, "prerelease"),
        ("1.4.7+a", "1.4.7+b", LOW, "other_build"),
        ("rempart-1.4.7", "coeur-1.4.7", HIGH, "other_component"),
        ("nightly", "1.4.7", MEDIUM, "other_version"),
        ("1.4.7", "nightly", MEDIUM, "other_version"),
        (f"1.{'9' * 40}", "1.1", MEDIUM, "other_version"),
    ],
)
def test_severity_and_impact_follow_from_what_is_missing(
    desired: str, actual: str, severity: int, impact: str
) -> None:
    assert version_difference(desired, actual) == (severity, impact)


def test_the_component_is_the_first_one_named() -> None:
    assert component_of("1.4.7", "souverix-rempart-1.4.6") == "souverix-rempart"
    assert component_of("nightly", "1.0") == ""


@given(versions)
def test_a_version_never_differs_from_itself(version: str) -> None:
    assert read_version(version) is not None
    assert version_difference(version, version) is None


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_compared(one: str, other: str) -> None:
    assert version_difference(one, one) is None
    assert (version_difference(one, other) is None) or one != other


@given(numbers, numbers, numbers, numbers, numbers, numbers)
def test_of_two_releases_one_is_behind_and_the_other_ahead(
    a: int, b: int, c: int, d: int, e: int, f: int
) -> None:
    one, other = (
        version_difference(f"{a}.{b}.{c}", f"{d}.{e}.{f}"),
        version_difference(f"{d}.{e}.{f}", f"{a}.{b}.{c}"),
    )
    if (a, b, c) == (d, e, f):
        assert one is None
        assert other is None
        return
    assert one is not None
    assert other is not None
    assert [one.impact, other.impact].count("ahead_of_desired") == 1
