"""Renews the certificate of an agent or a relay without hands, after two thirds of its life; recovers it at the
enrolment listener when it has ended.

Owns when, and the file. Leaves the change of streams to who holds them: they see another certificate in the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import grpc
import grpc.aio

from nodeagent.certificates import AgentCertificate
from nodeagent.joining import (
    CALL_TIMEOUT_S,
    OPTIONS,
    Issued,
    JoiningRefused,
    JoiningUnavailable,
    Pinned,
    believe,
    checked,
    recover,
    refusal_text,
)
from nodeagent.logs import EventLog
from nodeagent.waiting import first_set
from souverix.trust.v1 import join_service_pb2 as service
from souverix.trust.v1 import join_service_pb2_grpc
from trust.authority import new_request, renewal_time
from trust.certificates import to_der
from trust.channels import ClientTls, open_channel
from trust.errors import TrustError
from trust.files import Credentials
from trust.keys import TlsKey, new_tls_key
from trust.renewal import sign

LOOK_S = 30.0
"""How often it is asked whether the certificate is due. A third of its life is left then: eight hours of a day."""

FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 900.0
"""Pauses after a failure, doubled each time: some thirty attempts in eight hours."""

SPREAD = 0.25
"""Part of what is left of the life over which machines that were enrolled together renew."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Renewer:
    """Keeps one certificate good. `to_server` says how the addresses are dialled; `enrolment` are those of listeners
    where an expired one is recovered (none: a person must).
    """

    def __init__(
        self,
        certificate: AgentCertificate,
        to_server: Callable[[], ClientTls],
        addresses: Sequence[str],
        enrolment: Sequence[str],
        chance: Callable[[], float],
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._certificate = certificate
        self._to_server = to_server
        self._addresses = tuple(addresses)
        self._enrolment = tuple(enrolment)
        self._chance = chance
        self._now = now
        self._log = EventLog(certificate.identity.name)

    async def run(self, stop: asyncio.Event) -> None:
        """Renews until `stop` is set."""
        if not self._certificate.is_replaceable:
            self._log.warning("not_renewed", cause="certificate and key lie in two files")
            return
        pause_s, part = FIRST_PAUSE_S, self._chance() * SPREAD
        while not stop.is_set():
            leaf = self._certificate.current().leaf
            due = renewal_time(leaf)
            due += (leaf.not_valid_after_utc - due) * part
            wait_s = LOOK_S
            if self._now() >= due:
                if await self.renew():
                    pause_s, part = FIRST_PAUSE_S, self._chance() * SPREAD
                else:
                    wait_s = pause_s * (0.5 + self._chance() / 2)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            await first_set(stop, timeout_s=wait_s)

    async def renew(self) -> bool:
        """Renews now, at the first address that does; tells whether one did."""
        credentials = self._certificate.current()
        key = new_tls_key()
        expired = self._now() > credentials.leaf.not_valid_after_utc
        issued: Issued | None = None
        for address in self._enrolment if expired else self._addresses:
            try:
                ask = self._recovered if expired else self._renewed
                issued = await ask(address, credentials, key)
                break
            except (JoiningRefused, JoiningUnavailable) as error:
                self._log.warning("not_renewed", controller=address, cause=error)
        if expired and not self._enrolment:
            self._log.error(
                "certificate_expired",
                cause="name the enrolment listener (--enrolment HOST:PORT), or run souverix-node recover",
            )
        if issued is None:
            return False
        try:
            self._certificate.replace(key, issued.certificates)
        except TrustError as error:
            self._log.error("not_renewed", cause=error)
            return False
        self._certificate.current()
        return True

    async def _renewed(self, address: str, credentials: Credentials, key: TlsKey) -> Issued:
        request = new_request(key)
        asked = service.RenewCertificateRequest(
            certificate=to_der(credentials.leaf),
            request=request,
            signature=sign(credentials.key, b"", request),
        )
        async with open_channel(address, OPTIONS, self._to_server()) as channel:
            stub = join_service_pb2_grpc.RenewalServiceStub(channel)
            try:
                answer = await stub.RenewCertificate(asked, timeout=CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise JoiningUnavailable(refusal_text(error)) from error
        who = credentials.identity
        return checked(
            answer.issued, credentials.roots, key, (who.kind,), who.domain, who.name, self._now
        )

    async def _recovered(self, address: str, credentials: Credentials, key: TlsKey) -> Issued:
        pinned = Pinned(roots=credentials.roots)
        believed = await believe(address, credentials.identity.domain, pinned, self._now)
        return await recover(believed, credentials, key)
