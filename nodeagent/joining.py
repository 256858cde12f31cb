"""How a machine without a certificate that counts comes by one: by a token, or by the old certificate.

Owns the conversation with an enrolment listener, and whom it believes there. Must never send a token to a server that
has not proved to be the controller of the token's domain, under a root that the installer named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from nodeagent.errors import AgentError, OperatorMustAct
from souverix.trust.v1 import join_service_pb2 as service
from souverix.trust.v1 import join_service_pb2_grpc
from trust.authority import new_request
from trust.certificates import (
    dns_names_of,
    fingerprint,
    parse_der,
    to_der,
    to_pem,
    verify_chain,
)
from trust.channels import ClientTls, open_channel, served_certificate
from trust.errors import TrustError
from trust.files import Credentials
from trust.identity import Kind, dns_name_of
from trust.keys import TlsKey
from trust.renewal import sign

CALL_TIMEOUT_S = 20.0
"""For one call: a commit at the controller, and a slow link."""

OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.max_receive_message_length", 256 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)

_LATER = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
"""Answers after which asking again, or another address, may help."""


class JoiningRefused(OperatorMustAct):
    """The controller refuses, or is not to be believed. A person must do something: the text says what."""


class JoiningUnavailable(AgentError):
    """Nobody who may decide answers at an address now."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """The roots that whoever installs the machine vouches for: by file, or by the fingerprint of one."""

    roots: tuple[x509.Certificate, ...] = ()
    fingerprint: str = ""

    def of(self, told: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
        """The roots to believe, of those that were told. Raises JoiningRefused."""
        if self.roots:
            return self.roots
        found = tuple(root for root in told if fingerprint(root) == self.fingerprint)
        if not found:
            shown = ", ".join(fingerprint(root) for root in told) or "none"
            raise JoiningRefused(
                f"no root there has the fingerprint {self.fingerprint} (they are: {shown}); this is another "
                "federation, or somebody in between. Nothing was sent; ask whoever made the token"
            )
        return found


@dataclass(frozen=True, slots=True)
class Believed:
    """A controller that has proved itself."""

    address: str
    tls: ClientTls
    roots: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Somebody must approve this machine first."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that fits the key, and the roots it rests on."""

    certificates: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def believe(
    address: str, domain: str, pinned: Pinned, now: Callable[[], datetime] = _utc_now
) -> Believed:
    """Finds out whether the controller of a domain is at an address. Sends nothing but the question who it is.

    Raises JoiningRefused, JoiningUnavailable.
    """
    try:
        shown = await asyncio.to_thread(served_certificate, address)
        # Held to this very certificate, whose chain is told then and judged: no root is known to gRPC yet.
        only = ClientTls(to_pem([shown]), next(iter(dns_names_of(shown)), None))
        async with _stub(address, only) as stub:
            told = await _asked(address, stub.GetTrustAnchors, service.GetTrustAnchorsRequest())
        roots = pinned.of([parse_der(root) for root in told.roots])
        chain = verify_chain([parse_der(c) for c in told.certificates], roots, now())
    except OSError as error:
        raise JoiningUnavailable(f"{address}: {error.strerror or error}") from error
    except TrustError as error:
        raise JoiningRefused(f"{address} is not to be believed: {error}") from error
    who = chain.identity
    if chain.leaf != shown or (who.kind, who.domain) != (Kind.CONTROLLER, domain):
        raise JoiningRefused(
            f"{address} is {who.principal} of domain {who.domain}, not the controller of {domain}; nothing was sent"
        )
    name = dns_name_of(chain.path, who.trust_domain)
    return Believed(address, ClientTls(to_pem(roots), name), roots)


async def enrol(believed: Believed, token: str, node: str, key: TlsKey) -> Issued | Waiting:
    """Asks for a certificate with a token. May be repeated with the same key.

    Raises JoiningRefused, JoiningUnavailable.
    """
    request = service.EnrolRequest(token=token, node=node, request=new_request(key))
    async with _stub(believed.address, believed.tls) as stub:
        answer = await _asked(believed.address, stub.Enrol, request)
    if answer.HasField("pending"):
        return Waiting(max(1.0, answer.pending.retry_after.ToTimedelta().total_seconds()))
    domain = token.partition(".")[0]
    return checked(answer.issued, believed.roots, key, (Kind.NODE, Kind.RELAY), domain, node)


async def recover(believed: Believed, old: Credentials, key: TlsKey) -> Issued:
    """Has an expired certificate issued again for another key. Raises JoiningRefused, JoiningUnavailable."""
    who = old.identity
    async with _stub(believed.address, believed.tls) as stub:
        begun = await _asked(believed.address, stub.BeginRecovery, service.BeginRecoveryRequest())
        request = new_request(key)
        answer = await _asked(
            believed.address,
            stub.RecoverCertificate,
            service.RecoverCertificateRequest(
                certificate=to_der(old.leaf),
                request=request,
                nonce=begun.nonce,
                signature=sign(old.key, begun.nonce, request),
            ),
        )
    return checked(answer.issued, believed.roots, key, (who.kind,), who.domain, who.name)


def checked(
    issued: service.IssuedCertificate,
    roots: tuple[x509.Certificate, ...],
    key: TlsKey,
    kinds: Sequence[Kind],
    domain: str,
    name: str,
    now: Callable[[], datetime] = _utc_now,
) -> Issued:
    """What was issued, if it is what was asked for. Raises JoiningRefused."""
    try:
        certificates = tuple(parse_der(c) for c in issued.certificates)
        chain = verify_chain(certificates, roots, now())
    except TrustError as error:
        raise JoiningRefused(f"what was issued is not to be used: {error}") from error
    who = chain.identity
    if (
        who.kind not in kinds
        or (who.domain, who.name) != (domain, name)
        or chain.leaf.public_key() != key.public_key()
    ):
        raise JoiningRefused(f"what was issued is a certificate of {who}, not the one asked for")
    return Issued(certificates, roots)


@asynccontextmanager
async def _stub(address: str, tls: ClientTls) -> Any:
    async with open_channel(address, OPTIONS, tls) as channel:
        yield join_service_pb2_grpc.JoinServiceStub(channel)


async def _asked(address: str, method: Any, request: Message) -> Any:
    """The answer to a call. Raises JoiningRefused, JoiningUnavailable."""
    try:
        return await method(request, timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        text = f"{address}: {refusal_text(error)}"
        if error.code() in _LATER:
            raise JoiningUnavailable(text) from error
        raise JoiningRefused(text) from error


def refusal_text(error: grpc.aio.AioRpcError) -> str:
    """The words of a refusal, with its reason."""
    reason = ""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    reason = f" ({info.reason})"
    return f"{error.details() or error.code().name}{reason}"
