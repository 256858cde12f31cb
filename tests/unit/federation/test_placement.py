from __future__ import annotations

import pytest

from federation.errors import NotFound
from federation.identifiers import Key
from federation.merge import rivals_of
from federation.placement import (
    carry_late_writes,
    common_ancestor,
    late_writes,
    move_node,
    moved_away,
)
from federation.proposal import Proposal
from souverix.fleet.v1 import domain_pb2, node_pb2
from tests.federation_fixture import ROOT, MemoryController, controller_below, root_controller

NODE = "nodes/n1"
OLD = "edge-a1"
NEW = "edge-a2"


class Fleet:
    """A root and two zones below it; a node lives in the first."""

    def __init__(self) -> None:
        self.root = root_controller()
        self.old = controller_below(self.root, "edge-a1-control", OLD)
        self.new = controller_below(self.root, "edge-a2-control", NEW)
        self.old.submit(create)
        self.root.receive_from(self.old)

    def move(self) -> node_pb2.Placement:
        return self.root.submit(
            lambda p: move_node(p, NODE, OLD, NEW, principal="user:alice", request_id="move-1")
        )


def create(proposal: Proposal) -> None:
    for aspect, body in (
        ("existence", domain_pb2.Existence(exists=True)),
        ("placement", node_pb2.Placement(domain=OLD, epoch=1)),
        ("node_spec", node_pb2.NodeSpec(display_name="one")),
        ("desired_state", node_pb2.DesiredState(target_version="v1")),
    ):
        proposal.write(
            OLD, NODE, aspect, body, principal="user:alice", request_id=f"create-{aspect}"
        )


def set_version(controller: MemoryController, version: str, domain: str = OLD) -> None:
    controller.submit(
        lambda p: p.write(
            domain,
            NODE,
            "desired_state",
            node_pb2.DesiredState(target_version=version),
            principal="user:bob",
            request_id=f"set-{version}",
        )
    )


def versions(controller: MemoryController, domain: str) -> set[str]:
    siblings = controller.state.siblings(Key(domain, NODE, "desired_state"))
    return {write.body().target_version for write in siblings}


def test_common_ancestor_is_the_nearest_domain_that_holds_both() -> None:
    root = root_controller()
    region = controller_below(root, "region-a-control", "region-a")
    region.declare("edge-a1", "region-a")
    region.declare("edge-a2", "region-a")
    table = region.state.authority

    assert common_ancestor(table, "edge-a1", "edge-a2") == "region-a"
    assert common_ancestor(table, "edge-a1", "region-a") == "region-a"
    assert common_ancestor(table, "edge-a1", ROOT) == ROOT
    with pytest.raises(NotFound):
        common_ancestor(table, "edge-a1", "nowhere")


def test_move_writes_the_next_epoch_into_both_domains() -> None:
    fleet = Fleet()

    placement = fleet.move()

    assert (placement.domain, placement.epoch, placement.moved_from_domain) == (NEW, 2, OLD)
    for domain in (OLD, NEW):
        winner = fleet.root.state.winner(Key(domain, NODE, "placement"))
        assert winner is not None
        assert winner.body() == placement


def test_moved_event_keeps_stamp_request_and_writer_and_names_no_old_number_in_its_context() -> (
    None
):
    fleet = Fleet()
    before = fleet.root.state.winner(Key(OLD, NODE, "desired_state"))
    fleet.move()
    after = fleet.root.state.winner(Key(NEW, NODE, "desired_state"))
    assert before is not None
    assert after is not None

    assert after.body() == before.body()
    assert (after.stamp, after.request_id, after.principal) == (
        before.stamp,
        before.request_id,
        before.principal,
    )
    assert after.context == ()
    assert after.term == fleet.root.state.authority.term_of(NEW)
    moved_from = after.event().moved_from
    assert moved_from.domain == OLD
    assert (moved_from.dot.controller, moved_from.dot.sequence) == (
        before.origin.controller,
        before.sequence,
    )


def test_every_sibling_is_carried_over_beside_the_others() -> None:
    fleet = Fleet()
    set_version(fleet.old, "v2")
    set_version(fleet.root, "v3")
    fleet.root.receive_from(fleet.old)
    assert versions(fleet.root, OLD) == {"v2", "v3"}

    fleet.move()

    assert versions(fleet.root, NEW) == {"v2", "v3"}
    key = Key(NEW, NODE, "desired_state")
    rivals = rivals_of(key, fleet.root.state.siblings(key), fleet.root.state.rank)
    assert len(rivals) == 2


def test_node_that_returns_supersedes_what_it_left_behind() -> None:
    fleet = Fleet()
    fleet.move()
    set_version(fleet.root, "v9", NEW)

    fleet.root.submit(lambda p: move_node(p, NODE, NEW, OLD, principal="user:alice"))

    assert versions(fleet.root, OLD) == {"v9"}
    winner = fleet.root.state.winner(Key(OLD, NODE, "placement"))
    assert winner is not None
    assert (winner.body().domain, winner.body().epoch) == (OLD, 3)


def test_move_takes_effect_in_both_zones() -> None:
    fleet = Fleet()
    fleet.move()
    fleet.old.receive_from(fleet.root)
    fleet.new.receive_from(fleet.root)

    assert versions(fleet.new, NEW) == {"v1"}
    winner = fleet.old.state.winner(Key(OLD, NODE, "placement"))
    assert winner is not None
    assert winner.body().domain == NEW
    assert not any(s.quarantine_reason for s in fleet.new.state.streams.values())


def test_what_stood_at_the_move_is_not_late() -> None:
    fleet = Fleet()
    fleet.move()

    assert late_writes(fleet.root.state, fleet.root.name, NODE) == []
    assert [d for d, _ in moved_away(fleet.root.state, fleet.root.name, NODE)] == [OLD]


def test_late_write_that_saw_what_was_moved_supersedes_it_in_the_new_domain() -> None:
    fleet = Fleet()
    fleet.move()
    set_version(fleet.old, "v2-late")
    fleet.root.receive_from(fleet.old)

    carried = fleet.root.submit(lambda p: carry_late_writes(p, NODE))

    assert carried == 1
    assert versions(fleet.root, NEW) == {"v2-late"}


def test_late_write_stands_beside_what_its_writer_had_not_seen() -> None:
    fleet = Fleet()
    fleet.move()
    set_version(fleet.root, "v5", NEW)
    set_version(fleet.old, "v2-late")
    fleet.root.receive_from(fleet.old)

    fleet.root.submit(lambda p: carry_late_writes(p, NODE))

    assert versions(fleet.root, NEW) == {"v5", "v2-late"}


def test_late_write_is_carried_once_even_after_it_was_superseded() -> None:
    fleet = Fleet()
    fleet.move()
    set_version(fleet.old, "v2-late")
    fleet.root.receive_from(fleet.old)
    fleet.root.submit(lambda p: carry_late_writes(p, NODE))
    set_version(fleet.root, "v6", NEW)

    carried = fleet.root.submit(lambda p: carry_late_writes(p, NODE))

    assert carried == 0
    assert versions(fleet.root, NEW) == {"v6"}


def test_late_deletion_reaches_the_node_in_its_new_domain() -> None:
    fleet = Fleet()
    fleet.move()
    fleet.old.submit(
        lambda p: p.write(
            OLD, NODE, "existence", domain_pb2.Existence(exists=False), principal="user:bob"
        )
    )
    fleet.root.receive_from(fleet.old)

    fleet.root.submit(lambda p: carry_late_writes(p, NODE))

    winner = fleet.root.state.winner(Key(NEW, NODE, "existence"))
    assert winner is not None
    assert not winner.body().exists


def test_only_the_mover_carries_late_writes() -> None:
    fleet = Fleet()
    fleet.move()
    fleet.old.receive_from(fleet.root)
    set_version(fleet.old, "v2-late")

    assert late_writes(fleet.old.state, fleet.old.name, NODE) == []


def test_late_write_follows_a_node_that_moved_on() -> None:
    fleet = Fleet()
    fleet.move()
    fleet.root.declare("edge-a3", ROOT)
    fleet.root.submit(lambda p: move_node(p, NODE, NEW, "edge-a3", principal="user:alice"))
    set_version(fleet.old, "v2-late")
    fleet.root.receive_from(fleet.old)

    while late_writes(fleet.root.state, fleet.root.name, NODE):
        fleet.root.submit(lambda p: carry_late_writes(p, NODE))

    assert versions(fleet.root, "edge-a3") == {"v2-late"}
