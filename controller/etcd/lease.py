"""A lease and the belief in it.

Owns keeping one lease alive and knowing for how long it surely stands. Never believes longer than
the server: validity counts from the moment the last answered ping was sent. It is a belief all
the same; a write that must not happen without the lease compares the key bound to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from grpc import aio

from controller.etcd.connection import Connection, Member, Pauses
from controller.etcd.errors import (
    AccessRefused,
    AnswerMissing,
    EtcdError,
    TokenStale,
    translate,
)
from etcdrpc import etcdrpc_pb2 as pb

PINGS_PER_TTL = 3
"""Pings per time to live: two may fail before the lease is in danger."""
TRIES_PER_PING = 2
"""A try may take this fraction of the interval, so that a hung member leaves time for another."""

_log = logging.getLogger(__name__)


def now_s() -> float:
    """A clock that neither jumps nor stops: it counts on while the machine sleeps, as the
    server's does.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Lease:
    """A granted lease, kept alive until it is revoked or lost."""

    def __init__(self, connection: Connection, lease_id: int, ttl_s: int, sent_s: float) -> None:
        self._connection = connection
        self.lease_id = lease_id
        self.ttl_s = ttl_s
        self._valid_until_s = sent_s + ttl_s
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def valid(self) -> bool:
        """Whether the lease surely stands. Once false, always false."""
        if now_s() >= self._valid_until_s:
            self._lost.set()
        return not self._lost.is_set()

    def keep_alive(self) -> None:
        """Start pinging, until the lease is lost or let go."""
        self._keeper = asyncio.create_task(self._keep(), name=f"etcd lease {self.lease_id:x}")

    async def lost(self) -> None:
        """Wait until the lease is no longer valid."""
        await self._lost.wait()

    async def let_go(self) -> None:
        """Stop believing in the lease and stop pinging; it runs out by itself."""
        self._lost.set()
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None

    async def revoke(self) -> None:
        """Let go and tell the server, so that the keys bound to the lease vanish now.

        Raises EtcdError if the server cannot be told; the lease then runs out by itself.
        """
        await self.let_go()
        request = pb.LeaseRevokeRequest(ID=self.lease_id)
        await self._connection.call(lambda member: member.lease.LeaseRevoke, request, write=False)

    async def _keep(self) -> None:
        interval_s = self.ttl_s / PINGS_PER_TTL
        try_s = interval_s / TRIES_PER_PING
        pauses = Pauses(longest_s=try_s)
        try:
            while self.valid:
                pause_s = interval_s
                try:
                    await self._ping(min(try_s, self._left_s()))
                    pauses.reset()
                except EtcdError as error:
                    _log.info("lease %x was not renewed: %s; trying again", self.lease_id, error)
                    pause_s = pauses.next_s()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._lost.wait(), min(pause_s, self._left_s()))
        finally:
            self._lost.set()

    async def _ping(self, try_s: float) -> None:
        member: Member | None = None
        try:
            async with asyncio.timeout(try_s):
                member = await self._connection.member(time.monotonic() + try_s)
                await self._renew(member)
        except TimeoutError as error:
            if member is not None:
                self._connection.distrust(member)
            raise AnswerMissing(f"no answer within {try_s:.2f} s") from error

    async def _renew(self, member: Member) -> None:
        metadata = self._connection.metadata
        sent_s = now_s()
        # One short stream for each ping: a fresh token and a healthy member each time.
        call = member.lease.LeaseKeepAlive(metadata=metadata)
        try:
            await call.write(pb.LeaseKeepAliveRequest(ID=self.lease_id))
            reply = await call.read()
        except asyncio.InvalidStateError as error:
            self._connection.distrust(member)
            raise AnswerMissing(f"{member.address} ended the keepalive stream") from error
        except aio.AioRpcError as error:
            failure = translate(error)
            if isinstance(failure, TokenStale | AccessRefused):
                used = dict(metadata).get("token")
                end_s = time.monotonic() + self._left_s()
                await self._connection.renew_token(used, failure, 1, end_s)
            else:
                self._connection.distrust(member)
            raise failure from error
        finally:
            call.cancel()
        if reply is aio.EOF:
            self._connection.distrust(member)
            raise AnswerMissing(f"{member.address} ended the keepalive stream")
        self._take(reply, sent_s)

    def _left_s(self) -> float:
        return max(0.0, self._valid_until_s - now_s())

    def _take(self, reply: pb.LeaseKeepAliveResponse, sent_s: float) -> None:
        if reply.TTL <= 0:
            self._lost.set()
        elif self.valid:
            self._valid_until_s = sent_s + reply.TTL
