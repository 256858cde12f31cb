"""Heartbeats through relays: 20,000 nodes behind four relays, in batches, as fast as the controller acknowledges them.

The relays are this process; what they send is made beforehand. Beside it: the same messages, to an empty handler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc
import uvloop

from benchmarks.bare_streams import COUNT, TELL_EVERY
from benchmarks.client import node_ids
from benchmarks.fleet_links import Running, cost, running
from benchmarks.greeting import answer, greeting
from benchmarks.report import RUNS, report, rounded, say
from nodeagent.relay_session import RelaySession
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2

RELAYS = 4
NODES_A_RELAY = 5_000

#: Heartbeats of one batch: what each of four relays gathers in 20 ms when 100,000 nodes are heard every second.
BATCH = 500

#: Batches of one run and relay: 3,200,000 heartbeats in all, some seconds.
BATCHES_A_RELAY = 100 * TELL_EVERY

#: Batches on the way at once, of each relay.
WINDOW = TELL_EVERY

#: Nodes that greet at once, of each relay: a storm of returns is another benchmark.
GREETINGS_AT_ONCE = 200

CONNECT = "/souverix.nodelink.v1.RelayLinkService/Connect"

Request = relay_pb2.RelayLinkServiceConnectRequest
Response = relay_pb2.RelayLinkServiceConnectResponse
Stream = grpc.aio.StreamStreamCall[bytes, bytes]


def run() -> dict[str, Any]:
    """Heartbeats a second, all acknowledged; the controller's CPU for them; memory of a node behind a relay."""
    ids = node_ids(RELAYS * NODES_A_RELAY)
    with running("heartbeats", ids) as fleet:
        return uvloop.run(_measure(fleet, ids))


async def _measure(fleet: Running, ids: Sequence[str]) -> dict[str, Any]:
    rates, bare, per_core = [], [], []
    before = cost(fleet.controller_pid)
    began_s = time.perf_counter()
    async with (
        grpc.aio.insecure_channel(fleet.controller) as channel,
        grpc.aio.insecure_channel(fleet.bare) as bare_channel,
    ):
        shares = [ids[n * NODES_A_RELAY : (n + 1) * NODES_A_RELAY] for n in range(RELAYS)]
        streams = await asyncio.gather(
            *(_carry(channel, f"bench-relay-{n}", share) for n, share in enumerate(shares))
        )
        grown = cost(fleet.controller_pid).resident_bytes - before.resident_bytes
        say(f"heartbeats: {len(ids)} nodes greeted in {time.perf_counter() - began_s:.1f} s")
        counted: list[Stream] = [bare_channel.stream_stream(COUNT)() for _ in range(RELAYS)]
        messages = _batches()
        heartbeats = RELAYS * BATCHES_A_RELAY * BATCH
        for _ in range(RUNS):
            began = cost(fleet.controller_pid)
            took_s = await _send_all(streams, messages, 1)
            used_s = cost(fleet.controller_pid).cpu_s - began.cpu_s
            rates.append(heartbeats / took_s)
            per_core.append(heartbeats / used_s)
            bare.append(heartbeats / await _send_all(counted, messages, TELL_EVERY))
            say(
                f"heartbeats: {rates[-1]:,.0f}/s, a core {per_core[-1]:,.0f}/s, bare {bare[-1]:,.0f}/s"
            )
        for stream in (*streams, *counted):
            stream.cancel()
    return report(
        "heartbeats",
        "heartbeats/s",
        rates,
        {"the same messages to an empty gRPC handler": bare},
        per_core_s=rounded(sorted(per_core)[len(per_core) // 2]),
        nodes=len(ids),
        relays=RELAYS,
        batch=BATCH,
        message_bytes=max(map(len, messages)),
        bytes_a_node=rounded(grown / len(ids)),
    )


def _batches() -> list[bytes]:
    """A heartbeat of each node of a relay: round trips of some 20 ms, and reports waiting at one node in 50."""
    batches = []
    for at in range(0, NODES_A_RELAY, BATCH):
        nodes = range(at, at + BATCH)
        batch = relay_pb2.HeartbeatBatch(
            number=1,
            nodes=nodes,
            rtts_us=[20_000 + 7 * node % 5_000 for node in nodes],
            backlogs=[int(node % 50 == 0) for node in nodes],
        )
        batches.append(Request(heartbeats=batch).SerializeToString())
    return batches


class _Greeted:
    """One node behind a relay; tells when it was welcomed."""

    def __init__(self, session: RelaySession, node: str) -> None:
        self.welcomed = False
        self._session = session
        self._node = node
        self._index = session.open(self, greeting(node))

    def hear(self, response: nodelink_pb2.ConnectResponse) -> None:
        said = answer(self._node, response)
        if said is not None:
            self._session.say(self._index, said)
        self.welcomed |= response.HasField("welcome")

    def hear_ping(self, ping_ms: int) -> None:
        """Nobody pings while nodes greet."""

    def ended(self) -> None:
        """As above."""


async def _carry(channel: grpc.aio.Channel, relay: str, nodes: Sequence[str]) -> Stream:
    """The stream of a relay behind which all nodes have been welcomed."""
    stream: Stream = channel.stream_stream(CONNECT)()
    hello = relay_pb2.RelayHello(relay=relay, source=f"source-{relay}")
    await stream.write(Request(hello=hello).SerializeToString())
    session = RelaySession(Response.FromString(await _next(stream)).welcome, 0.0)
    for at in range(0, len(nodes), GREETINGS_AT_ONCE):
        passages = [_Greeted(session, node) for node in nodes[at : at + GREETINGS_AT_ONCE]]
        while not all(passage.welcomed for passage in passages):
            for message in session.messages(0.0):
                await stream.write(message.SerializeToString())
            session.receive(Response.FromString(await _next(stream)), 0.0)
    return stream


async def _send_all(streams: Sequence[Stream], messages: Sequence[bytes], told_every: int) -> float:
    """Sends a run's messages over all streams; how long it took until the last was taken."""
    began_s = time.perf_counter()
    await asyncio.gather(*(_send(stream, messages, told_every) for stream in streams))
    return time.perf_counter() - began_s


async def _send(stream: Stream, messages: Sequence[bytes], told_every: int) -> None:
    """Sends messages with a window; each that comes back says that `told_every` more were taken."""
    sent = taken = 0
    while taken < BATCHES_A_RELAY:
        while sent < BATCHES_A_RELAY and sent - taken < WINDOW:
            await stream.write(messages[sent % len(messages)])
            sent += 1
        answer = await _next(stream)
        if told_every == 1 and Response.FromString(answer).WhichOneof("kind") != "heartbeats":
            raise RuntimeError("the controller said something else than that it took a batch")
        taken += told_every


async def _next(stream: Stream) -> bytes:
    answer = await stream.read()
    if not isinstance(answer, bytes):
        raise TypeError("the stream ended")
    return answer
