from __future__ import annotations

import json

from nodeagent.packages import (
    CHUNK_BYTES,
    DebianPackage,
    Packages,
    PythonPackage,
    cut,
    packages_value,
    parse_dpkg_status,
)

STATUS = """\
Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2
Description: a shell
 Version: 9.9 in a description is not a version
 .
Conffiles:
 /etc/skel/.bashrc 1f98b8f3f3c8f8927eca945d59dcc1c6

PACKAGE: held
status: hold ok installed
version: 1:2.0~rc1+dfsg-1
architecture: all
Source: held-src (1.9)

Package: removed
Status: deinstall ok config-files
Version: 1
Architecture: all

Package: half
Status: install reinstreq half-installed
Version: 1

Package: no-version
Status: install ok installed

Status: install ok installed
Version: 3

\t
no colon here
Package: twice
Package: ignored
Status: install ok installed
Version: 1

Package: no-status
Version: 1


Package: last
Status: install ok installed
Version: 0.1"""


def test_only_installed_packages_of_sound_stanzas_count() -> None:
    assert parse_dpkg_status(STATUS.split("\n")) == [
        DebianPackage("bash", "amd64", "5.2.15-2"),
        DebianPackage("held", "all", "1:2.0~rc1+dfsg-1", "held-src"),
        DebianPackage("last", "", "0.1"),
        DebianPackage("twice", "", "1"),
    ]


def test_line_ends_and_repeated_stanzas_do_not_matter() -> None:
    doubled = (STATUS + "\n\n" + STATUS).replace("\n", "\r\n")
    assert parse_dpkg_status(doubled.splitlines(keepends=True)) == parse_dpkg_status(
        STATUS.splitlines()
    )


def test_an_empty_or_foreign_file_gives_nothing() -> None:
    assert parse_dpkg_status([]) == []
    assert parse_dpkg_status(["\x00\x01", " : : ", ":", "{}", ""]) == []


def test_the_list_is_one_canonical_document_named_by_its_digest() -> None:
    packages = Packages((DebianPackage("a", "all", "1"),), (PythonPackage("b", "2"),))
    value = packages_value(packages)
    assert value is not None
    assert list(value.chunks) == [value.reference.digest]
    assert json.loads(value.chunks[value.reference.digest]) == {
        "debian": [{"architecture": "all", "name": "a", "version": "1"}],
        "python": [{"name": "b", "version": "2"}],
    }
    assert value == packages_value(packages)


def test_a_long_list_is_cut_into_chunks_that_join_again() -> None:
    content = bytes(range(256)) * (CHUNK_BYTES // 100)
    value = cut(content, "packages", "application/json")
    listed = [value.chunks[chunk.digest] for chunk in value.reference.chunks]
    assert b"".join(listed) == content
    assert [chunk.size_bytes for chunk in value.reference.chunks] == [len(part) for part in listed]
    assert value.reference.size_bytes == len(content)
    assert max(map(len, listed)) == CHUNK_BYTES


def test_an_unreasonable_list_is_left_out() -> None:
    packages = Packages(tuple(DebianPackage(f"p{n}", "all", "1" * 900_000) for n in range(20)))
    assert packages_value(packages) is None
