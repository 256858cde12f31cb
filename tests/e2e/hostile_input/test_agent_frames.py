"""Whatever an agent sends over its link, it is sent away with the reason."""

from __future__ import annotations

import uuid
from typing import Any

import grpc
import pytest

from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import nodelink_pb2, nodelink_pb2_grpc
from tests.e2e.clients import DEADLINE_S
from tests.e2e.hostile_input.conftest import Attacked


def _link(attacked: Attacked, *requests: nodelink_pb2.ConnectRequest) -> nodelink_pb2.LinkGoodbye:
    """Sends these frames as an agent; the goodbye that ends the stream."""
    with grpc.insecure_channel(attacked.address) as channel:
        stub = nodelink_pb2_grpc.NodeLinkServiceStub(channel)
        answers = list(stub.Connect(iter(requests), timeout=DEADLINE_S))
    assert answers
    last: nodelink_pb2.ConnectResponse = answers[-1]
    assert last.WhichOneof("kind") == "goodbye"
    return last.goodbye


def _hello(node: str, **fields: Any) -> nodelink_pb2.ConnectRequest:
    hello = nodelink_pb2.AgentHello(node=node, agent_version="0", source=uuid.uuid4().hex, **fields)
    return nodelink_pb2.ConnectRequest(hello=hello)


@pytest.mark.parametrize("node", ["", "../../etc", "a\x00b", "x" * 100_000, "UPPER", "nodes/n1"])
def test_an_agent_with_an_impossible_name_is_sent_away(attacked: Attacked, node: str) -> None:
    goodbye = _link(attacked, _hello(node, spec=node_pb2.NodeSpec()))
    assert goodbye.reason in (
        nodelink_pb2.LINK_END_PROTOCOL_ERROR,
        nodelink_pb2.LINK_END_UNKNOWN_NODE,
    )
    assert goodbye.message


def test_an_agent_that_does_not_greet_is_sent_away(attacked: Attacked) -> None:
    for request in (
        nodelink_pb2.ConnectRequest(),
        nodelink_pb2.ConnectRequest(heartbeat=nodelink_pb2.AgentHeartbeat()),
        nodelink_pb2.ConnectRequest(report=nodelink_pb2.Report(sequence=1)),
        nodelink_pb2.ConnectRequest(chunk=nodelink_pb2.ValueChunk(digest="../x", data=b"x")),
    ):
        goodbye = _link(attacked, request)
        assert goodbye.reason == nodelink_pb2.LINK_END_PROTOCOL_ERROR
        assert goodbye.message
