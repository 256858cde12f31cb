"""Watches of the attention queue: the items there are, a bookmark, then changes. Owns their order, tokens and ends.

A token names a revision of this process's queue. To resume, what changed or ended since is told; with another process,
or when what ended is not remembered any more, the watch is begun anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

from controller.attention_feed import AttentionFeed
from controller.errors import ServiceError
from controller.replica import Replica
from controller.services.attention_items import ItemFilter, ItemReader, item_name
from controller.services.paging import decode_token, encode_token, query_digest
from controller.services.watching import BOOKMARK_INTERVAL_S, MAX_WATCH_AGE_S, TOKEN_VERSION
from federation.errors import InvalidWrite
from souverix.attention.v1 import attention_service_pb2 as service

#: Between two looks for one watcher, however fast items change: a screen is not read faster.
LOOK_INTERVAL_S = 0.25


class ItemWatch:
    """One watch. `boot` names the process."""

    def __init__(self, replica: Replica, feed: AttentionFeed, request: Any, boot: bytes) -> None:
        self._feed = feed
        self._reader = ItemReader(replica, feed)
        self._wanted = ItemFilter(replica, request)
        self._query = query_digest(request, scope=boot)
        #: By id, the revision that was shown.
        self._shown: dict[str, int] = {}

    async def steps(
        self, resume_token: str, max_age_s: float = MAX_WATCH_AGE_S
    ) -> AsyncIterator[service.WatchItemsResponse]:
        """All steps, until the stream's age ends it. Raises `InvalidWrite`, `ServiceError`."""
        since = self._revision_of(resume_token) if resume_token else None
        await self._feed.settle()
        revision = self._feed.queue.revision
        if since is None:
            for _, item in self._fresh():
                yield service.WatchItemsResponse(existing=item)
        else:
            for id_ in self._feed.queue.ended_after(since):
                yield _removal(id_, ended=True)
            for changed_at, item in self._fresh():
                if changed_at > since:
                    yield service.WatchItemsResponse(changed=item)
        yield self._bookmark(revision, initial=since is None)
        now = asyncio.get_running_loop().time
        end, bookmark = now() + max_age_s, now() + BOOKMARK_INTERVAL_S
        while now() < end:
            if self._feed.queue.revision == revision:
                await self._feed.changed(max(0.0, min(bookmark, end) - now()))
            revision = self._feed.queue.revision
            for step in self._changes():
                yield step
            if now() >= bookmark:
                bookmark = now() + BOOKMARK_INTERVAL_S
                yield self._bookmark(revision)
            await asyncio.sleep(LOOK_INTERVAL_S)
        yield self._bookmark(revision)

    def _fresh(self) -> Iterator[tuple[int, Any]]:
        """Items as they are, highest score first, that are not shown so yet; with when they changed."""
        selected, _ = self._reader.select(self._wanted, time.time_ns() // 1_000_000)
        present = {each.item.id for each in selected}
        queue = self._feed.queue
        changed = [
            each
            for each in selected
            if self._shown.get(each.item.id) != queue.revision_of(each.item.id)
        ]
        self._shown = {id_: at for id_, at in self._shown.items() if id_ in present}
        for each, message in zip(changed, self._reader.messages(changed), strict=True):
            at = self._shown[each.item.id] = queue.revision_of(each.item.id)
            yield at, message

    def _changes(self) -> Iterator[service.WatchItemsResponse]:
        before = set(self._shown)
        fresh = list(self._fresh())
        for id_ in sorted(before - self._shown.keys()):
            yield _removal(id_, ended=self._feed.queue.get(id_) is None)
        for _, item in fresh:
            yield service.WatchItemsResponse(changed=item)

    def _bookmark(self, revision: int, *, initial: bool = False) -> service.WatchItemsResponse:
        token = encode_token([TOKEN_VERSION, self._query, revision])
        return service.WatchItemsResponse(
            bookmark=service.AttentionBookmark(resume_token=token, initial_state_complete=initial)
        )

    def _revision_of(self, token: str) -> int:
        parts = decode_token(token, "resume_token")
        if len(parts) != 3 or parts[0] != TOKEN_VERSION or not isinstance(parts[2], int):
            raise InvalidWrite(
                "resume_token is not one this service made; begin anew without it",
                field="resume_token",
            )
        revision: int = parts[2]
        queue = self._feed.queue
        if parts[1] != self._query or not queue.forgotten_revision <= revision <= queue.revision:
            raise ServiceError(
                grpc.StatusCode.OUT_OF_RANGE,
                "RESUME_TOKEN_EXPIRED",
                "resume_token is of another process, of a watch with other fields, or too old; begin anew without it",
            )
        return revision


def _removal(id_: str, *, ended: bool) -> service.WatchItemsResponse:
    return service.WatchItemsResponse(removed=service.ItemRemoval(name=item_name(id_), ended=ended))
