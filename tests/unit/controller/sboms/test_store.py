from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.sboms import store as tables
from controller.sboms.store import SbomStore
from controller.supply.purls import Package, read_range
from controller.supply.sbom import Component, Sbom

OPENSSL = Package("deb", "debian", "openssl")
BASH = Package("deb", "debian", "bash")


def sbom(*components: tuple[Package, str]) -> Sbom:
    held = tuple(sorted(Component(*each) for each in components))
    return Sbom("1.6", held, len(held), 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SbomStore]:
    opened = SbomStore(tmp_path / "sboms.sqlite")
    yield opened
    opened.close()


def affected(store: SbomStore, text: str, package: Package = OPENSSL) -> list[int]:
    return [int(n) for n in store.find(package, read_range(text, package)).affected.nonzero()[0]]


def test_documents_are_found_by_a_range_of_a_component(store: SbomStore) -> None:
    store.add([("a", sbom((OPENSSL, "3.0.9"), (BASH, "5"))), ("b", sbom((OPENSSL, "3.0.11")))])
    store.add([("c", sbom((BASH, "5")))])
    assert affected(store, "<3.0.11") == [0]
    assert affected(store, "*") == [0, 1]
    assert affected(store, "<9", BASH) == [0, 2]
    assert affected(store, "*", Package("pypi", "", "openssl")) == []


def test_a_document_is_taken_in_once(store: SbomStore) -> None:
    first = store.add([("a", sbom((OPENSSL, "1")))])
    again = store.add([("a", sbom((OPENSSL, "1"))), ("a", sbom((OPENSSL, "1")))])
    assert first == again == store.known(["a", "b"])


def test_versions_that_cannot_be_compared_are_told_apart(store: SbomStore) -> None:
    package = Package("pypi", "", "x")
    store.add(
        [("a", sbom((package, "odd one"))), ("b", sbom((package, "odd one"), (package, "1")))]
    )
    found = store.find(package, read_range("<2", package))
    assert found.affected.tolist() == [False, True]
    assert found.unknown.tolist() == [True, False]


def test_refused_documents_have_a_number_and_no_components(store: SbomStore) -> None:
    held = store.add([("bad", "SBOM_INVALID"), ("good", sbom((OPENSSL, "1")))])
    assert held["bad"].reason == "SBOM_INVALID"
    assert affected(store, "*") == [1]


def test_index_agrees_with_a_scan_over_segments_and_lots(
    store: SbomStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SEGMENT", 64)
    monkeypatch.setattr(tables, "MAP_BYTES", 8)
    monkeypatch.setattr(tables, "LIST_MEMBERS", 3)
    chance = random.Random(5)
    packages = [Package("deb", "debian", f"p{n}") for n in range(5)]
    documents = [
        sbom(*{(chance.choice(packages), str(chance.randrange(4))) for _ in range(4)})
        for _ in range(300)
    ]
    numbered = [(f"d{n}", each) for n, each in enumerate(documents)]
    while numbered:
        lot = chance.randint(1, 50)
        store.add(numbered[:lot])
        numbered = numbered[lot:]
    for package in packages:
        for bound in range(5):
            scanned = [
                n
                for n, each in enumerate(documents)
                if any(c.package == package and int(c.version) < bound for c in each.components)
            ]
            assert affected(store, f"<{bound}", package) == scanned


def test_index_is_kept_and_one_of_another_layout_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sboms.sqlite"
    first = SbomStore(path)
    first.add([("a", sbom((OPENSSL, "1")))])
    first.close()
    second = SbomStore(path)
    assert "a" in second.known(["a"])
    second.close()
    monkeypatch.setattr(tables, "LAYOUT", 99)
    third = SbomStore(path)
    assert third.known(["a"]) == {}
    third.close()


def test_a_file_that_is_no_index_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "sboms.sqlite"
    path.write_bytes(b"no database at all" * 100)
    store = SbomStore(path)
    assert store.known(["a"]) == {}
    store.close()


def test_full_index_takes_in_nothing_more(tmp_path: Path) -> None:
    store = SbomStore(tmp_path / "sboms.sqlite", max_bytes=1)
    assert store.add([("a", sbom((OPENSSL, "1")))]) == {}
    store.close()
