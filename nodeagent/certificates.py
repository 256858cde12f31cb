"""The certificate of an agent or a relay: what it shows, whom it dials, and when it dials anew.

Owns the files and the look at them, what is signed with their key, and the judgement of agents by a relay. Never ends a
stream itself: it says when a renewed certificate has been taken by the other side, so that the new way is known to be
open before the old is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
from cryptography import x509

from nodeagent.errors import SettingsInvalid
from nodeagent.logs import EventLog
from souverix.nodelink.v1 import nodelink_pb2
from trust.certificates import check_issued, identity_of, parse_pem, to_der, to_pem
from trust.channels import ClientTls, ListenerTls, Options, open_channel
from trust.errors import CertificateRefused, FilesUnusable, TrustError
from trust.files import Credentials, ReloadedCredentials, TrustFiles, write_file
from trust.identity import Identity, Kind, nodes_name_of
from trust.keys import TlsKey, sign_as_bearer
from trust.keys import to_pem as key_to_pem

LOOK_S = 5.0
"""How often files are looked at: a renewed certificate is in use within this, and a third of its life is left."""

PROOF_TIMEOUT_S = 10.0
"""For the other side to take a renewed certificate."""

Vouch = Callable[[bytes], nodelink_pb2.KeyVoucher]
"""A certificate's word for a message."""

_PROOF = "/grpc.health.v1.Health/Check"
"""Asked to learn whether a certificate is taken: what is said otherwise does not matter."""

_NOT_TAKEN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


class AgentCertificate:
    """One bearer's certificate, as its files have it. Raises SettingsInvalid when they cannot be used."""

    def __init__(self, files: TrustFiles, log: EventLog) -> None:
        self.files = files
        self._log = log
        try:
            self._held = ReloadedCredentials(files)
            self.identity: Identity = self._held.current.identity
        except (FilesUnusable, CertificateRefused) as error:
            raise SettingsInvalid(f"tls: {error}") from error

    def current(self) -> Credentials:
        """What is shown now; files that were replaced are read, ones that cannot be used are passed over."""
        try:
            if self._held.reload():
                until = self._held.current.leaf.not_valid_after_utc.isoformat()
                self._log.info("certificate_renewed", valid_until=until)
        except TrustError as error:
            self._log.error("certificate_unreadable", cause=error)
        return self._held.current

    def to_nodes_service(self) -> ClientTls:
        """For an agent: to the controller of its domain, or to a relay of it."""
        credentials = self.current()
        return ClientTls.of(credentials, nodes_name_of(credentials.controller_name()))

    def to_controller(self) -> ClientTls:
        """For a relay: to the controller of its domain."""
        credentials = self.current()
        return ClientTls.of(credentials, credentials.controller_name())

    def listener(self) -> grpc.ServerCredentials:
        """For a relay: towards its agents."""
        return ListenerTls(self._held).credentials()

    async def renewed(self, used: ClientTls, address: str, options: Options) -> None:
        """Returns once another certificate than the one used is there and was taken at the address."""
        while True:
            await asyncio.sleep(LOOK_S)
            credentials = self.current()
            if credentials.chain_pem == used.chain_pem:
                continue
            fresh = ClientTls.of(credentials, used.server_name)
            if await _is_taken(fresh, address, options):
                return
            self._log.warning("certificate_not_taken", controller=address)

    def vouch(self, message: bytes) -> nodelink_pb2.KeyVoucher:
        """The present certificate's word for a message."""
        return vouch_by(self.current(), message)

    def replace(self, key: TlsKey, certificates: Sequence[x509.Certificate]) -> None:
        """Puts another key and chain in place of those in the file, both or neither. Raises FilesUnusable."""
        pem = key_to_pem(key) + to_pem(certificates)
        write_file(self.files.certificate, pem, private=True)

    @property
    def is_replaceable(self) -> bool:
        """Tells whether key and chain lie in one file, so that they can be replaced together."""
        return self.files.certificate == self.files.key

    def judge_agent(self, context: Any, node: str) -> str:
        """For a relay: why the agent that calls is not the one of a node of this domain; empty: it is."""
        shown = context.auth_context().get("x509_pem_cert")
        if not shown:
            return "no certificate was shown"
        own = self._held.current
        known = [c for c in own.authorities if identity_of(c).domain == self.identity.domain]
        try:
            leaf: x509.Certificate = parse_pem(shown[0])[0]
            check_issued(leaf, known, datetime.now(UTC))
            named = identity_of(leaf)
        except CertificateRefused as error:
            return str(error)
        if named.kind is Kind.RELAY or (named.kind, named.name) == (Kind.NODE, node):
            return ""
        return f"the certificate is of {named.principal}, not of {node}"


def vouch_by(credentials: Credentials, message: bytes) -> nodelink_pb2.KeyVoucher:
    """A certificate's word for a message: its bearer's key signs it."""
    return nodelink_pb2.KeyVoucher(
        certificate=to_der(credentials.leaf), signature=sign_as_bearer(credentials.key, message)
    )


def certificate_of(files: TrustFiles, name: str, kinds: Sequence[Kind]) -> AgentCertificate:
    """The certificate of a node or relay. Raises SettingsInvalid where it is another's."""
    certificate = AgentCertificate(files, EventLog(name))
    identity = certificate.identity
    if identity.name != name or identity.kind not in kinds:
        raise SettingsInvalid(
            f"tls: the certificate is of {identity}, and this is {' or '.join(kinds)} {name}"
        )
    return certificate


async def _is_taken(tls: ClientTls, address: str, options: Options) -> bool:
    async with open_channel(address, options, tls) as channel:
        ask: Any = channel.unary_unary(_PROOF)
        try:
            await ask(b"", timeout=PROOF_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return error.code() not in _NOT_TAKEN
        return True
