"""A controller as it runs, with its domain's authority and an enrolment listener, by mutual TLS over real sockets; and
machines that come to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.app import running
from controller.config_file import load_config
from controller.replica import Replica
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from nodeagent.joining import Believed, Issued, Pinned, believe
from souverix.audit.v1 import audit_pb2
from souverix.trust.v1 import (
    enrolment_pb2,
    enrolment_service_pb2,
    enrolment_service_pb2_grpc,
    join_service_pb2,
    join_service_pb2_grpc,
    revocation_service_pb2_grpc,
)
from tests.unit.controller.live_controllers import until
from trust.authority import new_request
from trust.channels import ClientTls, open_channel
from trust.files import write_identity, write_roots
from trust.keys import TlsKey, to_pem

DOMAIN = "global"
PLAN = DomainPlan(DOMAIN, kind="global", level="global", log="sqlite")
NODE = enrolment_pb2.ENROLMENT_KIND_NODE
RELAY = enrolment_pb2.ENROLMENT_KIND_RELAY
DEADLINE_S = 20.0


@dataclass
class Enrolling:
    """The running controller, stubs of an admin, and what newcomers need."""

    federation: LocalFederation
    replica: Replica
    people: Any
    revocations: Any
    join: Any

    @property
    def address(self) -> str:
        return self.federation.enrolment_address(DOMAIN)

    @property
    def pinned(self) -> Pinned:
        return Pinned(fingerprint=self.federation.certificates.root_fingerprint)

    async def believed(self) -> Believed:
        return await believe(self.address, DOMAIN, self.pinned)

    async def token(self, kind: Any = NODE, **spec: Any) -> str:
        """A new token, as its maker is told of it."""
        request = enrolment_service_pb2.CreateEnrolmentTokenRequest(
            spec=enrolment_pb2.EnrolmentTokenSpec(kind=kind, **spec)
        )
        reply = await self.people.CreateEnrolmentToken(request, timeout=DEADLINE_S)
        assert reply.root_fingerprint == self.federation.certificates.root_fingerprint
        secret: str = reply.secret
        return secret

    async def enrol(self, token: str, node: str, key: TlsKey) -> join_service_pb2.EnrolResponse:
        """One bare call."""
        request = join_service_pb2.EnrolRequest(token=token, node=node, request=new_request(key))
        reply: join_service_pb2.EnrolResponse = await self.join.Enrol(request, timeout=DEADLINE_S)
        return reply

    def audited(self, action: str) -> list[audit_pb2.AuditRecord]:
        records = [item.write.body() for item in self.replica.state.audits]
        return [record for record in records if record.action == action]

    def refused(self) -> list[str]:
        """Reasons of refusals at the enrolment listener in the audit log."""
        return [
            item.write.body().reason
            for item in self.replica.state.audits
            if "JoinService" in item.write.body().action
        ]


def laid_out(directory: Path) -> LocalFederation:
    """The files of a root's controller that enrols machines."""
    federation = LocalFederation(
        directory, [PLAN], secured=True, admins=["user:operator"], enrolling=[DOMAIN]
    )
    federation.lay_out()
    return federation


@contextlib.asynccontextmanager
async def enrolling(federation: LocalFederation) -> AsyncIterator[Enrolling]:
    """The controller, as it runs."""
    async with (
        running(load_config(federation.config_path(DOMAIN))) as replica,
        open_channel(federation.address(DOMAIN), (), federation.client_tls(DOMAIN)) as channel,
    ):
        await until(lambda: replica.is_master, "the mastership")
        await until(lambda: DOMAIN in replica.state.authority.records, "the genesis")
        listener = federation.enrolment_address(DOMAIN)
        certificates = federation.certificates
        roots = certificates.client_tls(DOMAIN).roots_pem
        tls = ClientTls(roots, certificates.client_tls(DOMAIN).server_name)
        async with open_channel(listener, (), tls) as newcomers:
            await newcomers.channel_ready()
            yield Enrolling(
                federation,
                replica,
                enrolment_service_pb2_grpc.EnrolmentServiceStub(channel),
                revocation_service_pb2_grpc.RevocationServiceStub(channel),
                join_service_pb2_grpc.JoinServiceStub(newcomers),
            )


def kept(directory: Path, key: TlsKey, issued: Issued) -> Path:
    """Writes what was issued as a machine does."""
    directory.mkdir(parents=True, exist_ok=True)
    write_roots(directory, issued.roots)
    write_identity(directory, to_pem(key), issued.certificates)
    return directory
