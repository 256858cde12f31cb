"""Calls to the replicas of one controller, as any client of the public API makes them. Owns channels and fail-over;
knows no method.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from souverixctl.connection import PRINCIPAL_KEY, method_of
from souverixctl.errors import read_refusal
from trust.channels import ClientTls, open_channel

Reply = TypeVar("Reply", bound=Message)

#: Longest wait for one answer of one replica.
ATTEMPT_TIMEOUT_S = 10.0

#: A call is repeated over the replicas for this long: longer than a take-over lasts on a slow machine.
CALL_TIMEOUT_S = 45.0

#: Pause after every replica was asked in vain.
ROUND_PAUSE_S = 0.1

#: A page of a thousand nodes with their inventories is a few MiB.
MAX_REPLY_BYTES = 32 * 1024 * 1024

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Channels:
    """One channel to each address by each certificate, shared by every client of the demonstration."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, ClientTls | None], grpc.aio.Channel] = {}

    def to(self, address: str, tls: ClientTls | None) -> grpc.aio.Channel:
        """The channel to an address."""
        way = (address, tls)
        if way not in self._open:
            self._open[way] = open_channel(address, _CHANNEL_OPTIONS, tls)
        return self._open[way]

    async def close(self) -> None:
        """Closes all."""
        await asyncio.gather(*(channel.close() for channel in self._open.values()))
        self._open.clear()


class Client:
    """Somebody who asks one controller."""

    def __init__(
        self,
        channels: Channels,
        addresses: Sequence[str],
        principal: str,
        tls: ClientTls | None = None,
    ) -> None:
        self._channels = channels
        self._tls = tls
        self._addresses = list(addresses)
        self._at = 0
        self.principal = principal
        #: Answers UNAVAILABLE or lost so far; each was followed by a repeat.
        self.repeats = 0

    async def call(
        self, request: Message, reply_type: type[Reply], timeout_s: float = CALL_TIMEOUT_S
    ) -> Reply:
        """The answer to a request. Raises `Refused`.

        Repeats the request, unchanged, while no replica answers: give every write a request_id. With a timeout of 0
        it is asked once.
        """
        method = method_of(request, reply_type)
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                return await self._attempt(method, request, reply_type)
            except grpc.aio.AioRpcError as error:
                refused = read_refusal(error, method=method, address=self._address)
            # An attempt that was cut short by its own limit may be repeated too: the write has an id.
            lost = refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
            if not (refused.elsewhere or lost) or time.monotonic() >= end_s:
                raise refused
            self.repeats += 1
            self._at = (self._at + 1) % len(self._addresses)
            if self._at == 0:
                await asyncio.sleep(ROUND_PAUSE_S)

    async def stream(
        self, request: Message, reply_type: type[Reply], timeout_s: float = CALL_TIMEOUT_S
    ) -> AsyncGenerator[Reply, None]:
        """The answers to a request, from the replica that answered last. Raises `Refused`."""
        method = method_of(request, reply_type)
        call = self._channels.to(self._address, self._tls).unary_stream(
            method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply_type.FromString,
        )(request, timeout=timeout_s, metadata=self._metadata)
        try:
            async for reply in call:
                yield reply
        except grpc.aio.AioRpcError as error:
            raise read_refusal(error, method=method, address=self._address) from error
        finally:
            call.cancel()

    async def _attempt(self, method: str, request: Message, reply_type: type[Reply]) -> Reply:
        call = self._channels.to(self._address, self._tls).unary_unary(
            method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply_type.FromString,
        )
        reply: Reply = await call(request, timeout=ATTEMPT_TIMEOUT_S, metadata=self._metadata)
        return reply

    @property
    def _address(self) -> str:
        return self._addresses[self._at]

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return ((PRINCIPAL_KEY, self.principal),)
