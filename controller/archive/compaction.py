"""Keeps the store's part of the log small: a task of every replica. Owns when commits are archived, how many the store
keeps, and who may hold them; how they are moved is `archived_log`'s.

Every replica archives what it has applied, for itself; only the master trims the store. It leaves alone what its own
read model or another replica's archive has not yet, the latter up to a bound: a replica that is gone for good must not
fill the store. Peers hold nothing: what they lack is read from the archive.
"""

from __future__ import annotations

import asyncio
import logging
import time

from controller.archive.archived_log import ArchivedLog
from controller.archive.segment import SEGMENT_BYTES, SEGMENT_COMMITS
from controller.archive.storage import LogStorage
from controller.background import Background
from controller.journal import JournalClosed
from controller.log.errors import Fenced, HeadMoved, LogError
from controller.log.port import Mastership
from controller.replica import Replica

_log = logging.getLogger(__name__)

#: Between two looks at how much is there: what a second brings at most is a tenth of the smallest budget in use.
LOOK_S = 2.0

#: After a failure: a disk that is full, an etcd that is away.
RETRY_S = 15.0

#: To what share of the budget the store is trimmed once it is beyond it. Compaction and a rewrite of the file cost the
#: more the oftener they are done; the rest is what replicas follow without reading files.
KEPT_SHARE = 0.5

#: Other replicas hold what they have not archived up to so many budgets; beyond it they must be given files.
MAX_HELD_BUDGETS = 4

#: Not archived yet, in budgets, above which archiving does not give way to other work any more.
MAX_LATE_BUDGETS = 1


class Compaction:
    """The compaction of one replica's log. `run` is its life."""

    def __init__(self, replica: Replica, log: ArchivedLog, budget_bytes: int) -> None:
        self._replica = replica
        self._log = log
        self._budget_bytes = budget_bytes
        self._late_bytes = MAX_LATE_BUDGETS * budget_bytes
        self._pace = Background()
        #: Bytes that had been applied when all that fills segments was archived.
        self._level_bytes = -SEGMENT_BYTES
        self._noted_to = -1
        self._left_behind: frozenset[str] = frozenset()
        #: Something may have been trimmed whose space was not given back: by an earlier life, say.
        self._to_reclaim = True
        self._archive_bytes = (-1, 0)

    async def run(self) -> None:
        """Looks, until cancelled."""
        await self._replica.replayed()
        while True:
            pause_s = LOOK_S
            try:
                await self.look()
            except (Fenced, HeadMoved, JournalClosed) as error:
                _log.info("another replica compacts the log", extra={"reason": str(error)})
            except (LogError, OSError) as error:
                _log.error("the log was not compacted", extra={"error": str(error)})
                pause_s = RETRY_S
            await asyncio.sleep(pause_s)

    async def look(self) -> None:
        """Does what is to be done now. Raises LogError, OSError, JournalClosed: the next look goes on from there."""
        await self._archive()
        if self._replica.is_master:
            await self._trim()
        await self._note_storage()

    async def _archive(self) -> None:
        replica, log = self._replica, self._log
        applied_bytes = replica.applied_bytes
        if (
            applied_bytes - self._level_bytes >= SEGMENT_BYTES
            or replica.state.next_offset - log.archived_to >= SEGMENT_COMMITS
        ):
            began_s = time.monotonic()
            while (segment := await log.archive_next()) is not None:
                self._level_bytes += segment.commit_bytes
                if replica.applied_bytes - self._level_bytes <= self._late_bytes:
                    await self._pace.rest(time.monotonic() - began_s)
                began_s = time.monotonic()
            self._level_bytes = applied_bytes
        if log.archived_to != self._noted_to and log.segments:
            await log.note_archived(replica.config.controller.replica)
            self._noted_to = log.archived_to

    async def _trim(self) -> None:
        log = self._log
        mastership = Mastership(self._replica.journal().fencing_token)
        kept = log.in_both()
        size = sum(segment.commit_bytes for segment in kept)
        trimmed = 0
        if size > self._budget_bytes:
            safe = await self._safe_offset(size)
            for segment in kept:
                if size <= KEPT_SHARE * self._budget_bytes or segment.end > safe:
                    break
                began_s = time.monotonic()
                await log.trim(mastership, segment)
                self._to_reclaim = True
                size -= segment.commit_bytes
                trimmed += segment.commit_bytes
                await self._pace.rest(time.monotonic() - began_s)
        if self._to_reclaim:
            reclaimed = await log.reclaim()
            self._to_reclaim = False
            if trimmed or reclaimed.freed_bytes:
                _log.info(
                    "the log was compacted",
                    extra={
                        "start": log.start,
                        "moved_bytes": trimmed,
                        "freed_bytes": reclaimed.freed_bytes,
                        "stalled_s": round(reclaimed.stalled_s, 3),
                    },
                )

    async def _safe_offset(self, size: int) -> int:
        """Up to where nobody needs the store's copy, who may hold it."""
        own = self._replica.config.controller.replica
        safe = min(self._replica.store.durable_to, self._log.archived_to)
        others = await self._log.archived()
        behind = {replica: to for replica, to in others.items() if replica != own and to < safe}
        if size <= MAX_HELD_BUDGETS * self._budget_bytes:
            return min([safe, *behind.values()])
        if behind.keys() - self._left_behind:
            _log.warning(
                "replicas are left behind by compaction", extra={"replicas": sorted(behind)}
            )
        self._left_behind = frozenset(behind)
        return safe

    async def _note_storage(self) -> None:
        log = self._log
        segments = list(log.segments)
        if self._archive_bytes[0] != len(segments):
            size = await asyncio.to_thread(log.directory.size_of, segments)
            self._archive_bytes = (len(segments), size)
        self._replica.log_storage = LogStorage(
            start=log.start,
            archived_to=log.archived_to,
            segments=len(segments),
            archive_bytes=self._archive_bytes[1],
            archived_commit_bytes=sum(segment.commit_bytes for segment in segments),
            store=await log.space(),
        )
