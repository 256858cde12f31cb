from __future__ import annotations

import pytest

from controller.supply.purls import BadRange, InRange, Package, read_purl, read_range

OPENSSL = Package("deb", "debian", "openssl")


def test_qualifiers_do_not_tell_packages_apart() -> None:
    purl = read_purl("pkg:deb/debian/openssl@3.0.11-1~deb12u2?arch=amd64#docs")
    assert purl is not None
    assert (purl.package, purl.version) == (OPENSSL, "3.0.11-1~deb12u2")


def test_names_are_as_their_type_has_them() -> None:
    assert read_purl("pkg:pypi/Foo_Bar@1") == read_purl("pkg:PYPI/foo-bar@1")


@pytest.mark.parametrize("text", ["", "openssl", "http://a/b", "pkg:deb", "pkg:" + "x" * 2000])
def test_what_is_no_package_url_is_none(text: str) -> None:
    assert read_purl(text) is None


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("<3.0.11-1~deb12u2", "3.0.11-1~deb12u1", "3.0.11-1~deb12u2"),
        ("< 1:1.0", "9.9", "2:0.1"),
        (">=1.0|<1.2", "1.1~rc1-1", "1.2"),
        (">=1.0,<1.2", "1.0", "0.9"),
        ("vers:deb/<2", "1.9", "2.0+b1"),
        ("=1.0", "1.0", "1.0-1"),
    ],
)
def test_ranges_follow_the_scheme_of_the_type(text: str, inside: str, outside: str) -> None:
    range_ = read_range(text, OPENSSL)
    assert (range_.judge(inside), range_.judge(outside)) == (InRange.YES, InRange.NO)


def test_every_version_is_in_the_range_of_all() -> None:
    for text in ("", "*", "vers:deb/*", "vers:bogus/*"):
        assert read_range(text, Package("unheard-of", "", "x")).judge("odd one") is InRange.YES


@pytest.mark.parametrize("kind", ["generic", "oci", "unheard-of"])
def test_unknown_scheme_is_unknown_and_never_outside(kind: str) -> None:
    range_ = read_range("<1", Package(kind, "", "x"))
    assert not range_.is_known
    assert range_.judge("2") is InRange.UNKNOWN


def test_version_that_is_none_of_its_scheme_is_unknown() -> None:
    range_ = read_range("<2", Package("pypi", "", "x"))
    assert range_.judge("not a version") is InRange.UNKNOWN
    assert range_.judge("1" * 1000) is InRange.UNKNOWN
    assert range_.judge("") is InRange.UNKNOWN


@pytest.mark.parametrize(
    "text", ["<<1", "vers:deb", "vers:/<1", "<1|" * 65 + "<1", "<" + "1" * 2000, "<é", "|", "<"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(BadRange):
        read_range(text, OPENSSL)
