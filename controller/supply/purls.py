"""Package URLs and ranges of versions. Owns what makes two of them the same package, and the judgement whether a
version lies in a range; an unknown scheme of versions is never judged.

A package is type, namespace and name; qualifiers and subpath are left aside. Ranges are `vers` URIs (purl-spec VERS) or
the constraints alone, "<1.2.3" or ">=1.0|<1.2.3", in the scheme that goes with the package's type.
"""

from __future__ import annotations

import enum
import functools
from typing import Any, Final, NamedTuple

from packageurl import PackageURL

#: Longest package URL that is read.
MAX_PURL_BYTES: Final = 1024

#: Longest range, and most constraints in it.
MAX_RANGE_BYTES: Final = 1024
MAX_CONSTRAINTS: Final = 64

#: Longest version compared: comparison of some schemes takes longer than its length says.
MAX_VERSION_BYTES: Final = 128

#: Scheme of versions of a package type, where the type's own name is not one.
_SCHEMES: Final = {"rubygems": "gem", "packagist": "composer", "alpine": "apk", "arch": "alpm"}

#: Schemes that compare nothing, or whatever they are given: a package whose versions they would order has no known one.
_NO_SCHEMES: Final = frozenset({"generic", "all", "none", "lexicographic", "datetime", "intdot"})

#: Judgements kept: those of one query over all versions of a package.
JUDGED_KEPT: Final = 65_536


class Package(NamedTuple):
    """What a version is of."""

    type: str
    namespace: str
    name: str

    def purl(self, version: str = "") -> str:
        """The package URL."""
        return PackageURL(self.type, self.namespace or None, self.name, version or None).to_string()


class Purl(NamedTuple):
    """A package URL as read. The version is empty where none is given."""

    package: Package
    version: str


class InRange(enum.Enum):
    """Whether a version lies in a range."""

    YES = "YES"
    NO = "NO"
    #: It cannot be told: the scheme of versions is not known, or the version is none of its scheme.
    UNKNOWN = "UNKNOWN"


class BadRange(ValueError):
    """The caller must change the range."""


@functools.lru_cache(JUDGED_KEPT)
def read_purl(text: str) -> Purl | None:
    """The package URL a text spells; None for a text that is none."""
    if not text or len(text) > MAX_PURL_BYTES:
        return None
    try:
        found = PackageURL.from_string(text)
    except ValueError:
        return None
    package = Package(found.type, found.namespace or "", found.name)
    return Purl(package, found.version or "")


class VersionRange:
    """A range of the versions of packages of one type."""

    def __init__(self, range_: Any, scheme: str, *, is_all: bool = False) -> None:
        self._range = range_
        self._is_all = is_all
        self.scheme = scheme

    @property
    def is_known(self) -> bool:
        """Tells whether versions of this scheme can be compared at all."""
        return self._range is not None or self._is_all

    def judge(self, version: str) -> InRange:
        """Whether a version lies in it."""
        if self._is_all:
            return InRange.YES
        if self._range is None or not version or len(version) > MAX_VERSION_BYTES:
            return InRange.UNKNOWN
        # Comparison of what a stranger wrote may fail in as many ways as there are schemes.
        try:
            found = self._range.version_class(version) in self._range
        except Exception:  # noqa: BLE001
            return InRange.UNKNOWN
        return InRange.YES if found else InRange.NO


def read_range(text: str, package: Package) -> VersionRange:
    """The range a text spells, for a package. Raises `BadRange`.

    No text at all, and "*", mean every version. A scheme that is not known here is no error: nothing can be told of any
    version then.
    """
    text = "".join(text.split())
    if text in ("", "*"):
        return VersionRange(None, package.type, is_all=True)
    if len(text) > MAX_RANGE_BYTES or not text.isascii():
        raise BadRange(f"a range is at most {MAX_RANGE_BYTES} ASCII characters, such as '<1.2.3'")
    # Compared versions are what takes long to load.
    from univers.version_range import RANGE_CLASS_BY_SCHEMES

    scheme = _SCHEMES.get(package.type, package.type)
    constraints = text
    if text.lower().startswith("vers:"):
        scheme, slash, constraints = text[len("vers:") :].partition("/")
        scheme = scheme.lower()
        if not slash or not scheme:
            raise BadRange(f"{text[:80]!r} is no vers URI, such as 'vers:deb/<1.2.3'")
    if constraints.count("|") + constraints.count(",") >= MAX_CONSTRAINTS:
        raise BadRange(f"a range holds at most {MAX_CONSTRAINTS} constraints")
    if constraints == "*":
        return VersionRange(None, scheme, is_all=True)
    if scheme in _NO_SCHEMES or scheme not in RANGE_CLASS_BY_SCHEMES:
        return VersionRange(None, scheme)
    canonical = f"vers:{scheme}/{constraints.replace(',', '|')}"
    kind: Any = RANGE_CLASS_BY_SCHEMES[scheme]
    try:
        found = kind.from_string(canonical)
    except Exception as error:
        raise BadRange(
            f"{text[:80]!r} is no range of {scheme} versions: {str(error)[:160]}"
        ) from error
    if not found.constraints:
        raise BadRange(f"{text[:80]!r} holds no constraint")
    return VersionRange(found, scheme)
