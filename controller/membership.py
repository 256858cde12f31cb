"""Puts together what lets machines into a domain: the authority, the services of tokens and certificates, the enrolment
listener, the renewal of the controller's own certificate. Owns their wiring; decides nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from controller.bearer import Bearers
from controller.config import ConfigError, ControllerConfig
from controller.enrolment.errors import AuthorityNotHeld
from controller.enrolment.queue import Waiting
from controller.enrolment_listener import EnrolmentListener
from controller.issuing import Issuer
from controller.own_renewal import OwnRenewal
from controller.renewing import Renewals
from controller.replica import Replica
from controller.services.enrolment import EnrolmentService
from controller.services.join import JoinService
from controller.services.renewal import RenewalService
from souverix.trust.v1 import (
    enrolment_service_pb2_grpc,
    join_service_pb2,
    join_service_pb2_grpc,
)

Bind = Callable[[grpc.aio.Server, str, str, grpc.ServerCredentials], None]


class Membership:
    """What one replica has to do with enrolment. Raises `ConfigError` for an authority that cannot be used."""

    def __init__(self, config: ControllerConfig, replica: Replica, bearers: Bearers | None) -> None:
        self._config = config
        self._replica = replica
        self._waiting: Waiting | None = None
        self._listening = contextlib.ExitStack()
        domain = config.controller.domain
        self.own_renewal: OwnRenewal | None = None
        self._join: JoinService | None = None
        self._listener: EnrolmentListener | None = None
        issuer, renewals = None, None
        if config.authority is not None and config.tls is not None and bearers is not None:
            issuer = Issuer(config.authority, domain, bearers.held)
            try:
                issuer.authority()
            except AuthorityNotHeld as error:
                raise ConfigError(f"authority: {error}") from error
            renewals = Renewals(replica, issuer, bearers)
            self._join = JoinService(replica, issuer, bearers, renewals, self._count)
            if config.tls.directory:
                self.own_renewal = OwnRenewal(issuer, bearers.held, Path(config.tls.directory))
        self._bearers = bearers
        self.enrolment = EnrolmentService(replica, issuer, self._count)
        self._renewal = RenewalService(domain, issuer, bearers, renewals)

    def add_services(self, people: Any, machines: Any) -> list[str]:
        """Adds those that people call and those of machines with a certificate; the names of the latter."""
        enrolment_service_pb2_grpc.add_EnrolmentServiceServicer_to_server(self.enrolment, people)
        join_service_pb2_grpc.add_RenewalServiceServicer_to_server(self._renewal, machines)
        services = join_service_pb2.DESCRIPTOR.services_by_name
        return [services["RenewalService"].full_name]

    def bind(self, bind: Bind) -> None:
        """Takes the port of the enrolment listener, if there is to be one."""
        address = self._config.listen.enrolment_address
        if address and self._join is not None and self._bearers is not None:
            self._listener = EnrolmentListener(self._replica, self._join)
            credentials = EnrolmentListener.credentials(self._bearers.held)
            bind(self._listener.server, "listen.enrolment_address", address, credentials)

    async def start(self) -> None:
        """Begins to let in."""
        if self._listener is not None:
            await self._listener.start()

    async def stop(self, grace_s: float) -> None:
        """Ends."""
        self._listening.close()
        if self._listener is not None:
            await self._listener.server.stop(grace_s)

    def _count(self) -> Waiting:
        """What is open and waits; counted when first asked for, and followed from then on."""
        if self._waiting is None:
            self._waiting = Waiting(self._replica.state)
            self._listening.enter_context(self._replica.changes.listen(self._waiting.note))
        return self._waiting
