"""gRPC servers: their limits, their ports, and how services are added to them. Owns these; knows no service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from controller.config import ConfigError
from controller.services.calls import CallInterceptor

#: Largest message of any call: one event of the largest size, a page of resources, or a frame of joined runs.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

#: Streams of one connection: a relay or a simulator may carry many nodes.
MAX_STREAMS_A_CONNECTION = 10_000

#: Clients of ours ping every 10 s or more; gRPC's own limit of five minutes would end quiet watches.
MIN_PING_INTERVAL_MS = 5_000


class GenericRegistration:
    """The servers as services see them when they are added: their methods are found by name, call by call.

    gRPC's asyncio server waits for each registered method separately, and sets up and takes down all these waits for
    every call: with 70 methods that is a quarter of what an empty call costs.
    """

    def __init__(self, servers: Sequence[grpc.aio.Server]) -> None:
        self._servers = servers

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """As of a server."""
        for server in self._servers:
            server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(
        self, service_name: str, handlers: Mapping[str, Any]
    ) -> None:
        """Nothing: generated code adds the same handlers as generic ones, too."""


def new_server(interceptor: CallInterceptor) -> grpc.aio.Server:
    """A server without ports or services."""
    return grpc.aio.server(
        interceptors=[interceptor],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_concurrent_streams", MAX_STREAMS_A_CONNECTION),
            ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            ("grpc.so_reuseport", 0),
        ],
    )


def bind(
    server: grpc.aio.Server,
    setting: str,
    address: str,
    credentials: grpc.ServerCredentials | None = None,
) -> None:
    """Takes a port. gRPC tells of a failure by an exception or by port 0, as its version has it.

    Raises `ConfigError`.
    """
    try:
        if credentials is None:
            bound = server.add_insecure_port(address) != 0
        else:
            bound = server.add_secure_port(address, credentials) != 0
    except RuntimeError:
        bound = False
    if not bound:
        raise ConfigError(f"{setting} {address} cannot be bound; is it in use?")
