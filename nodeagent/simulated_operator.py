"""What an operator does for a made-up fleet: registers its nodes, and has declared versions come into force.

Owns calls of the fleet service, as any client makes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import grpc
import grpc.aio
from google.rpc import code_pb2

from nodeagent.errors import OperatorMustAct
from nodeagent.logs import EventLog
from souverix.fleet.v1 import (
    drift_pb2,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    node_pb2,
)
from trust.channels import ClientTls, open_channel

BATCH_ITEMS = 500
"""Nodes registered in a call, by the contract."""

CALL_TIMEOUT_S = 30.0

LOOK_INTERVAL_S = 2.0
"""Between two looks for declared versions."""

LOOKED_AT = 200
"""Drifting nodes looked at each time; others follow."""

_PRINCIPAL = (("souverix-principal", "user:fleet-generator"),)


class NotRegistered(OperatorMustAct):
    """The controller did not register the fleet."""


async def register(
    controllers: Sequence[str],
    specs: Mapping[str, node_pb2.NodeSpec],
    log: EventLog,
    tls: ClientTls | None = None,
) -> None:
    """Registers nodes that are not known yet with the first controller that takes them. Raises NotRegistered."""
    cause = ""
    for address in controllers:
        try:
            await _register(address, specs, tls)
        except grpc.aio.AioRpcError as error:
            cause = f"{address}: {error.code().name} {error.details()}"
        else:
            log.info("registered", nodes=len(specs), controller=address)
            return
    raise NotRegistered(f"the fleet cannot be registered: {cause}; leave out --register to enrol")


async def _register(
    address: str, specs: Mapping[str, node_pb2.NodeSpec], tls: ClientTls | None
) -> None:
    known = (code_pb2.OK, code_pb2.ALREADY_EXISTS)
    items = [
        fleet_service_pb2.NodeCreation(node_id=node, spec=spec) for node, spec in specs.items()
    ]
    async with open_channel(address, (), tls) as channel:
        stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
        for at in range(0, len(items), BATCH_ITEMS):
            request = fleet_service_pb2.BatchCreateNodesRequest(items=items[at : at + BATCH_ITEMS])
            answer = await stub.BatchCreateNodes(
                request, timeout=CALL_TIMEOUT_S, metadata=_PRINCIPAL
            )
            for result in answer.results:
                if result.status.code not in known:
                    raise NotRegistered(f"{result.name}: {result.status.message}")


async def follow_versions(
    controllers: Sequence[str],
    upgrade: Callable[[str, str], Awaitable[None]],
    nodes: frozenset[str],
    log: EventLog,
    tls_now: Callable[[], ClientTls | None] = lambda: None,
) -> None:
    """Calls `upgrade(node, version)` for each node of ours that runs another version than it should, until cancelled.

    It may be called again for a node whose upgrade is not reported yet.
    """
    turn = 0
    while True:
        address = controllers[turn % len(controllers)]
        try:
            async with open_channel(address, (), tls_now()) as channel:
                stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
                while True:
                    await _look(stub, upgrade, nodes)
                    await asyncio.sleep(LOOK_INTERVAL_S)
        except grpc.aio.AioRpcError as error:
            log.warning("no_versions_now", controller=address, cause=error.code().name)
            turn += 1
            await asyncio.sleep(LOOK_INTERVAL_S)


async def _look(
    stub: fleet_service_pb2_grpc.FleetServiceStub,
    upgrade: Callable[[str, str], Awaitable[None]],
    nodes: frozenset[str],
) -> None:
    request = fleet_service_pb2.ListNodesRequest(
        drift_states=[drift_pb2.DRIFT_STATE_DRIFTING], page_size=LOOKED_AT
    )
    request.read_mask.paths.append("name")
    page = await stub.ListNodes(request, timeout=CALL_TIMEOUT_S, metadata=_PRINCIPAL)
    for listed in page.nodes:
        node = listed.name.removeprefix("nodes/")
        if node not in nodes:
            continue
        get = fleet_service_pb2.GetNodeRequest(name=listed.name)
        twin = (await stub.GetNode(get, timeout=CALL_TIMEOUT_S, metadata=_PRINCIPAL)).node
        version = twin.effective_desired_state.desired_state.target_version
        if version and version != twin.actual_state.reported_version:
            await upgrade(node, version)
