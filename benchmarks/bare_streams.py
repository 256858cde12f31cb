"""A gRPC server that does nothing with what it reads, as a process: `python -m benchmarks.bare_streams`. It prints its
port. What it manages is what gRPC for Python leaves to whoever does something.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

#: Service and methods; `Count` reads, `Answer` also answers each message with the bytes that the first one was.
SERVICE = "benchmark.Bare"
COUNT = f"/{SERVICE}/Count"
ANSWER = f"/{SERVICE}/Answer"

#: After so many messages `Count` says how many came, so that the client knows how far it is.
TELL_EVERY = 16

_OPTIONS = [
    ("grpc.max_concurrent_streams", 20_000),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
]


async def _count(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    count = 0
    async for _ in requests:
        count += 1
        if count % TELL_EVERY == 0:
            yield b"."


async def _answer(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    reply: bytes | None = None
    async for request in requests:
        reply = reply or request
        yield reply


async def _serve() -> None:
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                SERVICE,
                {
                    "Count": grpc.stream_stream_rpc_method_handler(_count),
                    "Answer": grpc.stream_stream_rpc_method_handler(_answer),
                },
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
