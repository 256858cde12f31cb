"""The way to a controller: addresses, fail-over, bounded retries, streams.

Owns channels and which address is in use. Never sends a write again under another request id, and
never dials beyond this host without TLS.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from souverixctl.errors import BadInput, Refused, read_refusal
from telemetry.context import TRACEPARENT, TraceContext
from trust.channels import ClientTls, open_blocking_channel

Reply = TypeVar("Reply", bound=Message)
Result = TypeVar("Result")

PRINCIPAL_KEY = "souverix-principal"
AUTHORIZATION_KEY = "authorization"
# A controller has a few replicas; more addresses than this are a mistake.
MAX_ADDRESSES = 16
# Rounds over all addresses: a replica needs a moment to take over, but nobody waits for long.
ROUNDS = 4
FIRST_PAUSE_S = 0.25
# The longest pause a controller may ask for between two rounds.
MAX_PAUSE_S = 5.0
# A write that timed out is asked for once more: its repeat is answered with the first outcome.
TIMEOUT_ATTEMPTS = 2
# A page of 1000 nodes with their inventories is a few MiB.
MAX_REPLY_BYTES = 32 * 1024 * 1024

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.enable_http_proxy", 0),
    # A refused connection is tried again with the next round, not when gRPC thinks fit.
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Finds a dead peer under a watch that has nothing to say.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


def parse_addresses(text: str, *, secured: bool = False) -> list[str]:
    """Reads "host:port[,host:port…]"; without TLS all must be on this host. Raises BadInput."""
    addresses = [part.strip() for part in text.split(",") if part.strip()]
    if not addresses:
        raise BadInput("no server address is given", "--server HOST:PORT or SOUVERIX_SERVER")
    if len(addresses) > MAX_ADDRESSES:
        raise BadInput(f"{len(addresses)} server addresses; at most {MAX_ADDRESSES} are tried")
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise BadInput(
                f"{address!r} is not HOST:PORT", "write it as 127.0.0.1:7400, IPv6 as [::1]:7400"
            )
        if not secured and not _is_loopback(host):
            raise BadInput(
                f"{address} is not on this host, and without TLS nothing is sent over a network",
                "give a certificate with --tls DIR, or run souverixctl on the controller's host",
            )
    return list(dict.fromkeys(addresses))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


class Connection:
    """Calls to the first of several addresses that answers.

    `announce` is told, for people, when another address is tried. All calls belong to `trace`. `token`
    is asked at each call, so that a token that was renewed meanwhile is used; it needs `tls`. Every
    method of the contract has a request type of its own, so a request's type names the method to call.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        principal: str,
        timeout_s: float,
        announce: Callable[[str], None],
        trace: TraceContext | None = None,
        tls: ClientTls | None = None,
        token: Callable[[], str] | None = None,
    ) -> None:
        self._tls = tls
        self._token = token
        self._addresses = list(addresses)
        self._current = 0
        self._channels: dict[str, grpc.Channel] = {}
        self._constant: tuple[tuple[str, str], ...] = ((PRINCIPAL_KEY, principal),)
        if trace is not None:
            self._constant += ((TRACEPARENT, str(trace)),)
        self._timeout_s = timeout_s
        self._announce = announce

    def close(self) -> None:
        """Close every channel."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def call(self, request: Message, reply_type: type[Reply]) -> Reply:
        """One answer to one request. Raises Refused.

        Another address is tried when none or no master answers; a request that carries a request id
        is also repeated, unchanged, when its outcome is not known.
        """
        method = method_of(request, reply_type)

        def attempt(channel: grpc.Channel) -> Reply:
            call = channel.unary_unary(
                method,
                request_serializer=type(request).SerializeToString,
                response_deserializer=reply_type.FromString,
            )
            reply: Reply = call(request, timeout=self._timeout_s, metadata=self._metadata())
            return reply

        return self._with_failover(method, attempt, getattr(request, "request_id", ""))

    def stream(
        self, request: Message, reply_type: type[Reply], limit_s: float | None = None
    ) -> Iterator[Reply]:
        """The answers to one request as they come, for at most `limit_s`. Raises Refused.

        Other addresses are tried until the first answer; a stream that breaks later raises.
        """
        method = method_of(request, reply_type)

        def attempt(channel: grpc.Channel) -> tuple[Any, list[Reply]]:
            call = channel.unary_stream(
                method,
                request_serializer=type(request).SerializeToString,
                response_deserializer=reply_type.FromString,
            )(request, timeout=limit_s, metadata=self._metadata())
            return call, list(islice(call, 1))

        yield from self._answers(method, *self._with_failover(method, attempt, ""))

    def upload(
        self, pieces: Callable[[], Iterator[Message]], request_type: Any, reply_type: type[Reply]
    ) -> Reply:
        """The answer to a stream of requests, made anew for each address that is tried. Raises Refused.

        It may take as long as the link needs: the controller bounds it.
        """
        method = method_taking(request_type, reply_type)

        def attempt(channel: grpc.Channel) -> Reply:
            call: Any = channel.stream_unary(
                method,
                request_serializer=lambda piece: piece.SerializeToString(),
                response_deserializer=reply_type.FromString,
            )
            reply: Reply = call(pieces(), metadata=self._metadata())
            return reply

        return self._with_failover(method, attempt, "")

    def exchange(
        self, pieces: Callable[[], Iterator[Message]], request_type: Any, reply_type: type[Reply]
    ) -> Iterator[Reply]:
        """The answers to a stream of requests as they come. Raises Refused.

        Other addresses are tried until the first answer, with the requests made anew.
        """
        method = method_taking(request_type, reply_type)

        def attempt(channel: grpc.Channel) -> tuple[Any, list[Reply]]:
            stub: Any = channel.stream_stream(
                method,
                request_serializer=lambda piece: piece.SerializeToString(),
                response_deserializer=reply_type.FromString,
            )
            call = stub(pieces(), metadata=self._metadata())
            return call, list(islice(call, 1))

        yield from self._answers(method, *self._with_failover(method, attempt, ""))

    def _answers(self, method: str, call: Any, first: list[Reply]) -> Iterator[Reply]:
        """The first answer of a call, and those that follow; the call ends with whoever reads them."""
        try:
            yield from first
            if first:
                yield from call
        except grpc.RpcError as error:
            raise read_refusal(error, method=method, address=self.address) from error
        finally:
            call.cancel()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        if self._token is None:
            return self._constant
        return (*self._constant, (AUTHORIZATION_KEY, f"Bearer {self._token()}"))

    @property
    def address(self) -> str:
        """The address in use."""
        return self._addresses[self._current]

    def _with_failover(
        self, method: str, attempt: Callable[[grpc.Channel], Result], request_id: str
    ) -> Result:
        timeouts = 0
        refused: Refused | None = None
        for number in range(ROUNDS * len(self._addresses)):
            if refused is not None:
                self._move_on(refused, number)
            try:
                return attempt(self._channel())
            except grpc.RpcError as error:
                refused = read_refusal(error, method=method, address=self.address)
            if refused.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                timeouts += 1
                if not request_id or timeouts >= TIMEOUT_ATTEMPTS:
                    break
            elif not refused.elsewhere:
                break
        if refused is None:
            raise AssertionError("parse_addresses returns at least one address")
        if request_id and refused.outcome_unknown:
            refused.next_step += (
                f"; whether the write was carried out is not known: repeat it with"
                f" --request-id {request_id}, which carries it out at most once"
            )
        raise refused

    def _move_on(self, refused: Refused, attempts: int) -> None:
        self._current = (self._current + 1) % len(self._addresses)
        if len(self._addresses) > 1:
            said = refused.reason or refused.code.name
            self._announce(f"{refused.address}: {said}; trying {self.address}")
        rounds, rest = divmod(attempts, len(self._addresses))
        if rest == 0:
            pause_s = FIRST_PAUSE_S * 2 ** (rounds - 1)
            time.sleep(min(max(pause_s, refused.retry_after_s or 0.0), MAX_PAUSE_S))

    def _channel(self) -> grpc.Channel:
        channel = self._channels.get(self.address)
        if channel is None:
            channel = open_blocking_channel(self.address, _CHANNEL_OPTIONS, self._tls)
            self._channels[self.address] = channel
        return channel


def method_of(request: Message, reply_type: type[Message]) -> str:
    """The full name of the method that takes this request, such as "/souverix…Service/Get…"."""
    return method_taking(request.DESCRIPTOR, reply_type)


def method_taking(descriptor: Any, reply_type: type[Message]) -> str:
    """As `method_of`, by the request's descriptor."""
    for service in descriptor.file.services_by_name.values():
        for method in service.methods:
            if method.input_type == descriptor:
                if method.output_type != reply_type.DESCRIPTOR:
                    raise TypeError(f"{method.full_name} does not reply with {reply_type}")
                return f"/{service.full_name}/{method.name}"
    raise TypeError(f"no method takes {descriptor.full_name}")
