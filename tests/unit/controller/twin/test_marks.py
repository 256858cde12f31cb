from __future__ import annotations

import pytest

from controller.command.targets import resolve
from controller.twin.domain import nodes_in
from controller.twin.marks import LIVES_HERE, NAMES_VALUES, may_be
from federation.state import State
from federation.stored_writes import pack_aspects, unpack_aspects
from federation.table import Aspects
from souverix.command.v1 import command_pb2
from souverix.fleet.v1 import domain_pb2, node_pb2
from tests.federation_fixture import ROOT, root_controller


class Shelf:
    """A store in memory that counts its reads."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._held: dict[tuple[str, str], bytes] = {}
        self.reads = 0

    def cool(self, subject: str, mark: int) -> None:
        self._held[ROOT, subject] = pack_aspects(self._state.table.glance(ROOT, subject))
        assert self._state.table.cool(ROOT, subject, mark)

    def load(self, domain: str, subject: str) -> Aspects:
        raise AssertionError(f"{subject} was made hot")

    def glance(self, domain: str, subject: str) -> Aspects:
        self.reads += 1
        return unpack_aspects(self._held[domain, subject], self._state.decoder)


@pytest.fixture
def shelf() -> Shelf:
    """Ten cold nodes, of which every other one is deleted."""
    root = root_controller()

    def create(proposal: object) -> None:
        for number in range(10):
            for aspect, body in (
                ("placement", node_pb2.Placement(domain=ROOT, epoch=1)),
                ("existence", domain_pb2.Existence(exists=number % 2 == 0)),
            ):
                proposal.write(ROOT, f"nodes/n{number}", aspect, body, principal="a")  # type: ignore[attr-defined]

    root.submit(create)
    shelf = Shelf(root.state)
    root.state.table.attach(shelf)
    for number in range(10):
        shelf.cool(f"nodes/n{number}", LIVES_HERE if number % 2 == 0 else 0)
    return shelf


def test_targets_of_a_domain_are_told_by_their_marks(shelf: Shelf) -> None:
    placed = resolve(shelf._state, ROOT, command_pb2.Targets(domain=ROOT))
    assert placed == {ROOT: ("n0", "n2", "n4", "n6", "n8")}
    assert shelf.reads == 0


def test_nodes_of_a_domain_are_read_once_each_and_stay_cold(shelf: Shelf) -> None:
    assert [at.node_id for at in nodes_in(shelf._state, ROOT)] == ["n0", "n2", "n4", "n6", "n8"]
    assert shelf.reads == 5


def test_hot_node_may_bear_any_mark(shelf: Shelf) -> None:
    assert not may_be(shelf._state, ROOT, "nodes/n0", NAMES_VALUES)
    assert may_be(shelf._state, ROOT, "nodes/n0", LIVES_HERE | NAMES_VALUES)
    assert may_be(shelf._state, ROOT, "nodes/never-met", NAMES_VALUES)
