"""A lean client of one controller, for clients share the two cores with what they measure: requests are made before
the clock runs, and replies are kept as bytes until it has stopped. Owns calls; never the clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import grpc

from souverix.fleet.v1 import fleet_service_pb2, node_pb2

#: As the API bounds a batch.
BATCH_ITEMS = 500

SET_DESIRED_STATE = "/souverix.fleet.v1.FleetService/SetDesiredState"
BATCH_SET_DESIRED_STATES = "/souverix.fleet.v1.FleetService/BatchSetDesiredStates"
BATCH_CREATE_NODES = "/souverix.fleet.v1.FleetService/BatchCreateNodes"

Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

_OPTIONS = [("grpc.max_receive_message_length", 4 * 1024 * 1024)]


def node_ids(count: int) -> list[str]:
    """Ids of the nodes that benchmarks write to."""
    return [f"bench-n{number}" for number in range(count)]


def desired_state(version: str) -> node_pb2.DesiredState:
    """A declaration of about the size of real ones."""
    body = node_pb2.DesiredState(
        policy_bundle="p1",
        target_version=version,
        config_name="config-v2.1",
        constraints=node_pb2.Constraints(
            maintenance_window="Sun 02:00-04:00 UTC", min_battery_pct=30
        ),
    )
    body.configuration.update({"upstreams": ["10.0.0.1:5060", "10.0.0.2:5060"], "limit": 400})
    return body


def declaration(node_id: str, version: str) -> bytes:
    """A request of `SetDesiredState`."""
    return fleet_service_pb2.SetDesiredStateRequest(
        name=f"nodes/{node_id}", desired_state=desired_state(version)
    ).SerializeToString()


def batch_of_declarations(ids: Iterable[str], version: str) -> bytes:
    """A request of `BatchSetDesiredStates`."""
    items = [
        fleet_service_pb2.DesiredStateDeclaration(
            name=f"nodes/{node_id}", desired_state=desired_state(version)
        )
        for node_id in ids
    ]
    return fleet_service_pb2.BatchSetDesiredStatesRequest(items=items).SerializeToString()


async def create_nodes(address: str, ids: Sequence[str]) -> None:
    """Registers nodes with the controller at an address. Raises `RuntimeError` when one is refused."""
    requests = [
        fleet_service_pb2.BatchCreateNodesRequest(
            items=[
                fleet_service_pb2.NodeCreation(
                    node_id=node_id, spec=node_pb2.NodeSpec(kind=node_pb2.NODE_KIND_EDGE)
                )
                for node_id in ids[at : at + BATCH_ITEMS]
            ]
        ).SerializeToString()
        for at in range(0, len(ids), BATCH_ITEMS)
    ]
    answered = await call_all(address, BATCH_CREATE_NODES, requests, callers=1)
    check_batches(answered.replies)


class Answered(NamedTuple):
    """Replies, in no particular order, and how long they took."""

    replies: list[bytes]
    took_s: float


async def call_all(address: str, method: str, requests: Sequence[bytes], callers: int) -> Answered:
    """Makes all calls with so many callers, each waiting for its reply. Raises `grpc.RpcError`."""
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        await channel.channel_ready()
        call: Call = channel.unary_unary(method)
        waiting = iter(requests)

        async def caller() -> list[bytes]:
            return [await call(request) for request in waiting]

        began_s = time.perf_counter()
        parts = await asyncio.gather(*(caller() for _ in range(callers)))
        took_s = time.perf_counter() - began_s
        return Answered([reply for part in parts for reply in part], took_s)


def check_batches(replies: Iterable[bytes]) -> None:
    """Raises `RuntimeError` when an item of a batch was refused."""
    for reply in replies:
        for result in fleet_service_pb2.BatchSetDesiredStatesResponse.FromString(reply).results:
            if result.status.code != 0:
                raise RuntimeError(f"{result.name} was refused: {result.status.message}")
