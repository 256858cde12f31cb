from __future__ import annotations

import pytest

from federation.codec import Write
from federation.errors import CorruptStore
from federation.identifiers import Key, Origin
from federation.scan import Scan
from federation.table import Aspects, Table
from tests.federation_fixture import MemoryController, root_controller

ZONE = "edge-a1"
NODE = "nodes/n1"
SPEC = Key(ZONE, NODE, "node_spec")


def write(number: int, aspect: str = "node_spec") -> Write:
    origin = Origin("edge-a1-control", 1)
    return Write(origin, number, number, NODE, aspect, (), (1,), "", "user:a", False, (), b"")


class Shelf:
    """A store in memory that counts its reads."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Aspects] = {}
        self.loads = 0
        self.glances = 0

    def load(self, domain: str, subject: str) -> Aspects:
        self.loads += 1
        return dict(self.held[domain, subject])

    def glance(self, domain: str, subject: str) -> Aspects:
        self.glances += 1
        return dict(self.held[domain, subject])


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def table(shelf: Shelf) -> Table:
    table = Table()
    table.attach(shelf)
    return table


def put(table: Table, *writes: Write) -> None:
    for each in writes:
        table.aspects_to_change(ZONE, each.subject)[each.aspect] = (each,)


def store(table: Table, shelf: Shelf) -> None:
    shelf.held[ZONE, NODE] = dict(table.glance(ZONE, NODE))


def test_key_that_was_never_written_has_no_siblings(table: Table) -> None:
    assert table.siblings(SPEC) == ()
    put(table, write(1, "lifecycle"))
    assert table.siblings(SPEC) == ()
    assert table.glance(ZONE, "nodes/n2") == {}


def test_cooled_subject_is_read_from_the_store_once_and_hot_again(
    table: Table, shelf: Shelf
) -> None:
    put(table, write(1), write(2, "lifecycle"))
    store(table, shelf)
    assert table.mark(ZONE, NODE) is None
    assert table.cool(ZONE, NODE, mark=5)
    assert table.hot(ZONE, NODE) is None
    assert table.mark(ZONE, NODE) == 5

    assert table.siblings(SPEC) == (write(1),)
    assert table.siblings(SPEC._replace(aspect="lifecycle")) == (write(2, "lifecycle"),)
    assert shelf.loads == 1


def test_write_to_a_cold_subject_meets_what_was_there(table: Table, shelf: Shelf) -> None:
    put(table, write(1))
    store(table, shelf)
    table.cool(ZONE, NODE)
    assert table.aspects_to_change(ZONE, NODE) == {"node_spec": (write(1),)}
    assert list(table.subjects[ZONE, "nodes"]) == [NODE]


def test_glances_and_scans_leave_a_cold_subject_cold(table: Table, shelf: Shelf) -> None:
    put(table, write(1))
    store(table, shelf)
    table.cool(ZONE, NODE)
    assert dict(table.items()) == {SPEC: (write(1),)}
    assert table.hot(ZONE, NODE) is None
    assert shelf.loads == 0


def test_contested_subject_stays_hot(table: Table, shelf: Shelf) -> None:
    table.aspects_to_change(ZONE, NODE)["node_spec"] = (write(1), write(2))
    store(table, shelf)
    assert not table.cool(ZONE, NODE)
    assert table.siblings(SPEC) == (write(1), write(2))
    assert shelf.loads == 0


def test_subject_that_was_never_met_cannot_be_cooled(table: Table) -> None:
    assert not table.cool(ZONE, NODE)
    put(table, write(1))
    assert not table.cool("region-a", NODE)


def test_without_a_store_a_cooled_subject_is_reported_as_lost() -> None:
    table = Table()
    table.put_cold(ZONE, NODE)
    with pytest.raises(CorruptStore, match="nodes/n1 of edge-a1 was cooled"):
        table.siblings(SPEC)


def test_subjects_taken_in_by_name_are_indexed_like_written_ones(
    table: Table, shelf: Shelf
) -> None:
    table.put_cold(ZONE, NODE)
    table.put_cold(ZONE, NODE)
    table.put_cold("region-a", NODE)
    table.put_cold("region-a", "policies/p1")
    shelf.held[ZONE, NODE] = {"node_spec": (write(3),)}
    assert table.subjects == {
        (ZONE, "nodes"): [NODE],
        ("region-a", "nodes"): [NODE],
        ("region-a", "policies"): ["policies/p1"],
    }
    assert table.domains_of_subject[NODE] == (ZONE, "region-a")
    assert table.siblings(SPEC) == (write(3),)


def test_subjects_of_equal_domains_share_their_tuple(table: Table) -> None:
    for number in range(3):
        for domain in ("region-a", ZONE):
            table.put_cold(domain, f"nodes/n{number}")
    assert len({id(domains) for domains in table.domains_of_subject.values()}) == 1


def test_scan_reads_cold_subjects_once_each_and_hot_ones_as_they_are() -> None:
    root: MemoryController = root_controller()
    root.write_policy("global", "v1")
    root.write_policy("global", "v2", subject="policies/p2")
    key = Key("global", "policies/p1", "policy")
    shelf = Shelf()
    root.state.table.attach(shelf)
    shelf.held["global", "policies/p1"] = dict(root.state.table.glance("global", "policies/p1"))
    assert root.state.table.cool("global", "policies/p1")

    scan = Scan(root.state)
    for _ in range(2):
        winner = scan.winner(key)
        assert winner is not None
        assert winner.body().version == "v1"
    assert scan.siblings(key) == (winner,)
    assert scan.winner(key._replace(aspect="node_spec")) is None
    hot = scan.winner(key._replace(subject="policies/p2"))
    assert hot is not None
    assert hot.body().version == "v2"
    assert (shelf.loads, shelf.glances) == (0, 1)
