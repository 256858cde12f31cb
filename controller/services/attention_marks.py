"""Marks on items: acknowledge, snooze, reopen. Owns what these calls check and write; what a mark means is
`controller.attention.marks`'s, where it may be written the write path's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from controller.attention.conditions import ID_DIGITS, Cause, Kind, Severity, item_id
from controller.attention.marks import (
    acknowledgement,
    check_reason,
    check_snooze,
    reopening,
    snooze,
)
from controller.attention.queue import Item
from controller.attention_feed import AttentionFeed
from controller.replica import Replica
from controller.services.attention_items import (
    ItemReader,
    compose_item,
    item_etag,
    item_name,
    mark_key,
)
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_id, check_text
from controller.services.fleet_rules import check_etag, freshness_of
from controller.twin.facts import Facts, body_of
from controller.writes import Caller, Draft, Forwarded, WriteCall
from federation.authority import Permission
from federation.errors import InvalidWrite, NotFound
from souverix.attention.v1 import attention_pb2
from souverix.attention.v1 import attention_service_pb2 as service

R = TypeVar("R")

SERVICE = "/souverix.attention.v1.AttentionService/"

ID_PATTERN = re.compile(f"[0-9a-f]{{{ID_DIGITS}}}")

KINDS = frozenset(int(kind) for kind in Kind)
SEVERITIES = frozenset(int(severity) for severity in Severity)

#: Makes the mark, from the one that stands (None: there is none) and the time.
MakeMark = Callable[[Item, attention_pb2.AttentionMark | None, int], attention_pb2.AttentionMark]


class MarkWrites:
    """The writes of marks."""

    def __init__(self, replica: Replica, feed: AttentionFeed) -> None:
        self._replica = replica
        self._feed = feed
        self._reader = ItemReader(replica, feed)

    async def acknowledge(self, request: Any, context: Any) -> service.AcknowledgeItemResponse:
        """As `AttentionService.AcknowledgeItem`."""
        check_reason(request.reason)
        return await self._write(
            "AcknowledgeItem",
            request,
            context,
            lambda item, _, now_ms: acknowledgement(item, request.reason, now_ms),
            service.AcknowledgeItemResponse,
        )

    async def snooze(self, request: Any, context: Any) -> service.SnoozeItemResponse:
        """As `AttentionService.SnoozeItem`."""
        check_reason(request.reason)
        span_ms = check_snooze(request.snooze.seconds * 1000 + request.snooze.nanos // 1_000_000)
        return await self._write(
            "SnoozeItem",
            request,
            context,
            lambda item, _, now_ms: snooze(item, request.reason, span_ms, now_ms),
            service.SnoozeItemResponse,
        )

    async def reopen(self, request: Any, context: Any) -> service.ReopenItemResponse:
        """As `AttentionService.ReopenItem`."""
        return await self._write(
            "ReopenItem",
            request,
            context,
            lambda item, held, now_ms: reopening(item, held, request.reason, now_ms),
            service.ReopenItemResponse,
        )

    async def required_item(self, id_: str) -> Item:
        """An item. Raises `NotFound`."""
        await self._feed.settle()
        item = self._feed.queue.get(id_)
        if item is None:
            raise NotFound(
                f"{item_name(id_)} is not there: its cause has ended, or is not known to this controller",
                subject=item_name(id_),
            )
        return item

    async def _write(
        self,
        method: str,
        request: Any,
        context: Any,
        make: MakeMark,
        response: type[R],
    ) -> R:
        id_ = id_of(request.name)
        check_text(request.reason, "reason")
        caller = caller_of(context)
        item = await self._item_meant(request, caller, id_)
        subject = item_name(id_)
        reply: Any = response()

        def decide(draft: Draft) -> None:
            check_etag(request.etag, item_etag(draft.proposal, item), subject)
            held = body_of(draft.proposal, mark_key(item))
            mark = make(item, held, draft.proposal.wall_ms)
            draft.write(item.domain, subject, "attention_mark", mark)
            if request.validate_only:
                self._fill(reply, item, draft.proposal)

        passed_on = type(request)()
        passed_on.CopyFrom(request)
        passed_on.seen.Clear()
        self._fill_seen(passed_on.seen, item)
        result = await self._replica.writer.execute(
            WriteCall(
                caller=caller,
                method=f"{SERVICE}{method}",
                request=passed_on,
                domain=item.domain,
                resource=f"domains/{item.domain}/{subject}",
                permission=Permission.OPERATE,
                decide=decide,
                request_id=request.request_id,
                validate_only=request.validate_only,
                durable_at=request.durable_at,
            )
        )
        if isinstance(result, Forwarded):
            reply.ParseFromString(result.response)
        elif not request.validate_only:
            reply.receipt.CopyFrom(result.receipt)
            self._fill(reply, item, self._replica.state)
        written: R = reply
        return written

    async def _item_meant(self, request: Any, caller: Caller, id_: str) -> Item:
        """The item as it is here; of a call that another controller passed on, as it is there: what one controller
        sees of its links, this one does not.
        """
        if not caller.via or not request.HasField("seen"):
            return await self.required_item(id_)
        seen: attention_pb2.AttentionItem = request.seen
        known = seen.kind in KINDS and seen.severity in SEVERITIES
        if not known or id_ != item_id(Cause(Kind(seen.kind), seen.domain, seen.subject)):
            raise InvalidWrite(
                "seen is not the item that name names; the controllers' versions differ",
                field="seen",
            )
        return Item(
            id_,
            Kind(seen.kind),
            check_id(seen.domain, "seen.domain"),
            seen.subject,
            Severity(seen.severity),
            seen.since.ToMilliseconds(),
            seen.cause,
            seen.next_step,
            1.0,
            seen.node_count,
            tuple(seen.examples),
        )

    def _fill_seen(self, seen: attention_pb2.AttentionItem, item: Item) -> None:
        shown = self._reader.look_at(item, _wall_ms(), self._replica.state)
        seen.CopyFrom(compose_item(self._replica.state, shown, freshness_of(self._replica)))

    def _fill(self, reply: Any, item: Item, facts: Facts) -> None:
        shown = self._reader.look_at(item, _wall_ms(), facts)
        reply.item.CopyFrom(compose_item(facts, shown, freshness_of(self._replica)))


def id_of(name: str) -> str:
    """The id in "attention/{id}". Raises `InvalidWrite`."""
    collection, _, id_ = name.partition("/")
    if collection != "attention" or not ID_PATTERN.fullmatch(id_):
        raise InvalidWrite(
            f'name {name[:160]!r} is not of the form "attention/{{id}}", the id being {ID_DIGITS} hexadecimal digits',
            field="name",
        )
    return id_


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
