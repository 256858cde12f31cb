"""What a command to bring desired state into force asks of a node. Owns how what governs the node becomes a document to
keep; decides nothing about deliveries.
"""

from __future__ import annotations

from controller.twin.effective import effective_state, policy_to_follow
from controller.twin.facts import Facts
from souverix.command.v1 import command_pb2


def action_for(
    facts: Facts, domain: str, node: str, action: command_pb2.Action
) -> command_pb2.Action:
    """The action as the node is to receive it. What governs a node is looked up now; where nothing does, the action
    stays as it is, and the node rejects it.
    """
    if action.WhichOneof("action") != "apply_desired_state":
        return action
    subject = f"nodes/{node}"
    effective = effective_state(facts, domain, subject)
    apply = command_pb2.ApplyConfig()
    if effective.desired.HasField("configuration"):
        apply.document.CopyFrom(effective.desired.configuration)
        # A policy's documents all stand under one name; a node's own may be kept under a name of its own.
        if effective.decided_by.get("configuration") == subject:
            apply.config_name = effective.desired.config_name
    policy = policy_to_follow(effective)
    if policy is not None:
        apply.policy_bundle = policy.policy
        apply.policy_version = policy.spec.version
    if not apply.ByteSize():
        return action
    return command_pb2.Action(apply_config=apply)
