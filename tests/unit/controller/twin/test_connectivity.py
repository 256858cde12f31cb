"""How a node is connected, as a view composed from its facts."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from controller.twin.connectivity import compose_connectivity
from controller.twin.freshness import Freshness
from federation.identifiers import Key
from souverix.fleet.v1 import connectivity_pb2, node_pb2
from tests.federation_fixture import START_MS, MemoryController, root_controller

NODE = "nodes/n1"


def report(controller: MemoryController, aspect: str, body: Message) -> None:
    controller.submit(lambda p: p.write("global", NODE, aspect, body, principal="user:a"))


def backlog(
    controller: MemoryController,
    desired: node_pb2.DesiredState | None,
    actual: node_pb2.ActualState | None,
) -> connectivity_pb2.SyncBacklog:
    link = connectivity_pb2.LinkState(mode=connectivity_pb2.CONNECTIVITY_MODE_LIVE)
    bodies: dict[str, Message | None] = {
        "link_state": link,
        "desired_state": desired,
        "actual_state": actual,
    }
    for aspect, body in bodies.items():
        if body is not None:
            report(controller, aspect, body)
    state = controller.state
    winners = {a: w for a in bodies if (w := state.winner(Key("global", NODE, a))) is not None}
    view = compose_connectivity("n1", "global", winners, Freshness(state, "global", START_MS))
    assert view is not None
    return view.sync_debt.backlog


def test_what_is_declared_and_not_in_force_waits() -> None:
    desired = node_pb2.DesiredState(target_version="v2", config_hash="c2", policy_bundle="p2")
    actual = node_pb2.ActualState(reported_version="v1", config_hash="c1", policy_bundle="p1")
    waiting = backlog(root_controller(), desired, actual)
    assert (waiting.version_updates, waiting.config_updates, waiting.policy_updates) == (1, 1, 1)


def test_what_is_in_force_does_not_wait() -> None:
    desired = node_pb2.DesiredState(target_version="v2", config_hash="c2", policy_bundle="p2")
    actual = node_pb2.ActualState(reported_version="v2", config_hash="c2", policy_bundle="p2")
    waiting = backlog(root_controller(), desired, actual)
    assert (waiting.version_updates, waiting.config_updates, waiting.policy_updates) == (0, 0, 0)


@pytest.mark.parametrize("actual", [None, node_pb2.ActualState(reported_version="v2")])
def test_a_policy_the_node_says_nothing_of_is_not_counted(
    actual: node_pb2.ActualState | None,
) -> None:
    desired = node_pb2.DesiredState(policy_bundle="p2")
    assert backlog(root_controller(), desired, actual).policy_updates == 0
