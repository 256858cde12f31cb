"""The log port on etcd.

Owns appending and trimming: one transaction each, fenced, and its outcome found out before anyone is
told. Never caches what stands in etcd.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

from controller.etcd.access import Access
from controller.etcd.client import Etcd, created_at, delete_range, get, prefix_end, put, value_is
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
from controller.log.etcd_space import reclaim, space
from controller.log.port import (
    EMPTY_HASH,
    MAX_COMMIT_BYTES,
    CommitAt,
    Head,
    Mastership,
    MastershipLease,
    Reclaimed,
    Space,
)
from controller.log.stored import decode_head, encode_commit, encode_head, hash_before_in
from etcdrpc import etcdrpc_pb2 as pb

RESOLVE_TIMEOUT_S = 20.0
"""For finding out what became of an append: several times a common lease, after which this replica
is no longer master and the answer matters to its successor only."""


class EtcdLog:
    """One controller's log below one prefix of an etcd cluster.

    `owns_etcd` says that the etcd serves this log alone, and may be stalled for it.
    """

    def __init__(self, access: Access, prefix: str, *, owns_etcd: bool = False) -> None:
        self._etcd = Etcd(access)
        self._owns_etcd = owns_etcd
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
            start = await self._etcd.range(self._layout.start)
            if orphans.kvs or start.kvs:
                raise LogCorrupt(
                    f"there is a log below {self._layout.prefix} but no {key.decode()}; "
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
            await self._reader.refuse_trimmed(offset)
        raise LogCorrupt(f"commit {offset} is missing")

    async def start(self) -> Head:
        """As StoredLog.start."""
        with as_log_errors():
            reply = await self._etcd.range(self._layout.start)
        if reply.kvs:
            return decode_head(reply.kvs[0].value)
        return Head(0, EMPTY_HASH, (await self.head()).nonce)

    async def trim(self, mastership: Mastership, expected: Head, start: Head) -> None:
        """As StoredLog.trim."""
        key, fresh = self._layout.start, encode_head(start)
        untrimmed = expected.next_offset == 0
        compare = [
            created_at(self._layout.mastership, mastership.token),
            created_at(key, 0) if untrimmed else value_is(key, encode_head(expected)),
        ]
        dropped = delete_range(self._layout.commits, self._layout.commit(start.next_offset))
        failure = [get(key), get(self._layout.mastership)]
        reply = await self._propose_until_answered(compare, [put(key, fresh), dropped], failure)
        if reply.succeeded:
            return
        standing, master = (response.response_range.kvs for response in reply.responses)
        if standing and standing[0].value == fresh:
            return
        _check_mastership(master, mastership)
        found = decode_head(standing[0].value).next_offset if standing else 0
        raise HeadMoved(f"the log starts at {found}, not at {expected.next_offset}")

    async def reclaim(self) -> Reclaimed:
        """As StoredLog.reclaim. The file is made smaller only where the etcd is our own."""
        with as_log_errors():
            start = (await self._etcd.range(self._layout.start)).kvs
            if not start:
                return Reclaimed(0, 0.0)
            # The start was moved by the transaction that dropped the commits before it.
            return await reclaim(self._etcd, start[0].mod_revision, rewrite=self._owns_etcd)

    async def space(self) -> Space:
        """As StoredLog.space."""
        with as_log_errors():
            return await space(self._etcd)

    async def note_archived(self, replica: str, offset: int) -> None:
        """As StoredLog.note_archived."""
        with as_log_errors():
            await self._etcd.put(self._layout.archived + replica.encode(), b"%d" % offset)

    async def archived(self) -> dict[str, int]:
        """As StoredLog.archived."""
        prefix = self._layout.archived
        with as_log_errors():
            reply = await self._etcd.range(prefix, prefix_end(prefix))
        return {kv.key[len(prefix) :].decode(): int(kv.value) for kv in reply.kvs}

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
    _check_mastership(master, mastership)
    if not head:
        raise LogCorrupt("the log's head is gone")
    found = decode_head(head[0].value)
    if found.nonce != expected.nonce:
        raise LogCorrupt("this is another log than the one opened: its nonce differs")
    raise HeadMoved(f"the log ends at {found.next_offset}, not at {expected.next_offset}")


def _check_mastership(master: Sequence[pb.KeyValue], mastership: Mastership) -> None:
    if not master or master[0].create_revision != mastership.token:
        now = f"{master[0].value.decode()} is" if master else "nobody is"
        raise Fenced(f"mastership {mastership.token} has ended; {now} master now")
