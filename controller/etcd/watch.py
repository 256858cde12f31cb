"""A watch that outlives its connections.

Owns resuming: after a cut, a hung or restarted member, an expired token, the watch goes on at the
first revision not yet delivered. Never skips a revision and never delivers one twice; if the
server has forgotten the revision it raises Compacted, and the caller must read the present state
before it watches again.

The revision to resume from is taken from the events, or from the server's own progress notes for
this watch. The header of an answer with events carries the store's newest revision, which may be
far ahead of the events; and answers to our progress requests may overtake events in flight on old
servers, so they serve only as signs of life.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from grpc import aio

from controller.etcd.connection import TRY_TIMEOUT_S, Connection, Member, Metadata, Pauses
from controller.etcd.errors import (
    AccessRefused,
    AnswerMissing,
    Compacted,
    EtcdRefused,
    EtcdUnavailable,
    NotProposed,
    TokenStale,
    translate,
)
from etcdrpc import etcdrpc_pb2 as pb

QUIET_S = 3.0
"""Silence after which a sign of life is asked for."""
HUNG_S = 3.0
"""Silence after having asked, after which the member is given up."""
CONNECT_PATIENCE_S = 10.0
"""For one search for a member; the watch itself waits on without end."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Changes:
    """Events in order, and the revision up to which the watch is now complete.

    No events mean that nothing happened up to that revision.
    """

    revision: int
    events: Sequence[pb.Event]


class _Broken(Exception):
    """The stream ended without a verdict on the watch: connect again."""


async def watch(
    connection: Connection, key: bytes, range_end: bytes, start_revision: int
) -> AsyncGenerator[Changes, None]:
    """Deliver each change of the range from `start_revision` on (0: from now), once and in order.

    Endless; outages only make it wait. Raises Compacted, AccessRefused, EtcdRefused.
    """
    following = _Following(key, range_end, start_revision)
    pauses = Pauses()
    refusals = 0
    while True:
        metadata = connection.metadata
        try:
            member = await connection.member(time.monotonic() + CONNECT_PATIENCE_S)
            stream = _Stream(member, metadata)
            try:
                await stream.write(following.create_request())
                while True:
                    for changes in following.take(await stream.read()):
                        pauses.reset()
                        refusals = 0
                        yield changes
            except (_Broken, NotProposed, AnswerMissing):
                connection.distrust(member)
            finally:
                stream.cancel()
        except EtcdUnavailable as error:
            _log.info("a watch of %r waits for etcd: %s", key, error)
        except (TokenStale, AccessRefused) as refusal:
            # A watch with a stale token is refused in the words of a missing permission: a new
            # login tells.
            refusals += 1
            if refusals > 1:
                raise AccessRefused(str(refusal)) from refusal
            used = dict(metadata).get("token")
            end_s = time.monotonic() + CONNECT_PATIENCE_S
            await connection.renew_token(used, refusal, refusals, end_s)
        await asyncio.sleep(pauses.next_s())


class _Following:
    """What one watch has delivered, and thus where it goes on. Knows nothing of connections."""

    def __init__(self, key: bytes, range_end: bytes, start_revision: int) -> None:
        self._key, self._range_end = key, range_end
        self._next = start_revision
        self._pending: list[pb.Event] = []

    def create_request(self) -> pb.WatchRequest:
        """The request that resumes; whatever was received of an unfinished revision comes again."""
        self._pending = []
        return pb.WatchRequest(
            create_request=pb.WatchCreateRequest(
                key=self._key,
                range_end=self._range_end,
                start_revision=self._next,
                progress_notify=True,
                fragment=True,
            )
        )

    def take(self, reply: pb.WatchResponse) -> list[Changes]:
        """What the reply completes. Raises Compacted, AccessRefused, _Broken."""
        if reply.canceled:
            raise _verdict(reply)
        if reply.created:
            # "From now" is anchored once, so that a reconnect cannot skip what happened meanwhile.
            self._next = self._next or reply.header.revision + 1
            return []
        if not reply.events and not reply.fragment and not self._pending:
            return self._progress(reply)
        self._pending += reply.events
        if not self._pending:
            return []
        if reply.fragment:
            return self._deliver(self._pending[-1].kv.mod_revision - 1)
        return self._deliver(self._pending[-1].kv.mod_revision)

    def _progress(self, reply: pb.WatchResponse) -> list[Changes]:
        requested = reply.watch_id < 0
        if requested or reply.header.revision < self._next:
            return []
        self._next = reply.header.revision + 1
        return [Changes(reply.header.revision, ())]

    def _deliver(self, revision: int) -> list[Changes]:
        complete = [event for event in self._pending if event.kv.mod_revision <= revision]
        self._pending = self._pending[len(complete) :]
        fresh = [event for event in complete if event.kv.mod_revision >= self._next]
        if not fresh:
            return []
        done = fresh[-1].kv.mod_revision
        self._next = done + 1
        return [Changes(done, fresh)]


def _verdict(reply: pb.WatchResponse) -> Exception:
    if reply.compact_revision:
        return Compacted(reply.compact_revision)
    if "permission denied" in reply.cancel_reason or "auth" in reply.cancel_reason:
        return AccessRefused(reply.cancel_reason)
    if "required revision is a future revision" in reply.cancel_reason:
        return EtcdRefused(reply.cancel_reason)
    return _Broken(reply.cancel_reason)


class _Stream:
    """One Watch call, with a bound on its silence."""

    def __init__(self, member: Member, metadata: Metadata) -> None:
        self._call: Any = member.watch.Watch(metadata=metadata)

    async def write(self, request: pb.WatchRequest) -> None:
        try:
            await asyncio.wait_for(self._call.write(request), TRY_TIMEOUT_S)
        except (TimeoutError, asyncio.InvalidStateError) as error:
            raise _Broken("the request was not taken") from error
        except aio.AioRpcError as error:
            raise translate(error) from error

    async def read(self) -> pb.WatchResponse:
        # A read that is cancelled cancels the whole call, so the wait must not touch the read
        # itself.
        reading = asyncio.ensure_future(self._call.read())
        try:
            done, _ = await asyncio.wait({reading}, timeout=QUIET_S)
            if not done:
                await self.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
                done, _ = await asyncio.wait({reading}, timeout=HUNG_S)
            if not done:
                raise _Broken("the member is silent")
            if reading.cancelled():
                raise _Broken("the channel was closed")
            reply: Any = reading.result()
        except aio.AioRpcError as error:
            raise translate(error) from error
        finally:
            reading.cancel()
        if reply is aio.EOF:
            raise _Broken("the member ended the stream")
        answer: pb.WatchResponse = reply
        return answer

    def cancel(self) -> None:
        self._call.cancel()
