"""Reading commits from etcd: pages of a bounded size, and the endless tail.

Owns how much is asked for at once, prefetching, and the passage from reading to watching. Never
writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from controller.etcd.client import Etcd, prefix_end
from controller.etcd.connection import Pauses
from controller.etcd.errors import Compacted, EtcdError, EtcdRefused, EtcdUnavailable, ReplyTooLarge
from controller.etcd.watch import Changes
from controller.log.commit_sizes import CommitSizes
from controller.log.errors import LogRefused, Trimmed
from controller.log.etcd_layout import Layout
from controller.log.port import MAX_COMMIT_BYTES, CommitAt
from controller.log.stored import Chain, decode_head
from etcdrpc import etcdrpc_pb2 as pb

PAGE_BYTES = 4 * MAX_COMMIT_BYTES
"""What a page should come to: larger ones gain no throughput, and two are held at a time."""
FIRST_PAGE_COMMITS = 16
"""For the first page, when the size of the commits is not known yet."""
MOST_PAGE_COMMITS = 256
"""While their sizes are not known. etcd bounds a range by the number of keys alone. Should small
commits be followed by the largest, the server prepares this many MiB, we refuse them by the size
announced, and ask for less."""
NEAR_COMMITS = 256
"""How far beyond the last page a reading may begin to count as reading on: who picks commits leaves
some out."""
PAGE_GROWTH = 2
"""Growth from page to page, so that a log of mixed sizes seldom meets that case; shrinking is at
once."""


class CommitReader:
    """Reads the commits below one layout."""

    def __init__(self, etcd: Etcd, layout: Layout) -> None:
        self._etcd = etcd
        self._layout = layout
        self._end = prefix_end(layout.commits)
        self._page_commits = FIRST_PAGE_COMMITS
        self._sizes = CommitSizes()
        #: The page after the one read last, while somebody reads on and on.
        self._ahead: asyncio.Task[pb.RangeResponse] | None = None
        self._read_until = 0

    def appended(self, offset: int, size: int) -> None:
        """Takes note of a commit of our own, so that it is read back with its neighbours."""
        self._sizes.note(offset, size)

    async def page(self, first_offset: int, max_bytes: int = PAGE_BYTES) -> pb.RangeResponse:
        """About `max_bytes` of stored commits from an offset on. Raises EtcdError, Trimmed."""
        page = await self._page(first_offset, max_bytes)
        if not page.kvs or self._layout.offset_of(page.kvs[0].key) != first_offset:
            await self.refuse_trimmed(first_offset)
        return page

    async def refuse_trimmed(self, offset: int) -> None:
        """Raises Trimmed if etcd's part of the log begins after an offset; EtcdError."""
        reply = await self._etcd.range(self._layout.start)
        if reply.kvs:
            start = decode_head(reply.kvs[0].value).next_offset
            if offset < start:
                raise Trimmed(start)

    async def _page(self, first_offset: int, max_bytes: int) -> pb.RangeResponse:
        key = self._layout.commit(first_offset)
        while True:
            known = self._sizes.fitting(first_offset, max_bytes)
            limit = known or self._page_commits
            try:
                # Up to a key, not the end: etcd counts all keys of a range, however few it is to give.
                end = self._layout.commit(first_offset + limit)
                page = await self._etcd.range(key, end, limit=limit)
                if not page.kvs:
                    page = await self._etcd.range(key, self._end, limit=1)
            except ReplyTooLarge:
                self._page_commits = max(1, min(limit // 2, PAGE_BYTES // MAX_COMMIT_BYTES))
                self._sizes.forget()
                continue
            if known:
                return page
            if page.kvs:
                largest = max(len(kv.value) for kv in page.kvs)
                fitting = min(max_bytes // largest, limit * PAGE_GROWTH, MOST_PAGE_COMMITS)
                self._page_commits = max(1, fitting)
            return page

    async def read(self, first_offset: int, max_bytes: int) -> list[CommitAt]:
        """As Log.read, raising EtcdError, LogCorrupt and Trimmed.

        Whoever reads on where the last page ended, or a little further, finds the next one on its way.
        """
        kvs = await self._fetched(first_offset) or (await self.page(first_offset, max_bytes)).kvs
        chain = Chain(first_offset)
        commits: list[CommitAt] = []
        left = max_bytes
        for kv in kvs:
            commit = chain.take(self._layout.offset_of(kv.key), kv.value)
            left -= len(commit[1])
            if commits and left < 0:
                break
            commits.append(commit)
            self._sizes.note(commit[0], len(commit[1]))
        reads_on = 0 <= first_offset - self._read_until <= NEAR_COMMITS
        self._read_until = chain.next_offset
        if reads_on and commits:
            await self.close()
            self._ahead = asyncio.create_task(self.page(chain.next_offset, max_bytes))
        return commits

    async def close(self) -> None:
        """Let go of what is being fetched ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def _fetched(self, first_offset: int) -> Sequence[pb.KeyValue]:
        """Commits from an offset on, if they were fetched ahead; empty when they were not, or it failed."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return ()
        try:
            kvs = (await ahead).kvs
        except (EtcdError, Trimmed):
            return ()
        if not kvs:
            return ()
        skipped = first_offset - self._layout.offset_of(kvs[0].key)
        return kvs[skipped:] if 0 <= skipped < len(kvs) else ()

    async def follow(self, first_offset: int) -> AsyncGenerator[list[CommitAt], None]:
        """As Log.follow."""
        chain = Chain(first_offset)
        pauses = Pauses()
        while True:
            try:
                revision = 0
                async with aclosing(self._to_the_end(chain.next_offset)) as pages:
                    async for page in pages:
                        revision = page.header.revision
                        pauses.reset()
                        if page.kvs:
                            yield [self._verified(chain, kv) for kv in page.kvs]
                changes_from = self._etcd.watch(
                    self._layout.commits, self._end, start_revision=revision + 1
                )
                async with aclosing(changes_from) as watch:
                    async for changes in watch:
                        commits = self._new_commits(chain, changes)
                        if commits:
                            yield commits
            except (Compacted, EtcdUnavailable):
                # Either way the offsets tell where to go on; no revision is needed for that.
                await asyncio.sleep(pauses.next_s())
            except EtcdRefused as error:
                raise LogRefused(str(error)) from error

    async def _to_the_end(self, first_offset: int) -> AsyncGenerator[pb.RangeResponse, None]:
        """Pages from the offset on, the last one empty; the next is fetched while one is used."""
        fetching = asyncio.create_task(self.page(first_offset))
        try:
            while True:
                page = await fetching
                if not page.kvs:
                    yield page
                    return
                next_offset = self._layout.offset_of(page.kvs[-1].key) + 1
                fetching = asyncio.create_task(self.page(next_offset))
                yield page
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)

    def _verified(self, chain: Chain, kv: pb.KeyValue) -> CommitAt:
        return chain.take(self._layout.offset_of(kv.key), kv.value)

    def _new_commits(self, chain: Chain, changes: Changes) -> list[CommitAt]:
        commits: list[CommitAt] = []
        for event in changes.events:
            offset = self._layout.offset_of(event.kv.key)
            if event.type == pb.Event.PUT and offset >= chain.next_offset:
                commits.append(chain.take(offset, event.kv.value))
        return commits
