"""What a node is sent so that what governs it comes into force."""

from __future__ import annotations

from typing import Any

from controller.command.desired import action_for
from souverix.command.v1 import command_pb2
from souverix.fleet.v1 import domain_pb2, node_pb2
from souverix.policy.v1 import policy_pb2
from tests.federation_fixture import ROOT, MemoryController, root_controller

DESIRED = command_pb2.Action(apply_desired_state=command_pb2.ApplyDesiredState())


def write(controller: MemoryController, subject: str, **aspects: Any) -> None:
    def decide(proposal: Any) -> None:
        for aspect, body in aspects.items():
            proposal.write(ROOT, subject, aspect, body, principal="user:test")

    controller.submit(decide)


def policy(controller: MemoryController, name: str, version: str, **configuration: Any) -> None:
    spec = policy_pb2.PolicySpec(version=version)
    if configuration:
        spec.configuration.update(configuration)
    write(controller, f"policies/{name}", existence=domain_pb2.Existence(exists=True), policy=spec)


def sent(controller: MemoryController) -> command_pb2.Action:
    return action_for(controller.state, ROOT, "n1", DESIRED)


def test_a_policys_configuration_is_sent_with_the_policy() -> None:
    root = root_controller()
    policy(root, "base", "v2.1", log="debug")
    apply = sent(root).apply_config
    assert (apply.policy_bundle, apply.policy_version) == ("base", "v2.1")
    assert apply.document["log"] == "debug"
    assert apply.config_name == ""


def test_a_nodes_own_configuration_keeps_its_name_and_names_the_policy_beside_it() -> None:
    root = root_controller()
    policy(root, "base", "v2.1", log="debug")
    own = node_pb2.DesiredState(config_name="gateway", policy_bundle="base")
    own.configuration.update({"log": "info"})
    write(root, "nodes/n1", desired_state=own)
    apply = sent(root).apply_config
    assert (apply.config_name, apply.policy_bundle) == ("gateway", "base")
    assert apply.document["log"] == "info"


def test_a_policy_without_a_configuration_is_named_alone() -> None:
    root = root_controller()
    policy(root, "base", "v3")
    apply = sent(root).apply_config
    assert not apply.HasField("document")
    assert (apply.policy_bundle, apply.policy_version) == ("base", "v3")


def test_where_nothing_governs_and_for_other_actions_the_action_stays() -> None:
    root = root_controller()
    assert sent(root) == DESIRED
    ping = command_pb2.Action(ping=command_pb2.Ping(payload="x"))
    assert action_for(root.state, ROOT, "n1", ping) == ping
