"""A log whose older part is in an archive: whoever reads it does not see where the one ends and the other begins. Owns
which segments are trusted, reading through both, and the order of moving; never says when something is moved.

Where the store's part begins is the store's to say, and all replicas ask it. Before the start only the archive is read,
from it on only the store. A segment is trusted when the log goes on from it: the hash after its last commit stands in
the store, or before the first commit of a segment that is trusted. Files of another past, from before a log was set
back, do not join and are never read.

Commits are moved in two steps. A segment is written, made durable, read back and proven; later its commits are dropped
from the store in one transaction that also moves the start, if the store still goes on from what the file, read once
more, comes to. Between any two of these every commit can be read.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from controller.archive.directory import ArchiveDirectory
from controller.archive.segment import (
    SEGMENT_BYTES,
    SEGMENT_COMMITS,
    Segment,
    SegmentContent,
    segment_of,
)
from controller.log.errors import LogCorrupt, LogUnavailable, Trimmed
from controller.log.port import (
    CommitAt,
    Head,
    Mastership,
    MastershipLease,
    Reclaimed,
    Space,
    StoredLog,
)

#: Segments kept decompressed, some 5 MiB each: one for who reads on, and some for who looks here and there.
KEPT_CONTENTS = 4

#: What a page of the tail should come to; a segment at most.
PAGE_BYTES = SEGMENT_BYTES

#: Between two looks for files that were missing: who copies them need not restart anything.
LOOK_AGAIN_S = 10.0


class ArchivedLog:
    """The log port over a store and an archive."""

    def __init__(self, log: StoredLog, directory: ArchiveDirectory) -> None:
        self.directory = directory
        self._log = log
        self._start = Head(0, b"", b"")
        #: Those trusted, in the order of the log, without a gap between them.
        self._segments: list[Segment] = []
        self._contents: OrderedDict[int, SegmentContent] = OrderedDict()
        self._looked_s = 0.0

    # The log port.

    @property
    def identity(self) -> str:
        """As Log.identity."""
        return self._log.identity

    async def open(self, fresh_nonce: bytes) -> Head:
        """As Log.open."""
        head = await self._log.open(fresh_nonce)
        self._start = await self._log.start()
        await self._look()
        return head

    async def head(self) -> Head:
        """As Log.head."""
        return await self._log.head()

    async def append(self, mastership: Mastership, expected: Head, commit: bytes) -> Head:
        """As Log.append."""
        return await self._log.append(mastership, expected, commit)

    async def read(self, first_offset: int, max_bytes: int) -> list[CommitAt]:
        """As Log.read; never across the start."""
        if first_offset >= self._start.next_offset:
            try:
                return await self._log.read(first_offset, max_bytes)
            except Trimmed:
                self._start = await self._log.start()
        content = await self._content(first_offset)
        return content.from_offset(first_offset, max_bytes)

    async def hash_before(self, offset: int) -> bytes:
        """As Log.hash_before."""
        if offset == self._start.next_offset:
            return self._start.hash
        if offset > self._start.next_offset:
            try:
                return await self._log.hash_before(offset)
            except Trimmed:
                self._start = await self._log.start()
        content = await self._content(offset)
        return content.hashes[offset - content.segment.first]

    async def follow(self, first_offset: int) -> AsyncGenerator[list[CommitAt], None]:
        """As Log.follow."""
        next_offset = first_offset
        while True:
            while next_offset < self._start.next_offset:
                commits = await self.read(next_offset, PAGE_BYTES)
                next_offset = commits[-1][0] + 1
                yield commits
            try:
                async with aclosing(self._log.follow(next_offset)) as tail:
                    async for commits in tail:
                        next_offset = commits[-1][0] + 1
                        yield commits
            except Trimmed:
                self._start = await self._log.start()

    async def campaign(self, candidate: str, ttl_s: float) -> MastershipLease:
        """As Log.campaign."""
        return await self._log.campaign(candidate, ttl_s)

    async def current_master(self) -> str | None:
        """As Log.current_master."""
        return await self._log.current_master()

    async def close(self) -> None:
        """As Log.close."""
        await self._log.close()

    # Moving commits into the archive.

    @property
    def start(self) -> int:
        """From which offset on the store holds the log, as last heard."""
        return self._start.next_offset

    @property
    def archived_to(self) -> int:
        """Up to which offset the archive holds what the store does not need to hold."""
        return self._segments[-1].end if self._segments else self._start.next_offset

    @property
    def segments(self) -> Sequence[Segment]:
        """All segments that belong to the log, from the oldest on."""
        return self._segments

    def in_both(self) -> list[Segment]:
        """Segments whose commits the store holds, too, from the oldest on."""
        return self._segments[self._index(self._start.next_offset) :]

    async def archive_next(self) -> Segment | None:
        """Writes the next segment; None while there are too few commits for one.

        Raises OSError, LogUnavailable, LogCorrupt.
        """
        self._start = await self._log.start()
        first = self.archived_to
        commits: list[CommitAt] = []
        size = 0
        while size < SEGMENT_BYTES and len(commits) < SEGMENT_COMMITS:
            page = await self._log.read(first + len(commits), SEGMENT_BYTES - size)
            if not page:
                return None
            page = page[: SEGMENT_COMMITS - len(commits)]
            commits += page
            size += sum(len(commit) for _, commit in page)
        hash_before = await self.hash_before(first)
        segment = await asyncio.to_thread(self._write, hash_before, commits)
        if self.archived_to == first:
            self._segments.append(segment)
        return segment

    def _write(self, hash_before: bytes, commits: Sequence[CommitAt]) -> Segment:
        segment = segment_of(self._start.nonce, hash_before, commits)
        self.directory.write(segment, commits)
        return segment

    async def trim(self, mastership: Mastership, segment: Segment) -> None:
        """Drops from the store what is in a segment, the oldest of `in_both`, once that is proven anew.

        Raises what StoredLog.trim raises, OSError, LogCorrupt.
        """
        await asyncio.to_thread(self.directory.read, segment)
        if await self._log.hash_before(segment.end) != segment.hash_after:
            raise LogCorrupt(
                f"the log does not go on from {self.directory.file_of(segment)}: it follows another past"
            )
        start = Head(segment.end, segment.hash_after, segment.nonce)
        await self._log.trim(mastership, self._start, start)
        self._start = start

    async def reclaim(self) -> Reclaimed:
        """As StoredLog.reclaim."""
        return await self._log.reclaim()

    async def space(self) -> Space:
        """As StoredLog.space."""
        return await self._log.space()

    async def note_archived(self, replica: str) -> None:
        """Tells all replicas how far this one's archive goes. Raises LogUnavailable, LogRefused."""
        await self._log.note_archived(replica, self.archived_to)

    async def archived(self) -> dict[str, int]:
        """As StoredLog.archived."""
        return await self._log.archived()

    # Reading segments.

    async def _content(self, offset: int) -> SegmentContent:
        """The segment that holds an offset before the start. Raises LogCorrupt, LogUnavailable."""
        found = self._holding(offset)
        if found is None and time.monotonic() - self._looked_s > LOOK_AGAIN_S:
            await self._look()
            found = self._holding(offset)
        if found is None:
            raise LogCorrupt(
                f"commits before {self._start.next_offset} were moved to the archive, and {self.directory.path} does "
                f"not hold commit {offset}; copy the missing *.segment files there from the archive of another "
                "replica, or from a backup"
            )
        content = self._contents.get(found.first)
        if content is None or content.segment != found:
            try:
                content = await asyncio.to_thread(self.directory.read, found)
            except OSError as error:
                raise LogUnavailable(f"{self.directory.file_of(found)}: {error}") from error
            self._contents[found.first] = content
            while len(self._contents) > KEPT_CONTENTS:
                self._contents.popitem(last=False)
        self._contents.move_to_end(found.first)
        return content

    def _holding(self, offset: int) -> Segment | None:
        at = self._index(offset)
        if at < len(self._segments) and self._segments[at].first <= offset:
            return self._segments[at]
        return None

    def _index(self, offset: int) -> int:
        """Of the first segment that ends after an offset."""
        return bisect_right(self._segments, offset, key=lambda segment: segment.end)

    async def _look(self) -> None:
        """Finds the segments that join the log: from the newest that the store goes on from, back to the oldest."""
        self._looked_s = time.monotonic()
        try:
            found = await asyncio.to_thread(self.directory.segments, self._start.nonce)
        except OSError as error:
            raise LogUnavailable(f"{self.directory.path}: {error}") from error
        joined: list[Segment] = []
        try:
            newest = await self._newest(found)
        except Trimmed:
            # Only the master trims, and seldom: once more is enough.
            self._start = await self._log.start()
            newest = await self._newest(found)
        by_end = {(segment.end, segment.hash_after): segment for segment in found}
        while newest is not None:
            joined.append(newest)
            newest = by_end.get((newest.first, newest.hash_before))
        self._segments = joined[::-1]

    async def _newest(self, found: Sequence[Segment]) -> Segment | None:
        head = await self._log.head()
        start = self._start
        for segment in sorted(found, key=lambda segment: segment.end, reverse=True):
            if not start.next_offset <= segment.end <= head.next_offset:
                continue
            if segment.end == start.next_offset:
                if segment.hash_after == start.hash:
                    return segment
            elif await self._log.hash_before(segment.end) == segment.hash_after:
                return segment
        return None
