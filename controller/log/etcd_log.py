"""The log port on etcd.

Owns appending: one transaction, fenced, and its outcome found out before anyone is told. Never
caches what stands in etcd.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from controller.etcd.access import Access
from controller.etcd.client import Etcd, created_at, get, prefix_end, put, value_is
from controller.etcd.connection import Pauses
from controller.etcd.errors import EtcdError, EtcdRefused
from controller.etcd.errors import OutcomeUnknown as AnswerLost
from controller.log.errors import (
    CommitTooLarge,
    Fenced,
    HeadMoved,
    LogCorrupt,
    LogRefused,
    LogUnavailable,
    OutcomeUnknown,
)
from controller.log.etcd_layout import Layout, as_log_errors
from controller.log.etcd_mastership import campaign
from controller.log.etcd_reader import CommitReader
from controller.log.port import (
    EMPTY_HASH,
    MAX_COMMIT_BYTES,
    CommitAt,
    Head,
    Mastership,
    MastershipLease,
)
from controller.log.stored import decode_head, encode_commit, encode_head, hash_before_in
from etcdrpc import etcdrpc_pb2 as pb

RESOLVE_TIMEOUT_S = 20.0
"""For finding out what became of an append: several times a common lease, after which this replica
is no longer master and the answer matters to its successor only."""


class EtcdLog:
    """One controller's log below one prefix of an etcd cluster."""

    def __init__(self, access: Access, prefix: str) -> None:
        self._etcd = Etcd(access)
        self._layout = Layout(prefix.rstrip("/"))
        self._reader = CommitReader(self._etcd, self._layout)

    @property
    def identity(self) -> str:
        """The etcd cluster's id; known once opened."""
        return f"{self._etcd.cluster_id:016x}"

    async def open(self, fresh_nonce: bytes) -> Head:
        """As Log.open."""
        fresh = encode_head(Head(0, EMPTY_HASH, fresh_nonce))
        key, commits = self._layout.head, self._layout.commits
        with as_log_errors():
            await self._etcd.open()
            present = await self._etcd.range(key)
            if present.kvs:
                return decode_head(present.kvs[0].value)
            orphans = await self._etcd.range(commits, prefix_end(commits), limit=1)
            if orphans.kvs:
                raise LogCorrupt(
                    f"there are commits below {commits.decode()} but no {key.decode()}; "
                    "restore the head, or choose an empty prefix"
                )
            # If this outcome stays unknown, opening again finds out.
            reply = await self._etcd.txn([created_at(key, 0)], [put(key, fresh)], [get(key)])
        if reply.succeeded:
            return decode_head(fresh)
        return decode_head(reply.responses[0].response_range.kvs[0].value)

    async def close(self) -> None:
        """As Log.close."""
        await self._reader.close()
        await self._etcd.close()

    async def head(self) -> Head:
        """As Log.head."""
        with as_log_errors():
            reply = await self._etcd.range(self._layout.head)
        if not reply.kvs:
            raise LogCorrupt(f"{self._layout.head.decode()} is gone")
        return decode_head(reply.kvs[0].value)

    async def append(self, mastership: Mastership, expected: Head, commit: bytes) -> Head:
        """As Log.append."""
        if len(commit) > MAX_COMMIT_BYTES:
            raise CommitTooLarge(
                f"a commit of {len(commit)} bytes exceeds {MAX_COMMIT_BYTES}; split it"
            )
        appended = expected.after(commit)
        key = self._layout.commit(expected.next_offset)
        stored = encode_commit(expected.hash, commit)
        compare = [
            created_at(self._layout.mastership, mastership.token),
            value_is(self._layout.head, encode_head(expected)),
        ]
        success = [put(key, stored), put(self._layout.head, encode_head(appended))]
        failure = [get(key), get(self._layout.mastership), get(self._layout.head)]
        reply = await self._propose_until_answered(compare, success, failure)
        if not reply.succeeded:
            _check_refusal(reply, mastership, expected, stored)
        self._reader.appended(expected.next_offset, len(commit))
        return appended

    async def _propose_until_answered(
        self,
        compare: list[pb.Compare],
        success: list[pb.RequestOp],
        failure: list[pb.RequestOp],
    ) -> pb.TxnResponse:
        """Propose the identical transaction until one answer comes.

        Its conditions let at most one of the proposals through, and once one has been answered no
        earlier one can come into effect any more: the head has moved, or the mastership has gone.
        """
        end_s = time.monotonic() + RESOLVE_TIMEOUT_S
        pauses = Pauses()
        doubt: EtcdError | None = None
        while True:
            try:
                return await self._etcd.txn(compare, success, failure)
            except AnswerLost as error:
                doubt = error
            except EtcdError as error:
                if doubt is None:
                    refused = isinstance(error, EtcdRefused)
                    raise (LogRefused if refused else LogUnavailable)(str(error)) from error
                doubt = error
            pause_s = pauses.next_s()
            if time.monotonic() + pause_s >= end_s:
                raise OutcomeUnknown(
                    f"no answer for {RESOLVE_TIMEOUT_S:.0f} s, last: {doubt}"
                ) from doubt
            await asyncio.sleep(pause_s)

    async def read(self, first_offset: int, max_bytes: int) -> list[CommitAt]:
        """As Log.read."""
        with as_log_errors():
            return await self._reader.read(first_offset, max_bytes)

    async def hash_before(self, offset: int) -> bytes:
        """As Log.hash_before."""
        # The head first: a commit appended between the two reads must not look like one that is missing.
        head = await self.head()
        if offset == head.next_offset:
            return head.hash
        if offset > head.next_offset:
            raise IndexError(f"the log ends at {head.next_offset}, before {offset}")
        with as_log_errors():
            reply = await self._etcd.range(self._layout.commit(offset))
        if reply.kvs:
            return hash_before_in(reply.kvs[0].value)
        raise LogCorrupt(f"commit {offset} is missing")

    def follow(self, first_offset: int) -> AsyncGenerator[list[CommitAt], None]:
        """As Log.follow."""
        return self._reader.follow(first_offset)

    async def campaign(self, candidate: str, ttl_s: float) -> MastershipLease:
        """As Log.campaign."""
        with as_log_errors():
            return await campaign(self._etcd, self._layout.mastership, candidate, ttl_s)

    async def current_master(self) -> str | None:
        """As Log.current_master."""
        with as_log_errors():
            reply = await self._etcd.range(self._layout.mastership)
        return reply.kvs[0].value.decode() if reply.kvs else None


def _check_refusal(
    reply: pb.TxnResponse, mastership: Mastership, expected: Head, stored: bytes
) -> None:
    """Return if the commit stands all the same: an earlier proposal of it came through."""
    standing, master, head = (response.response_range.kvs for response in reply.responses)
    if standing and standing[0].value == stored:
        return
    if not master or master[0].create_revision != mastership.token:
        now = f"{master[0].value.decode()} is" if master else "nobody is"
        raise Fenced(f"mastership {mastership.token} has ended; {now} master now")
    if not head:
        raise LogCorrupt("the log's head is gone")
    found = decode_head(head[0].value)
    if found.nonce != expected.nonce:
        raise LogCorrupt("this is another log than the one opened: its nonce differs")
    raise HeadMoved(f"the log ends at {found.next_offset}, not at {expected.next_offset}")
