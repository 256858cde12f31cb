"""Tells watchers what commits changed. Owns bounded queues; a slow watcher is dropped, never waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager

from federation.state import Applied

#: Commits a watcher may lag behind. At 1,000 commits a second over two seconds of stall; beyond it the watcher starts
#: over with a token.
MAX_LAG_COMMITS = 2048


class SlowWatcher(Exception):
    """The watcher fell behind and must resume or list anew."""


class Subscription:
    """One watcher's queue of applied commits."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Applied] = asyncio.Queue(MAX_LAG_COMMITS)
        self._dropped = False

    def offer(self, applied: Applied) -> None:
        """Puts a commit in, or marks the watcher as too slow."""
        try:
            self._queue.put_nowait(applied)
        except asyncio.QueueFull:
            self._dropped = True

    async def commits(self) -> AsyncGenerator[Applied, None]:
        """Commits in order, from the subscription on. Raises `SlowWatcher` once one was lost."""
        while True:
            if self._dropped:
                raise SlowWatcher(
                    f"the watcher fell more than {MAX_LAG_COMMITS} commits behind; start over from the last token"
                )
            yield await self._queue.get()

    async def next(self, timeout_s: float) -> Applied | None:
        """The next commit, or None when none came in time. Raises `SlowWatcher`."""
        if self._dropped:
            raise SlowWatcher(
                f"the watcher fell more than {MAX_LAG_COMMITS} commits behind; start over from the last token"
            )
        try:
            # Not `wait_for`: before Python 3.12 it takes a commit that comes together with a cancellation for all there
            # was, and the commit that revokes a watcher's certificate is of that kind.
            async with asyncio.timeout(timeout_s):
                return await self._queue.get()
        except TimeoutError:
            return None


class Changes:
    """All watchers of one replica."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._of_views: set[Subscription] = set()
        self._listeners: set[Callable[[Applied], None]] = set()
        self._view_listeners: set[Callable[[Applied], None]] = set()

    def publish(self, applied: Applied) -> None:
        """Tells every watcher and listener."""
        for listener in self._listeners:
            listener(applied)
        for subscription in self._subscriptions:
            subscription.offer(applied)

    def recomputed(self, applied: Applied) -> None:
        """Tells those who asked for views of keys that no commit wrote, and whose computed value is another."""
        for listener in self._view_listeners:
            listener(applied)
        for subscription in self._of_views:
            subscription.offer(applied)

    @contextmanager
    def listen(self, listener: Callable[[Applied], None], *, views: bool = False) -> Iterator[None]:
        """Calls a function of this process with every commit, until the block ends. It must be quick, never raise,
        and neither add nor end listeners. With `views` it also hears of values computed anew, as `recomputed`.
        """
        self._listeners.add(listener)
        if views:
            self._view_listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)
            self._view_listeners.discard(listener)

    @contextmanager
    def subscribe(self, *, views: bool = False) -> Iterator[Subscription]:
        """A subscription that ends with the block. Nothing applied after it began is missed. With `views` it also tells
        of values computed anew, as `recomputed`.
        """
        subscription = Subscription()
        self._subscriptions.add(subscription)
        if views:
            self._of_views.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            self._of_views.discard(subscription)
