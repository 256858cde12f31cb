"""AuditService: lists, follows and verifies the audit log. Owns the calls, their bounds and their slices of time;
what an entry or a verdict is, its modules say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from controller.errors import ServiceError
from controller.log.errors import LogCorrupt
from controller.replica import Replica
from controller.services.audit_reading import AuditReading, entry_of, place_of
from controller.services.audit_verification import LOG_LANE, Verification
from controller.services.fleet_fields import check_domain_filter
from controller.services.paging import page_of
from controller.services.watching import MAX_WATCH_AGE_S
from federation.identifiers import Lane, StreamId
from souverix.audit.v1 import audit_pb2, audit_service_pb2_grpc
from souverix.audit.v1 import audit_service_pb2 as service

#: Entries looked at for one page. A filter that matches little ends its page early, with a token to go on.
MAX_SCANNED = 20_000

#: Commits read from the log for one page: a page of entries that are long past takes well under a second.
MAX_COMMITS_A_PAGE = 256

#: Entries looked at before others get their turn: about a millisecond.
SLICE_ENTRIES = 256

#: Bytes of the log read at once by a verification.
VERIFY_READ_BYTES = 1024 * 1024

#: Time a verification works before others get their turn; a caller of another method waits no longer for it.
SLICE_S = 0.005

#: Verifications at once: each keeps half a core busy.
MAX_VERIFICATIONS = 2


class AuditService(audit_service_pb2_grpc.AuditServiceServicer):
    """The service of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._verifications = 0

    async def ListAuditEntries(  # noqa: N802 named by the contract
        self, request: service.ListAuditEntriesRequest, context: Any
    ) -> service.ListAuditEntriesResponse:
        """A page of entries, newest first."""
        check_domain_filter(request.domain)
        page = page_of(request)
        reading = AuditReading(self._replica, request.domain)
        response = service.ListAuditEntriesResponse()
        scanned = 0
        last = place_of(page.after) if page.after else None
        async with aclosing(reading.entries(last)) as entries:
            async for place, entry in entries:
                if (
                    len(response.entries) == page.size
                    or scanned == MAX_SCANNED
                    or reading.commits_read > MAX_COMMITS_A_PAGE
                ) and last is not None:
                    response.next_page_token = page.token(last.text())
                    break
                last = place
                scanned += 1
                if entry is not None and _matches(entry.record, request):
                    response.entries.append(entry)
                if scanned % SLICE_ENTRIES == 0:
                    await asyncio.sleep(0)
        return response

    async def WatchAuditEntries(  # noqa: N802
        self, request: service.WatchAuditEntriesRequest, context: Any
    ) -> AsyncIterator[service.WatchAuditEntriesResponse]:
        """Entries as they come into effect, until the stream's age ends it."""
        check_domain_filter(request.domain)
        now = asyncio.get_running_loop().time
        end = now() + MAX_WATCH_AGE_S
        with self._replica.changes.subscribe() as subscription:
            while (left_s := end - now()) > 0:
                applied = await subscription.next(left_s)
                for item in applied.audits if applied is not None else ():
                    if not request.domain or item.stream.domain == request.domain:
                        entry = entry_of(item.stream, item.write.sequence, item.write.event())
                        yield service.WatchAuditEntriesResponse(entry=entry)

    async def VerifyAudit(  # noqa: N802
        self, request: service.VerifyAuditRequest, context: Any
    ) -> AsyncIterator[service.VerifyAuditResponse]:
        """Reads the log from its beginning and checks it; progress, verdicts, summary."""
        if self._verifications >= MAX_VERIFICATIONS:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "VERIFICATIONS_RUNNING",
                f"{MAX_VERIFICATIONS} verifications run already; retry when one has ended",
                retry_after_ms=10_000,
            )
        check_domain_filter(request.domain)
        self._verifications += 1
        try:
            async for step in self._verify(request):
                yield step
        finally:
            self._verifications -= 1

    async def _verify(
        self, request: service.VerifyAuditRequest
    ) -> AsyncIterator[service.VerifyAuditResponse]:
        def is_wanted(stream: StreamId) -> bool:
            return (request.all_lanes or stream.lane is Lane.AUDIT) and (
                not request.domain or stream.domain == request.domain
            )

        replica = self._replica
        verification = Verification(replica.state, replica.signer, replica.verifier, is_wanted)
        yield _progress(verification)
        async for _ in self._read(verification):
            yield _progress(verification)
        verdicts = verification.verdicts()
        if verification.log_fault:
            yield service.VerifyAuditResponse(stream=self._log_verdict(verification))
        for verdict in verdicts:
            yield service.VerifyAuditResponse(stream=verdict)
        yield service.VerifyAuditResponse(
            summary=service.VerifySummary(
                streams=len(verdicts),
                events=sum(v.events for v in verdicts),
                faulty_streams=sum(not v.intact for v in verdicts) + bool(verification.log_fault),
                head_hash=verification.log_hash.hex(),
            )
        )

    async def _read(self, verification: Verification) -> AsyncIterator[None]:
        """Feeds the log to the verification, page by page. A page that does not join is read commit by commit, down
        to the place; what cannot be read at all ends the reading.
        """
        log = self._replica.log
        max_bytes = VERIFY_READ_BYTES
        while verification.next_offset < verification.end:
            try:
                hash_before = await log.hash_before(verification.next_offset)
                page = await log.read(verification.next_offset, max_bytes)
            except (LogCorrupt, IndexError) as error:
                if max_bytes == 1:
                    verification.blame(f"commit {verification.next_offset} cannot be read: {error}")
                    return
                max_bytes = 1
                continue
            verification.joins(hash_before)
            if not page:
                verification.blame(
                    f"the log ends at {verification.next_offset}; {verification.end} commits were taken in"
                )
                return
            await _take(verification, page)
            max_bytes = min(max_bytes * 8, VERIFY_READ_BYTES)
            yield
        try:
            verification.joins(await log.hash_before(verification.end))
        except (LogCorrupt, IndexError) as error:
            verification.blame(f"the end of the log cannot be read: {error}")

    def _log_verdict(self, verification: Verification) -> service.StreamVerdict:
        """The verdict on the log's own chain, which holds all streams together."""
        config = self._replica.config.controller
        return service.StreamVerdict(
            domain=config.domain,
            controller=config.id,
            incarnation=self._replica.incarnation,
            lane=LOG_LANE,
            events=verification.next_offset,
            fault=verification.log_fault,
        )


async def _take(verification: Verification, page: list[tuple[int, bytes]]) -> None:
    slice_end_s = time.monotonic() + SLICE_S
    for offset, data in page:
        if offset >= verification.end:
            return
        for _ in verification.take(offset, data):
            if time.monotonic() >= slice_end_s:
                await asyncio.sleep(0)
                slice_end_s = time.monotonic() + SLICE_S


def _matches(record: audit_pb2.AuditRecord, request: service.ListAuditEntriesRequest) -> bool:
    return (
        request.principal in ("", record.principal)
        and request.resource in ("", record.resource)
        and request.outcome in (audit_pb2.AUDIT_OUTCOME_UNSPECIFIED, record.outcome)
    )


def _progress(verification: Verification) -> service.VerifyAuditResponse:
    return service.VerifyAuditResponse(
        progress=service.VerifyProgress(
            commits_read=verification.next_offset, commits_total=verification.end
        )
    )
