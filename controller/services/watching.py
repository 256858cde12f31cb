"""Watches: the present state, a bookmark, then changes. Owns their order, tokens and ends; knows no resource.

A token names a commit: everything before it was shown. To resume, whatever a later commit touched is shown again as it
is now, so a watch never misses a change and may repeat one. Tokens are bound to the log and to the query; one of
another log, or from beyond this replica's end of it, ends in OUT_OF_RANGE, and the watch is begun anew.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from controller.changes import Changes, SlowWatcher, Subscription
from controller.errors import ServiceError
from controller.services.paging import decode_token, encode_token, query_digest
from federation.codec import ASPECTS
from federation.errors import InvalidWrite
from federation.identifiers import Key, StreamId
from federation.state import Applied, State

R = TypeVar("R")
Reply = TypeVar("Reply")
Seen_co = TypeVar("Seen_co", covariant=True)

#: Age at which a stream ends with a token, so that load spreads anew over replicas and no stream outlives its rights.
MAX_WATCH_AGE_S = 3600.0

#: Longest time without a bookmark: a watcher that is cut off repeats no more than this.
BOOKMARK_INTERVAL_S = 10.0

TOKEN_VERSION = 1


class StepKind(enum.Enum):
    """What a step of a watch says."""

    EXISTING = "existing"
    CHANGED = "changed"
    REMOVED = "removed"
    BOOKMARK = "bookmark"


@dataclass(frozen=True, slots=True)
class Step(Generic[R]):
    """One step. `item` is set but for bookmarks; `resource` for what is to be seen."""

    kind: StepKind
    token: str
    item: str = ""
    resource: R | None = None
    initial_state_complete: bool = False


def reply_of(step: Step[Any], response: type[Reply]) -> Reply:
    """A step as a reply that has `resume_token`, and one of `bookmark`, `deleted` (a name) and `changed`."""
    kind: Any = response
    reply: Any = kind(resume_token=step.token)
    if step.kind is StepKind.BOOKMARK:
        reply.bookmark = True
    elif step.resource is None:
        reply.deleted = step.item
    else:
        reply.changed.CopyFrom(step.resource)
    made: Reply = reply
    return made


class View(Protocol[Seen_co]):
    """What a watch shows. Items are named by text."""

    def items(self) -> Iterable[str]:
        """All that may be to be seen now, in the order to show it."""

    def touched(self, applied: Applied) -> Iterable[str]:
        """Items that a commit may have changed."""

    def keys(self, item: str) -> Iterable[Key]:
        """The keys an item is made of."""

    def show(self, item: str) -> Seen_co | None:
        """The item as it is; None when it is not to be seen."""


class Watch(Generic[R]):
    """One watch over the state of one replica. `log` names the log (its nonce)."""

    def __init__(
        self, state: State, changes: Changes, view: View[R], request: Message, log: bytes
    ) -> None:
        self._state = state
        self._changes = changes
        self._view = view
        self._query = query_digest(request, scope=log)
        self._shown: set[str] = set()
        self._hidden: set[str] = set()
        self._resumed = False

    async def steps(
        self, resume_token: str, max_age_s: float = MAX_WATCH_AGE_S
    ) -> AsyncGenerator[Step[R], None]:
        """All steps, until the stream's age ends it. Raises `InvalidWrite`, `ServiceError`, `SlowWatcher`."""
        with self._changes.subscribe(views=True) as subscription:
            since = self._offset_of(resume_token) if resume_token else None
            token = self._token()
            if since is None:
                for item in self._view.items():
                    resource = self._view.show(item)
                    if resource is not None:
                        self._shown.add(item)
                        yield Step(StepKind.EXISTING, "", item, resource)
            else:
                self._resumed = True
                for item in self._changed_since(since):
                    step = self._step(item, resume_token)
                    if step is not None:
                        yield step
            yield Step(StepKind.BOOKMARK, token, initial_state_complete=since is None)
            async for step in self._follow(subscription, token, max_age_s):
                yield step

    async def _follow(
        self, subscription: Subscription, token: str, max_age_s: float
    ) -> AsyncGenerator[Step[R], None]:
        now = asyncio.get_running_loop().time
        end = now() + max_age_s
        bookmark = now() + BOOKMARK_INTERVAL_S
        while now() < end:
            try:
                applied = await subscription.next(max(0.0, min(bookmark, end) - now()))
            except SlowWatcher:
                yield Step(StepKind.BOOKMARK, token)
                raise
            if applied is not None:
                for item in dict.fromkeys(self._view.touched(applied)):
                    step = self._step(item, token)
                    if step is not None:
                        yield step
                token = self._token(applied.offset + 1)
            if now() >= bookmark:
                bookmark = now() + BOOKMARK_INTERVAL_S
                yield Step(StepKind.BOOKMARK, token)
        yield Step(StepKind.BOOKMARK, token)

    def _step(self, item: str, token: str) -> Step[R] | None:
        resource = self._view.show(item)
        if resource is not None:
            self._shown.add(item)
            self._hidden.discard(item)
            return Step(StepKind.CHANGED, token, item, resource)
        # What a resumed watch had shown before is not known: it says once of each item that it is not to be seen.
        was_shown = item in self._shown or (self._resumed and item not in self._hidden)
        self._shown.discard(item)
        self._hidden.add(item)
        return Step(StepKind.REMOVED, token, item) if was_shown else None

    def _changed_since(self, offset: int) -> list[str]:
        return [
            i
            for i in self._view.items()
            if any(self._is_newer(k, offset) for k in self._view.keys(i))
        ]

    def _is_newer(self, key: Key, offset: int) -> bool:
        """Tells whether a key was written at or after a commit; rivals count always, for an admission may turn them."""
        held = self._state.siblings(key)
        if len(held) > 1:
            return True
        lane = ASPECTS[key.aspect].lane
        for write in held:
            stream = self._state.streams.get(StreamId(key.domain, write.origin, lane))
            written = stream.index.offset_of(write.sequence) if stream is not None else None
            if written is None or written >= offset:
                return True
        return False

    def _token(self, offset: int | None = None) -> str:
        settled = settled_offset(self._state)
        place = settled if offset is None else min(settled, offset)
        return encode_token([TOKEN_VERSION, self._query, place])

    def _offset_of(self, token: str) -> int:
        parts = decode_token(token, "resume_token")
        if len(parts) != 3 or parts[0] != TOKEN_VERSION or not isinstance(parts[2], int):
            raise InvalidWrite(
                "resume_token is not one this service made; begin anew without it",
                field="resume_token",
            )
        offset: int = parts[2]
        if parts[1] != self._query or not 0 <= offset <= self._state.next_offset:
            raise ServiceError(
                grpc.StatusCode.OUT_OF_RANGE,
                "RESUME_TOKEN_EXPIRED",
                "resume_token belongs to another log or to a watch with other fields; begin anew without it",
            )
        return offset


def settled_offset(state: State) -> int:
    """The commit before which everything is in effect: what still waits for a key or a term is shown later. Quarantine
    holds up nothing.
    """
    settled = state.next_offset
    for held in state.streams.values():
        if held.waiting and not held.quarantine_reason:
            first = held.index.offset_of(held.applied + 1)
            if first is not None and first < settled:
                settled = first
    return settled
