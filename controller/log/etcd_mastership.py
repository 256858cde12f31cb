"""Mastership by an etcd lease: a key that exists only while its lease does.

Owns being elected and the belief to be master. Never decides what a master does.
"""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import aclosing

from controller.etcd.client import Etcd, created_at, get, put
from controller.etcd.connection import Pauses
from controller.etcd.errors import (
    Compacted,
    EtcdError,
    EtcdRefused,
    EtcdUnavailable,
    OutcomeUnknown,
)
from controller.etcd.lease import Lease
from controller.log.port import Mastership
from etcdrpc import etcdrpc_pb2 as pb

_log = logging.getLogger(__name__)


class EtcdMastershipLease:
    """A mastership held through an etcd lease that is kept alive in the background."""

    def __init__(self, lease: Lease, mastership: Mastership) -> None:
        self._lease = lease
        self._mastership = mastership

    @property
    def mastership(self) -> Mastership:
        """The token to append with."""
        return self._mastership

    @property
    def valid(self) -> bool:
        """Whether the lease surely stands."""
        return self._lease.valid

    async def lost(self) -> None:
        """Wait until the lease is lost or released."""
        await self._lease.lost()

    async def release(self) -> None:
        """Give the mastership up at once; if etcd cannot be told, the lease runs out by itself."""
        await _give_back(self._lease)


async def campaign(etcd: Etcd, key: bytes, candidate: str, ttl_s: float) -> EtcdMastershipLease:
    """Wait until `key` is ours. Raises EtcdRefused; outages only make it wait."""
    pauses = Pauses()
    while True:
        try:
            present = await etcd.range(key)
            if not present.kvs:
                elected = await _try(etcd, key, candidate, ttl_s)
                if elected is not None:
                    return elected
            else:
                await _wait_until_vacant(etcd, key, present.header.revision)
            pauses.reset()
        except EtcdRefused:
            raise
        except EtcdError as error:
            _log.info("campaigning for %s goes on after: %s", key.decode(), error)
            await asyncio.sleep(pauses.next_s())


async def _try(etcd: Etcd, key: bytes, candidate: str, ttl_s: float) -> EtcdMastershipLease | None:
    lease = await etcd.grant(math.ceil(ttl_s))
    try:
        token = await _claim(etcd, key, candidate, lease)
    except BaseException:
        await lease.let_go()
        raise
    if token is None:
        await _give_back(lease)
        return None
    lease.keep_alive()
    return EtcdMastershipLease(lease, Mastership(token))


async def _claim(etcd: Etcd, key: bytes, candidate: str, lease: Lease) -> int | None:
    """The key's create_revision if it is bound to our lease now, None if another was quicker."""
    while lease.valid:
        try:
            reply = await etcd.txn(
                compare=[created_at(key, 0)],
                success=[put(key, candidate.encode(), lease.lease_id)],
                failure=[get(key)],
            )
        except OutcomeUnknown:
            # The same claim again tells: the key then exists, with our lease or another's.
            continue
        if reply.succeeded:
            return reply.header.revision
        holder = reply.responses[0].response_range.kvs[0]
        return holder.create_revision if holder.lease == lease.lease_id else None
    raise EtcdUnavailable("the lease ran out before the claim was answered")


async def _wait_until_vacant(etcd: Etcd, key: bytes, revision: int) -> None:
    try:
        async with aclosing(etcd.watch(key, start_revision=revision + 1)) as watch:
            async for changes in watch:
                if any(event.type == pb.Event.DELETE for event in changes.events):
                    return
    except Compacted:
        # What happened meanwhile is forgotten: the caller looks at the key again.
        return


async def _give_back(lease: Lease) -> None:
    try:
        await lease.revoke()
    except EtcdError as error:
        _log.info("lease %x is left to run out: %s", lease.lease_id, error)
