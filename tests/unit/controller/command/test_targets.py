"""Whom a command is for, and what of it becomes facts."""

from __future__ import annotations

import pytest
from google.protobuf.struct_pb2 import Struct

from controller.command.issuing import (
    MAX_COMMAND_BYTES,
    command_id_of,
    facts_of,
)
from controller.command.targets import (
    MAX_TARGETS,
    delivered_domains,
    delivering_controller,
    resolve,
)
from controller.command.view import preview_of
from federation.errors import InvalidWrite, NotFound, OutOfReach
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.fleet.v1 import domain_pb2, node_pb2
from tests.federation_fixture import (
    ROOT,
    START_MS,
    MemoryController,
    controller_below,
    root_controller,
)


def create(controller: MemoryController, domain: str, *nodes: str, exists: bool = True) -> None:
    def decide(proposal: object) -> None:
        for node in nodes:
            for aspect, body in (
                ("existence", domain_pb2.Existence(exists=exists)),
                ("placement", node_pb2.Placement(domain=domain, epoch=1)),
            ):
                proposal.write(domain, f"nodes/{node}", aspect, body, principal="user:test")  # type: ignore[attr-defined]

    controller.submit(decide)


@pytest.fixture
def root() -> MemoryController:
    """global, with the zone edge-a1 of another controller, and a cluster of that zone without one."""
    root = root_controller()
    controller_below(root, "edge-a1-control", "edge-a1")
    root.declare("cluster-1", "edge-a1")
    create(root, ROOT, "n0")
    create(root, "edge-a1", "n1", "n2")
    create(root, "cluster-1", "n3")
    create(root, "edge-a1", "gone", exists=False)
    return root


def nodes(*ids: str) -> command_pb2.Targets:
    return command_pb2.Targets(nodes=ids)


def within(domain: str, *, subtree: bool = False) -> command_pb2.Targets:
    return command_pb2.Targets(domain=domain, include_subtree=subtree)


def asking(**fields: object) -> command_service_pb2.IssueCommandRequest:
    action = command_pb2.Action(ping=command_pb2.Ping())
    return command_service_pb2.IssueCommandRequest(**{"action": action, **fields})  # type: ignore[arg-type]


def test_the_nearest_controller_on_the_way_up_delivers(root: MemoryController) -> None:
    table = root.state.authority
    assert delivering_controller(table, "cluster-1") == "edge-a1-control"
    assert delivering_controller(table, ROOT) == "global-control"
    assert delivering_controller(table, "nowhere") is None
    assert delivered_domains(table, "edge-a1-control") == {"edge-a1", "cluster-1"}
    assert delivered_domains(table, "global-control") == {ROOT}


def test_a_list_of_nodes_is_sorted_into_their_domains_each_once(root: MemoryController) -> None:
    placed = resolve(root.state, ROOT, nodes("n3", "n1", "n0", "n1"))
    assert placed == {"cluster-1": ("n3",), "edge-a1": ("n1",), ROOT: ("n0",)}


def test_a_domain_means_its_living_nodes_and_its_subtree_if_asked(root: MemoryController) -> None:
    assert resolve(root.state, ROOT, within("edge-a1")) == {"edge-a1": ("n1", "n2")}
    assert resolve(root.state, ROOT, within("edge-a1", subtree=True)) == {
        "edge-a1": ("n1", "n2"),
        "cluster-1": ("n3",),
    }


def test_unknown_and_deleted_nodes_are_all_named(root: MemoryController) -> None:
    with pytest.raises(NotFound, match="gone, n8, n9"):
        resolve(root.state, ROOT, nodes("n1", "n9", "gone", "n8"))


def test_nodes_beyond_the_subtree_are_named_with_where_they_live(root: MemoryController) -> None:
    with pytest.raises(OutOfReach, match=r"n0 \(domain global, controller global-control\)"):
        resolve(root.state, "edge-a1", nodes("n1", "n0"))
    with pytest.raises(OutOfReach, match="issue the command at global-control"):
        resolve(root.state, "edge-a1", within(ROOT))


def test_targets_that_say_nothing_or_two_things_are_refused(root: MemoryController) -> None:
    for targets in (nodes(), command_pb2.Targets(nodes=["n1"], domain="edge-a1")):
        with pytest.raises(InvalidWrite, match="exactly one"):
            resolve(root.state, ROOT, targets)
    with pytest.raises(NotFound, match="nowhere"):
        resolve(root.state, ROOT, within("nowhere"))


def test_a_command_has_at_most_so_many_targets(root: MemoryController) -> None:
    root.declare("big", ROOT)
    create(root, "big", *(f"b{i}" for i in range(MAX_TARGETS + 1)))
    with pytest.raises(InvalidWrite, match="at most 10000"):
        resolve(root.state, ROOT, within("big"))


def test_the_id_is_the_same_for_the_same_request_of_the_same_principal_only() -> None:
    ids = {command_id_of(*p) for p in (("user:a", "r"), ("user:b", "r"), ("user:a", "s"))}
    assert len(ids) == 3
    assert command_id_of("user:a", "r") in ids
    assert command_id_of("user:ar", "") != command_id_of("user:a", "r")


def test_every_domain_gets_its_own_targets_and_the_count_of_all() -> None:
    facts = facts_of(asking(), "c1", {"a": ("n1", "n2"), "b": ("n3",)}, "me", START_MS)
    assert [list(f.nodes) for f in facts.values()] == [["n1", "n2"], ["n3"]]
    assert {f.total_targets for f in facts.values()} == {3}
    assert facts["a"].semantics == command_pb2.DELIVERY_SEMANTICS_AT_LEAST_ONCE
    assert facts["a"].expire_time.seconds - facts["a"].issue_time.seconds == 300
    preview = preview_of(facts, "user:a")
    assert [d.node for d in preview.deliveries] == ["n1", "n2", "n3"]


def test_a_command_that_would_not_fit_into_a_commit_is_refused() -> None:
    document = Struct()
    document.update({"x": "y" * 60_000})
    action = command_pb2.Action(apply_config=command_pb2.ApplyConfig(document=document))
    many = {f"d{i}": ("n1",) for i in range(MAX_COMMAND_BYTES // 60_000 + 1)}
    with pytest.raises(InvalidWrite, match="in parts"):
        facts_of(asking(action=action), "c1", many, "me", START_MS)
    long_ids = tuple(f"n{i:062d}" for i in range(5_000))
    with pytest.raises(InvalidWrite, match="in parts"):
        facts_of(asking(), "c1", {"a": long_ids}, "me", START_MS)
