from __future__ import annotations

import pytest

from controller.twin.configuration_hash import configuration_hash
from controller.twin.effective import EffectiveState, effective_state
from souverix.fleet.v1 import domain_pb2, node_pb2
from souverix.policy.v1 import policy_pb2
from tests.federation_fixture import ROOT, MemoryController, root_controller

NODE = "nodes/n1"


@pytest.fixture
def tree() -> MemoryController:
    """The root with a region and a zone below it, all of them its own."""
    root = root_controller()
    root.declare("region-a", ROOT)
    root.declare("edge-a1", "region-a")
    return root


def put_policy(
    tree: MemoryController, domain: str, policy_id: str = "base", **spec: object
) -> None:
    def decide(p: object) -> None:
        for aspect, body in (
            ("existence", domain_pb2.Existence(exists=True)),
            ("policy", policy_pb2.PolicySpec(**spec)),  # type: ignore[arg-type]
        ):
            p.write(domain, f"policies/{policy_id}", aspect, body, principal="user:a")  # type: ignore[attr-defined]

    tree.submit(decide)


def delete_policy(tree: MemoryController, domain: str) -> None:
    gone = domain_pb2.Existence(exists=False)
    tree.submit(lambda p: p.write(domain, "policies/base", "existence", gone, principal="user:a"))


def declare(tree: MemoryController, **desired: object) -> None:
    body = node_pb2.DesiredState(**desired)  # type: ignore[arg-type]
    tree.submit(lambda p: p.write("edge-a1", NODE, "desired_state", body, principal="user:a"))


def tag(tree: MemoryController, *tags: str) -> None:
    spec = node_pb2.NodeSpec(tags=tags)
    tree.submit(lambda p: p.write("edge-a1", NODE, "node_spec", spec, principal="user:a"))


def effective(tree: MemoryController) -> EffectiveState:
    return effective_state(tree.state, "edge-a1", NODE)


def test_nearer_policy_overrides_and_the_farther_fills_in(tree: MemoryController) -> None:
    put_policy(
        tree, ROOT, target_version="v1", constraints=node_pb2.Constraints(requires_online=True)
    )
    put_policy(tree, "region-a", target_version="v2")

    state = effective(tree)

    assert state.desired.target_version == "v2"
    assert state.desired.constraints.requires_online
    assert state.decided_by == {
        "target_version": "domains/region-a/policies/base",
        "constraints": "domains/global/policies/base",
    }


def test_enforced_policy_above_overrides_policies_below_and_the_node(
    tree: MemoryController,
) -> None:
    put_policy(tree, ROOT, target_version="v1", enforced=True)
    put_policy(tree, "region-a", target_version="v2", enforced=True)
    declare(tree, target_version="v3")

    assert effective(tree).desired.target_version == "v1"


def test_nodes_own_declaration_is_the_nearest_level(tree: MemoryController) -> None:
    put_policy(tree, "edge-a1", target_version="v1")
    declare(tree, target_version="v3")

    state = effective(tree)

    assert state.desired.target_version == "v3"
    assert state.decided_by == {"target_version": NODE}


def test_policy_applies_to_nodes_with_all_its_tags(tree: MemoryController) -> None:
    put_policy(tree, ROOT, target_version="v1", tags=["x", "y"])
    tag(tree, "x")
    assert effective(tree).desired.target_version == ""

    tag(tree, "x", "y", "z")
    assert effective(tree).desired.target_version == "v1"


def test_named_bundle_is_the_nearest_of_its_id_and_leaves_only_enforced_ones_beside(
    tree: MemoryController,
) -> None:
    put_policy(tree, ROOT, "gold", target_version="v1")
    put_policy(tree, "region-a", "gold", target_version="v2")
    put_policy(tree, "edge-a1", "other", target_version="v9")
    put_policy(
        tree, ROOT, "law", enforced=True, constraints=node_pb2.Constraints(min_battery_pct=30)
    )
    declare(tree, policy_bundle="gold")

    state = effective(tree)

    assert state.desired.target_version == "v2"
    assert state.desired.constraints.min_battery_pct == 30


def test_deleted_policy_governs_nothing(tree: MemoryController) -> None:
    put_policy(tree, ROOT, target_version="v1")
    delete_policy(tree, ROOT)

    assert effective(tree).desired == node_pb2.DesiredState()


def test_configuration_of_a_policy_comes_with_its_hash(tree: MemoryController) -> None:
    spec = policy_pb2.PolicySpec(version="c7")
    spec.configuration.update({"mode": "strict"})
    put_policy(tree, ROOT, version="c7", configuration=spec.configuration)

    desired = effective(tree).desired

    assert desired.configuration == spec.configuration
    assert desired.config_name == "c7"
    assert desired.config_hash == configuration_hash(spec.configuration)
