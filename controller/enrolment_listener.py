"""The listener for machines that have no certificate that counts: TLS that proves the controller and demands nothing
of the caller, and no service but JoinService and health. Owns its server and bounds.
"""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from controller.replica import Replica
from controller.services.calls import CallInterceptor, RefusalAudit
from controller.services.join import JoinService
from souverix.trust.v1 import join_service_pb2, join_service_pb2_grpc
from trust.channels import ListenerTls
from trust.files import ReloadedCredentials

#: Largest request: a token, a certificate and a request for one take some kilobytes.
MAX_MESSAGE_BYTES = 64 * 1024

#: Calls at once, whoever makes them; more are refused at once. Each takes milliseconds and a commit.
MAX_CALLS = 64

#: Calls of one connection.
MAX_STREAMS_A_CONNECTION = 8

#: A connection that asks for nothing is ended: a machine comes, asks and goes.
MAX_IDLE_MS = 60_000


class EnrolmentListener:
    """The listener of one replica; `bind` takes the port."""

    def __init__(self, replica: Replica, join: JoinService) -> None:
        # Its refusals have a rate of their own: whoever knocks here cannot drown those of the other listener.
        interceptor = CallInterceptor(RefusalAudit(replica), replica.telemetry)
        self.server = grpc.aio.server(
            interceptors=[interceptor],
            maximum_concurrent_rpcs=MAX_CALLS,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", MAX_STREAMS_A_CONNECTION),
                ("grpc.max_connection_idle_ms", MAX_IDLE_MS),
                ("grpc.so_reuseport", 0),
            ],
        )
        join_service_pb2_grpc.add_JoinServiceServicer_to_server(join, self.server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)

    @staticmethod
    def credentials(held: ReloadedCredentials) -> grpc.ServerCredentials:
        """The controller's certificate, and no demand."""
        return ListenerTls(held, demand_certificates=False).credentials()

    async def start(self) -> None:
        """Begins to serve."""
        await self.server.start()
        for name in (
            "",
            *(s.full_name for s in join_service_pb2.DESCRIPTOR.services_by_name.values()),
        ):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
