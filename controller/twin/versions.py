"""Versions of components, and how much it matters that one differs from another. Owns the reading of version texts and
the table of severities; knows no node.

A version is read as "[component-][v]major[.minor[.patch]][-prerelease][+build]" (Semantic Versioning 2.0, with parts
that may be left out); any other text is compared as it is.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from souverix.fleet.v1 import drift_pb2

#: Digits of one number: more is no version anybody counts by, and costs time to convert.
MAX_DIGITS = 18

_VERSION = re.compile(
    r"(?:(?P<component>[A-Za-z][A-Za-z0-9_.-]*?)-)?v?"
    rf"(?P<major>\d{{1,{MAX_DIGITS}}})(?:\.(?P<minor>\d{{1,{MAX_DIGITS}}}))?"
    rf"(?:\.(?P<patch>\d{{1,{MAX_DIGITS}}}))?"
    r"(?:-(?P<prerelease>[0-9A-Za-z.-]+))?(?:\+(?P<build>[0-9A-Za-z.-]+))?",
    re.ASCII,
)

Precedence = tuple[int, int, str]


class Version(NamedTuple):
    """A version as read. Parts left out are zero or empty."""

    component: str
    release: tuple[int, int, int]
    prerelease: str
    build: str


class VersionDifference(NamedTuple):
    """What it means that a node runs another version than it should."""

    severity: drift_pb2.DriftSeverity
    #: A short stable word (docs/drift.md).
    impact: str


def read_version(text: str) -> Version | None:
    """The version a text spells; None for one that cannot be ordered."""
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        return None
    release = (int(found["major"]), int(found["minor"] or 0), int(found["patch"] or 0))
    return Version(
        found["component"] or "", release, found["prerelease"] or "", found["build"] or ""
    )


def component_of(*texts: str) -> str:
    """The first component that one of the version texts names; empty when none does."""
    versions = map(read_version, texts)
    return next((each.component for each in versions if each is not None and each.component), "")


def version_difference(desired: str, actual: str) -> VersionDifference | None:
    """How much an actual version differs from the desired one; None when it is the one that is desired.

    A component or a build counts only where both versions, or the desired one, name it.
    """
    if desired.strip() == actual.strip():
        return None
    wanted, found = read_version(desired), read_version(actual)
    if wanted is None or found is None:
        return VersionDifference(drift_pb2.DRIFT_SEVERITY_MEDIUM, "other_version")
    if wanted.component and found.component and wanted.component != found.component:
        return VersionDifference(drift_pb2.DRIFT_SEVERITY_HIGH, "other_component")
    if wanted.release != found.release:
        return _release_difference(wanted.release, found.release)
    if wanted.prerelease != found.prerelease:
        newer = prerelease_key(found.prerelease) > prerelease_key(wanted.prerelease)
        impact = "ahead_of_desired" if newer else "prerelease"
        return VersionDifference(drift_pb2.DRIFT_SEVERITY_LOW, impact)
    if wanted.build and wanted.build != found.build:
        return VersionDifference(drift_pb2.DRIFT_SEVERITY_LOW, "other_build")
    return None


def _release_difference(
    wanted: tuple[int, int, int], found: tuple[int, int, int]
) -> VersionDifference:
    if found > wanted:
        if found[0] > wanted[0]:
            return VersionDifference(drift_pb2.DRIFT_SEVERITY_MEDIUM, "ahead_of_desired")
        return VersionDifference(drift_pb2.DRIFT_SEVERITY_LOW, "ahead_of_desired")
    if found[0] < wanted[0]:
        return VersionDifference(drift_pb2.DRIFT_SEVERITY_HIGH, "missing_major_release")
    if found[1] < wanted[1]:
        return VersionDifference(drift_pb2.DRIFT_SEVERITY_MEDIUM, "missing_minor_release")
    return VersionDifference(drift_pb2.DRIFT_SEVERITY_MEDIUM, "missing_security_patch")


def prerelease_key(prerelease: str) -> tuple[bool, list[Precedence]]:
    """Orders pre-releases: none comes last, numbers before words, fewer parts before more."""
    parts = prerelease.split(".") if prerelease else []
    return not parts, [
        (0, int(part), "") if part.isdecimal() and len(part) <= MAX_DIGITS else (1, 0, part)
        for part in parts
    ]
