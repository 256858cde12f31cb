"""Heartbeats by a stream each: 10,000 nodes linked at once, every one waiting for its answer before it speaks again.

The nodes are this process; what they send is made beforehand, and what they hear is not parsed. Beside it: as many
streams and messages of the same size to a handler that answers without looking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc
import uvloop

from benchmarks.bare_streams import ANSWER
from benchmarks.client import node_ids
from benchmarks.fleet_links import Running, cost, running
from benchmarks.greeting import answer, greeting
from benchmarks.report import RUNS, report, rounded, say
from souverix.nodelink.v1 import nodelink_pb2

NODES = 10_000

#: Heartbeats of one run, of all nodes together: two of each, some seconds.
HEARTBEATS = 2 * NODES

#: Nodes that greet at once: a storm of returns is another benchmark.
GREETINGS_AT_ONCE = 100

#: Streams on one connection.
STREAMS_A_CONNECTION = 500

CONNECT = "/souverix.nodelink.v1.NodeLinkService/Connect"

Request = nodelink_pb2.ConnectRequest
Response = nodelink_pb2.ConnectResponse
Stream = grpc.aio.StreamStreamCall[bytes, bytes]


def run() -> dict[str, Any]:
    """Heartbeats a second, all acknowledged; the controller's CPU for them; memory of a stream."""
    ids = node_ids(NODES)
    with running("heartbeat-streams", ids) as fleet:
        return uvloop.run(_measure(fleet, ids))


async def _measure(fleet: Running, ids: Sequence[str]) -> dict[str, Any]:
    rates, bare, per_core = [], [], []
    before = cost(fleet.controller_pid)
    began_s = time.perf_counter()
    linked = await _open(fleet.controller, CONNECT, ids)
    grown = cost(fleet.controller_pid).resident_bytes - before.resident_bytes
    say(f"heartbeat-streams: {len(ids)} nodes greeted in {time.perf_counter() - began_s:.1f} s")
    message = _heartbeat()
    answered = await _open(fleet.bare, ANSWER, ids)
    for _ in range(RUNS):
        began = cost(fleet.controller_pid)
        took_s = await _beat(linked, message)
        used_s = cost(fleet.controller_pid).cpu_s - began.cpu_s
        rates.append(HEARTBEATS / took_s)
        per_core.append(HEARTBEATS / used_s)
        bare.append(HEARTBEATS / await _beat(answered, message))
        say(
            f"heartbeat-streams: {rates[-1]:,.0f}/s, a core {per_core[-1]:,.0f}/s, bare {bare[-1]:,.0f}/s"
        )
    return report(
        "heartbeat-streams",
        "heartbeats/s",
        rates,
        {"as many bare gRPC streams, answered unseen": bare},
        per_core_s=rounded(sorted(per_core)[len(per_core) // 2]),
        streams=NODES,
        message_bytes=len(message),
        bytes_a_stream=rounded(grown / NODES),
    )


def _heartbeat() -> bytes:
    heartbeat = nodelink_pb2.AgentHeartbeat(ping_ms=1_234_567_890, backlog_reports=1)
    heartbeat.rtt.FromMicroseconds(20_000)
    return Request(heartbeat=heartbeat).SerializeToString()


async def _open(address: str, method: str, ids: Sequence[str]) -> list[Stream]:
    """A stream for each node, over which it has greeted and was welcomed, or echoed."""
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(-(-len(ids) // STREAMS_A_CONNECTION))
    ]
    turns = asyncio.Semaphore(GREETINGS_AT_ONCE)

    async def greet(number: int) -> Stream:
        async with turns:
            stream: Stream = channels[number % len(channels)].stream_stream(method)()
            said: Request | None = greeting(ids[number])
            if method != CONNECT:
                said = Request.FromString(_heartbeat())
            while said is not None:
                await stream.write(said.SerializeToString())
                heard = await _next(stream)
                said = (
                    answer(ids[number], Response.FromString(heard)) if method == CONNECT else None
                )
        return stream

    return await asyncio.gather(*(greet(number) for number in range(len(ids))))


async def _beat(streams: Sequence[Stream], message: bytes) -> float:
    """Has every node send its share, each after the answer to the last; how long it took."""

    async def one(stream: Stream) -> None:
        for _ in range(HEARTBEATS // len(streams)):
            await stream.write(message)
            await _next(stream)

    began_s = time.perf_counter()
    await asyncio.gather(*(one(stream) for stream in streams))
    return time.perf_counter() - began_s


async def _next(stream: Stream) -> bytes:
    answer = await stream.read()
    if not isinstance(answer, bytes):
        raise TypeError("the stream ended")
    return answer
