"""AttentionService: what an operator should look at first. Owns the calls; which items there are is the queue's to
say, what a mark means the marks'.
"""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from controller.attention_feed import AttentionFeed
from controller.replica import Replica
from controller.services.attention_items import ItemFilter, ItemReader, Shown
from controller.services.attention_marks import MarkWrites, id_of
from controller.services.attention_watches import ItemWatch
from controller.services.paging import Page, page_of
from controller.twin.facts import timestamp
from federation.errors import InvalidWrite
from souverix.attention.v1 import attention_service_pb2 as service
from souverix.attention.v1 import attention_service_pb2_grpc


class AttentionService(attention_service_pb2_grpc.AttentionServiceServicer):
    """The service of one replica."""

    def __init__(self, replica: Replica, feed: AttentionFeed) -> None:
        self._replica = replica
        self._feed = feed
        self._reader = ItemReader(replica, feed)
        self._marks = MarkWrites(replica, feed)
        self._boot = os.urandom(8)

    async def ListItems(self, request: Any, context: Any) -> service.ListItemsResponse:
        """Items, highest score first."""
        page = page_of(request)
        wanted = ItemFilter(self._replica, request)
        await self._feed.settle()
        # All pages order by the scores of the first one's time: scores grow while somebody turns over.
        now_ms, after = _place(page)
        selected, left_out = self._reader.select(wanted, now_ms)
        rest = [each for each in selected if after is None or each.order > after]
        on_page = rest[: page.size]
        token = ""
        if len(rest) > page.size:
            score, id_ = on_page[-1].order
            token = page.token(f"{now_ms} {score!r} {id_}")
        return service.ListItemsResponse(
            items=self._reader.messages(on_page),
            next_page_token=token,
            left_out_count=left_out,
            complete=self._feed.complete,
            as_of_time=timestamp(now_ms),
        )

    async def GetItem(self, request: Any, context: Any) -> service.GetItemResponse:
        """One item."""
        item = await self._marks.required_item(id_of(request.name))
        shown: Shown = self._reader.look_at(item, _wall_ms(), self._replica.state)
        return service.GetItemResponse(item=next(self._reader.messages([shown])))

    async def WatchItems(
        self, request: Any, context: Any
    ) -> AsyncIterator[service.WatchItemsResponse]:
        """The items there are, then changes."""
        watch = ItemWatch(self._replica, self._feed, request, self._boot)
        async for step in watch.steps(request.resume_token):
            yield step

    async def AcknowledgeItem(self, request: Any, context: Any) -> service.AcknowledgeItemResponse:
        """Says that somebody knows of an item."""
        return await self._marks.acknowledge(request, context)

    async def SnoozeItem(self, request: Any, context: Any) -> service.SnoozeItemResponse:
        """Puts an item aside."""
        return await self._marks.snooze(request, context)

    async def ReopenItem(self, request: Any, context: Any) -> service.ReopenItemResponse:
        """Takes a mark back."""
        return await self._marks.reopen(request, context)


def _place(page: Page) -> tuple[int, tuple[float, str] | None]:
    """The time of a list's scores, and after which item its next page begins. Raises `InvalidWrite`."""
    if not page.after:
        return _wall_ms(), None
    parts = page.after.split(" ")
    with contextlib.suppress(ValueError, IndexError):
        now_ms, score, id_ = int(parts[0]), float(parts[1]), parts[-1]
        if len(parts) == 3 and 0 <= now_ms <= _wall_ms():
            return now_ms, (score, id_)
    raise InvalidWrite(
        "page_token is not one this service made; begin again without it", field="page_token"
    )


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
