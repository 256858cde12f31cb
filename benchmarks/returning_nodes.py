"""Lean agents: they speak the real protocol to a real controller, and keep nothing. Owns their side of the return;
measures when each was welcomed and when its lock was released. Times are of the machine's monotonic clock, so that
processes can compare them.

Run as a program it is a fleet of live nodes that tells the round trips of its heartbeats: a process of its own, so that
a storm of others shares the controller with it and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodeagent.dialling import RETRY_AFTER_JITTER
from nodeagent.proof import chain_next, chain_start, end_message, proof_message
from souverix.fleet.v1 import observation_pb2
from souverix.nodelink.v1 import nodelink_pb2, nodelink_pb2_grpc

#: Nodes that share one connection: streams are what a controller serves, and 10,000 sockets say nothing of it.
NODES_A_CHANNEL = 100

#: Niceness of live nodes; it takes root.
LIVE_NICENESS = -10

#: Between two tries of a node whose stream broke.
BROKEN_RETRY_S = 1.0

Request = nodelink_pb2.ConnectRequest


@dataclass
class Storm:
    """What became of all nodes. Times are monotonic seconds."""

    welcomed_s: list[float] = field(default_factory=list)
    live_s: list[float] = field(default_factory=list)
    refusals: int = 0
    broken: int = 0


class ReturningNode:
    """One node; `reports` is how many its backlog holds when it comes."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.reports = 0
        self._key = Ed25519PrivateKey.generate()
        self._public_key = self._key.public_key().public_bytes_raw()
        self._stub: Any = None

    async def come_back(self, stub: Any, storm: Storm, stop: asyncio.Event) -> None:
        """Comes back as often as it is told to, until it is live; then beats until `stop` is set."""
        chance = random.Random(self.node)
        while True:
            call = stub.Connect()
            try:
                retry_s = await self._converse(call, storm, stop)
            except grpc.aio.AioRpcError:
                storm.broken += 1
                retry_s = BROKEN_RETRY_S
            finally:
                call.cancel()
            if retry_s is None:
                return
            await asyncio.sleep(retry_s * (1 + RETRY_AFTER_JITTER * chance.random()))

    async def _converse(self, call: Any, storm: Storm, stop: asyncio.Event) -> float | None:
        """One stream: after how long to come again, None when it was live and may go."""
        hello = nodelink_pb2.AgentHello(
            node=self.node,
            source=self.node,
            run="bench",
            public_key=self._public_key,
            backlog_reports=self.reports,
            oldest_report=1 if self.reports else 0,
        )
        await call.write(Request(hello=hello))
        token = b""
        while (frame := await call.read()) is not grpc.aio.EOF:
            match frame.WhichOneof("kind"):
                case "goodbye":
                    storm.refusals += 1
                    after = frame.goodbye.retry_after
                    return float(after.seconds + after.nanos / 1e9) or BROKEN_RETRY_S
                case "challenge":
                    words = (frame.fence.controller, self.node, self.node, "bench")
                    signed = self._key.sign(proof_message(*words, frame.challenge.nonce))
                    await call.write(Request(proof=nodelink_pb2.AgentProof(signature=signed)))
                case "welcome":
                    storm.welcomed_s.append(time.monotonic())
                    token = frame.welcome.session_token
                    if not frame.welcome.locked:
                        break
                case "replay_turn":
                    await call.write(Request(replay_chunk=self._chunk(token)))
                case "lock_released":
                    break
        else:
            storm.broken += 1
            return BROKEN_RETRY_S
        storm.live_s.append(time.monotonic())
        await stop.wait()
        return None

    def _chunk(self, token: bytes) -> nodelink_pb2.ReplayChunk:
        head = chain_start(self.node, self.node, 1)
        chunk = nodelink_pb2.ReplayChunk(number=1, first_sequence=1)
        for number in range(1, self.reports + 1):
            seen = observation_pb2.Inventory(hostname=self.node, kernel=f"report {number}")
            raw = nodelink_pb2.Report(sequence=number, inventory=seen).SerializeToString()
            head = chain_next(head, raw)
            chunk.reports.append(raw)
        chunk.chain_hash = head
        chunk.signature = self._key.sign(end_message(token, self.reports, 0, head))
        return chunk


async def storm_of(
    address: str, nodes: list[ReturningNode], spread_s: float, limit_s: float
) -> Storm:
    """Has all nodes come within `spread_s`, and waits until all are live. Raises `TimeoutError`."""
    storm, stop = Storm(), asyncio.Event()
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(0, len(nodes), NODES_A_CHANNEL)
    ]
    stubs = [nodelink_pb2_grpc.NodeLinkServiceStub(channel) for channel in channels]
    chance = random.Random(1)

    async def come(number: int, node: ReturningNode) -> None:
        await asyncio.sleep(spread_s * chance.random())
        await node.come_back(stubs[number // NODES_A_CHANNEL], storm, stop)

    tasks = [asyncio.create_task(come(number, node)) for number, node in enumerate(nodes)]
    try:
        async with asyncio.timeout(limit_s):
            while len(storm.live_s) < len(nodes):  # noqa: ASYNC110 a count, not an event
                await asyncio.sleep(0.1)
    finally:
        stop.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()
    return storm


@dataclass(frozen=True)
class Absence:
    """How many nodes come at first, are away, and come back."""

    #: Until all have come at first, without a backlog.
    first_s: float
    #: How long they are away, in this run.
    away_s: float
    #: Reports in the backlog of each then.
    reports: int
    #: Within which all come back.
    spread_s: float
    #: Longest that either coming takes.
    limit_s: float


def come_and_come_back(address: str, ids: list[str], absence: Absence) -> tuple[float, Storm]:
    """Has nodes come, go, and come back; when the coming back began, and what became of it. Raises `TimeoutError`."""
    nodes = [ReturningNode(node_id) for node_id in ids]
    uvloop.run(storm_of(address, nodes, absence.first_s, absence.limit_s))
    time.sleep(absence.away_s)
    for node in nodes:
        node.reports = absence.reports
    began_s = time.monotonic()
    return began_s, uvloop.run(storm_of(address, nodes, absence.spread_s, absence.limit_s))


async def beat(address: str, names: list[str], interval_s: float) -> None:
    """Live nodes that beat until standard input ends; each line told is [time, round trip], in seconds."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = nodelink_pb2_grpc.NodeLinkServiceStub(channel)
        tasks = [asyncio.create_task(_beat_as(stub, n, interval_s)) for n in names]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _beat_as(stub: Any, name: str, interval_s: float) -> None:
    node = ReturningNode(name)
    storm, never = Storm(), asyncio.Event()
    call = stub.Connect()
    live = asyncio.create_task(node._converse(call, storm, never))
    while not storm.live_s:  # noqa: ASYNC110 it goes on from here once it is live
        await asyncio.sleep(0.01)
    live.cancel()
    await asyncio.gather(live, return_exceptions=True)
    await asyncio.sleep(interval_s * random.random())
    due_s = time.monotonic()
    while True:
        sent_s = time.monotonic()
        await call.write(Request(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1)))
        while not (await call.read()).HasField("heartbeat_ack"):
            continue
        print(json.dumps([sent_s, time.monotonic() - sent_s]), flush=True)
        due_s += interval_s
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))


if __name__ == "__main__":
    with contextlib.suppress(PermissionError):
        os.nice(LIVE_NICENESS)
    uvloop.run(beat(sys.argv[1], sys.argv[3:], float(sys.argv[2])))
