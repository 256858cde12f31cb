"""The etcd client: reads, writes, transactions, watches and leases on one cluster.

Owns the shapes of the requests. Never repeats a write whose answer is missing: it raises
OutcomeUnknown, and who knows what the write means finds out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Self

from controller.etcd.access import Access
from controller.etcd.connection import TRY_TIMEOUT_S, Connection
from controller.etcd.errors import EtcdRefused
from controller.etcd.lease import Lease, now_s
from controller.etcd.watch import Changes, watch
from etcdrpc import etcdrpc_pb2 as pb


def prefix_end(prefix: bytes) -> bytes:
    """The exclusive end of the range of all keys that begin with `prefix`."""
    stem = prefix.rstrip(b"\xff")
    if not stem:
        return b"\0"
    return stem[:-1] + bytes((stem[-1] + 1,))


def created_at(key: bytes, revision: int) -> pb.Compare:
    """Condition: the key came into being at this revision (0: it does not exist)."""
    return pb.Compare(key=key, target=pb.Compare.CREATE, create_revision=revision)


def value_is(key: bytes, value: bytes) -> pb.Compare:
    """Condition: the key exists with exactly this value."""
    return pb.Compare(key=key, target=pb.Compare.VALUE, value=value)


def put(key: bytes, value: bytes, lease_id: int = 0) -> pb.RequestOp:
    """Operation: write the key, bound to a lease if one is given."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease_id))


def get(key: bytes) -> pb.RequestOp:
    """Operation: read the key."""
    return pb.RequestOp(request_range=pb.RangeRequest(key=key))


def delete_range(key: bytes, range_end: bytes) -> pb.RequestOp:
    """Operation: delete all keys from `key` up to, and without, `range_end`."""
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=range_end))


class Etcd:
    """Client of one etcd cluster. Open it before use; close it after."""

    def __init__(self, access: Access) -> None:
        self._connection = Connection(access)

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def cluster_id(self) -> int:
        """The cluster's id; known once opened."""
        return self._connection.cluster_id

    async def open(self) -> None:
        """Connect, log in, and refuse versions that lose data.

        Raises EtcdUnavailable, AccessRefused, LossyVersion, EtcdRefused.
        """
        await self._connection.open()

    async def close(self) -> None:
        """Close all connections. Calls still in flight are cancelled, so end their tasks first."""
        await self._connection.close()

    async def range(
        self, key: bytes, range_end: bytes = b"", *, limit: int = 0, revision: int = 0
    ) -> pb.RangeResponse:
        """Read a key, or keys up to `range_end`, linearisably (or as of a revision).

        Raises EtcdUnavailable, Compacted, ReplyTooLarge, EtcdRefused.
        """
        request = pb.RangeRequest(key=key, range_end=range_end, limit=limit, revision=revision)
        reply: pb.RangeResponse = await self._connection.call(
            lambda member: member.kv.Range, request, write=False
        )
        return reply

    async def pages(
        self, prefix: bytes, *, page_keys: int, revision: int = 0
    ) -> AsyncGenerator[pb.RangeResponse, None]:
        """Read all keys below a prefix, page by page, all as of one revision (0: the newest).

        Raises what `range` raises.
        """
        key, range_end = prefix, prefix_end(prefix)
        more = True
        while more:
            page = await self.range(key, range_end, limit=page_keys, revision=revision)
            revision = revision or page.header.revision
            more = page.more
            if page.kvs:
                key = page.kvs[-1].key + b"\0"
            yield page

    async def put(self, key: bytes, value: bytes, lease_id: int = 0) -> pb.PutResponse:
        """Write one key. Raises OutcomeUnknown, EtcdUnavailable, EtcdRefused."""
        request = pb.PutRequest(key=key, value=value, lease=lease_id)
        reply: pb.PutResponse = await self._connection.call(
            lambda member: member.kv.Put, request, write=True
        )
        return reply

    async def delete(self, key: bytes, range_end: bytes = b"") -> pb.DeleteRangeResponse:
        """Delete a key, or keys up to `range_end`.

        Raises OutcomeUnknown, EtcdUnavailable, EtcdRefused.
        """
        request = pb.DeleteRangeRequest(key=key, range_end=range_end)
        reply: pb.DeleteRangeResponse = await self._connection.call(
            lambda member: member.kv.DeleteRange, request, write=True
        )
        return reply

    async def txn(
        self,
        compare: Sequence[pb.Compare],
        success: Sequence[pb.RequestOp],
        failure: Sequence[pb.RequestOp] = (),
    ) -> pb.TxnResponse:
        """Run `success` if all of `compare` hold, else `failure`, in one step.

        Raises OutcomeUnknown, EtcdUnavailable, EtcdRefused.
        """
        request = pb.TxnRequest(compare=compare, success=success, failure=failure)
        reply: pb.TxnResponse = await self._connection.call(
            lambda member: member.kv.Txn, request, write=True
        )
        return reply

    async def compact(self, revision: int, timeout_s: float = TRY_TIMEOUT_S) -> None:
        """Forget everything superseded before the revision; done when its space is free for more.

        Raises what a write raises, and Compacted.
        """
        request = pb.CompactionRequest(revision=revision, physical=True)
        await self._connection.call(
            lambda member: member.kv.Compact, request, write=True, try_timeout_s=timeout_s
        )

    async def defragment(self, timeout_s: float) -> None:
        """Have the member we talk to rewrite its file without the free space.

        It answers nobody until that is done. Raises what a write raises.
        """
        await self._connection.call(
            lambda member: member.maintenance.Defragment,
            pb.DefragmentRequest(),
            write=True,
            try_timeout_s=timeout_s,
        )

    async def status(self) -> pb.StatusResponse:
        """Version, size, leader and alarms, as the answering member sees them.

        Raises EtcdUnavailable.
        """
        reply: pb.StatusResponse = await self._connection.call(
            lambda member: member.maintenance.Status, pb.StatusRequest(), write=False
        )
        return reply

    async def members(self) -> Sequence[pb.Member]:
        """The cluster's members. Raises EtcdUnavailable, EtcdRefused."""
        reply: pb.MemberListResponse = await self._connection.call(
            lambda member: member.cluster.MemberList, pb.MemberListRequest(), write=False
        )
        return reply.members

    def watch(
        self, key: bytes, range_end: bytes = b"", *, start_revision: int = 0
    ) -> AsyncGenerator[Changes, None]:
        """Each change of the range from `start_revision` on (0: from now), once and in order.

        Endless; outages only make it wait. Raises Compacted, AccessRefused, EtcdRefused.
        """
        return watch(self._connection, key, range_end, start_revision)

    async def grant(self, ttl_s: int) -> Lease:
        """A new lease of at least `ttl_s` seconds, not kept alive yet.

        Raises EtcdUnavailable, EtcdRefused. If an answer is lost, a lease is left behind to run
        out.
        """
        sent_s = now_s()
        reply: pb.LeaseGrantResponse = await self._connection.call(
            lambda member: member.lease.LeaseGrant, pb.LeaseGrantRequest(TTL=ttl_s), write=False
        )
        if reply.error:
            raise EtcdRefused(f"no lease granted: {reply.error}")
        return Lease(self._connection, reply.ID, reply.TTL, sent_s)
