"""Passes renewals of agents' certificates on to the controller: an agent behind a relay may reach nothing else.

Owns who may ask here, and how many at once. Must never see a private key: what is passed on is signed by the agent, and
of use to it alone.
"""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from nodeagent.joining import CALL_TIMEOUT_S
from nodeagent.relay_upstream import Upstream
from souverix.trust.v1 import join_service_pb2 as service
from souverix.trust.v1 import join_service_pb2_grpc
from trust.certificates import parse_pem, to_der
from trust.errors import CertificateRefused

MAX_AT_ONCE = 16
"""Renewals under way: each is a call to the controller. Agents ask again."""


class RelayRenewal(join_service_pb2_grpc.RenewalServiceServicer):
    """Serves the agents of one relay."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._under_way = 0

    async def RenewCertificate(  # noqa: N802 the method's name in the contract
        self, request: service.RenewCertificateRequest, context: Any
    ) -> service.RenewCertificateResponse:
        """An agent's renewal, answered by the controller."""
        if not _shows(context, request.certificate):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "an agent has the certificate renewed here by which it is connected, and no other",
            )
        channel = self._upstream.channel
        if channel is None or self._under_way >= MAX_AT_ONCE:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE,
                "the relay cannot pass this on now: its controller is away, or many ask at once; try again later",
            )
        self._under_way += 1
        try:
            stub = join_service_pb2_grpc.RenewalServiceStub(channel)
            answer: service.RenewCertificateResponse = await stub.RenewCertificate(
                request, timeout=CALL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            context.set_trailing_metadata(
                tuple(
                    (key, value)
                    for key, value in error.trailing_metadata() or ()
                    if key == "grpc-status-details-bin"
                )
            )
            await context.abort(error.code(), error.details() or "")
            raise
        finally:
            self._under_way -= 1
        return answer


def _shows(context: Any, certificate: bytes) -> bool:
    shown = context.auth_context().get("x509_pem_cert")
    if not shown:
        return False
    try:
        return to_der(parse_pem(shown[0])[0]) == certificate
    except CertificateRefused:
        return False
