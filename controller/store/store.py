"""Keeps the store behind the log, and subjects out of memory. Owns when batches are cut and written, which subjects are
cooled, and what a start takes from the file; the log is the record, and whatever does not fit it is thrown away.

A batch is cut between two commits on the event loop, which costs a copy of references, and written by a thread of its
own. A subject is cooled only once all that stands of it is in the file, and never while a commit is applied.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError

from controller.store.errors import StoreDamaged
from controller.store.file import COOLED_KINDS, Batch, Cut, Grounds, StoreFile
from controller.twin.history import Histories
from federation.applied import Applied
from federation.checkpoint import CheckpointRecorder
from federation.codec import ASPECTS, Write
from federation.errors import CorruptStore
from federation.restoring import restore
from federation.state import State
from federation.stored_writes import unpack_aspects, unpack_history
from federation.table import Aspects

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Longest that a change waits to be written. A start replays what was not: some seconds of log in a fraction of them.
#: A node that reports often is written once an interval.
WRITE_INTERVAL_S = 5.0

#: Changed subjects that are written before the interval is over: cutting a batch of them holds the loop for 5 to 8 ms.
BATCH_SUBJECTS = 5_000

#: Summaries written with one batch, before the interval is over where there are as many: copying them holds the loop
#: for some four milliseconds.
BATCH_SUMMARIES = 2_000

#: Changed subjects above which a replay waits for the file. Each takes some 5 KB of memory until it is written.
MAX_CHANGED_SUBJECTS = 20_000

#: Subjects in memory that could be cooled: some 100 MB, and what is worked with at a time finds room.
MAX_HOT_SUBJECTS = 20_000

#: Rows read at once at a start, and in passes over all nodes: some ten milliseconds.
PAGE_ROWS = 5_000

#: Longest that a close goes on writing summaries: what is not stored is made anew at the next start.
MAX_CLOSE_S = 5.0

#: After a write that failed, a full disk say.
RETRY_S = 5.0

#: Kind of the parts that hold folds beside the state.
FOLD = "fold"

#: (domain, subject)
At = tuple[str, str]


class Fold(Protocol):
    """Something else that follows the log commit by commit, and is stored with the state."""

    def stored(self) -> bytes:
        """All of it; it must be small."""

    def restore(self, data: bytes) -> None:
        """Takes back what `stored` gave. Raises `DecodeError`: nothing was taken."""


class Summaries(Protocol):
    """What a read model makes of subjects, stored beside their aspects so that a start need not make it anew."""

    #: Names what the stored bytes mean; those of another form are dropped.
    form: str

    def unsaved(self) -> int:
        """How many are not stored."""

    def leaving(self, most: int) -> Callable[[], Iterator[tuple[str, str, bytes]]]:
        """Some of those that are not stored, as they stand between two commits: domain, subject, and the bytes once a
        worker thread asks for them. Never one of a subject that was written of since it was made.
        """


class Store:
    """The store of one replica: `ColdSubjects` of its state and `PastTransitions` of its histories."""

    def __init__(
        self,
        path: Path,
        state: State,
        histories: Histories,
        *,
        max_hot_subjects: int = MAX_HOT_SUBJECTS,
    ) -> None:
        self._file = StoreFile(path)
        self._state = state
        self._histories = histories
        self._max_hot = max_hot_subjects
        self._recorder = CheckpointRecorder(state)
        self._cut = Cut(0, b"")
        self._written = 0
        self._changed: dict[At, None] = {}
        self._writing: frozenset[At] = frozenset()
        #: Subjects in memory as they stand in the file, with their marks, the longest hot first.
        self._clean: OrderedDict[At, int] = OrderedDict()
        self._cooling = False
        self._folds: dict[str, Fold] = {}
        self._fold_parts: dict[str, bytes] = {}
        self._failure: StoreDamaged | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._wake = asyncio.Event()
        self._relieved = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._summaries: Summaries | None = None

    def keep(self, name: str, fold: Fold) -> None:
        """Stores a fold with the state, at the same cut; to be said before the store is opened."""
        self._folds[name] = fold

    def summarise(self, summaries: Summaries) -> None:
        """Stores summaries beside the subjects; to be said before the store is opened."""
        self._summaries = summaries

    @property
    def durable_to(self) -> int:
        """Up to which offset of the log the file has what followed from it."""
        return self._written

    # Its life.

    async def open(
        self,
        nonce: bytes,
        hash_before: Callable[[int], Awaitable[bytes]],
        *,
        anew: bool = False,
    ) -> Cut | None:
        """Fills the state from the file where it fits the log; returns where the log goes on from, None for the
        beginning. `hash_before` is the log's; `anew` gives the file up. Raises `StoreInUse`.
        """
        began_s = time.monotonic()
        grounds = Grounds(nonce, self._state.controller, self._state.keys.root_key.hex(), MEANING)
        cut = await self._blocking(lambda: self._file.open(grounds))
        why = "" if cut is not None else "there is none that fits"
        if cut is not None and not await _is_in_log(cut, hash_before):
            why = "the log does not go on from it"
        if anew:
            why = "the log is folded anew"
        if not why:
            try:
                await self._restore()
            except (CorruptStore, DecodeError, sqlite3.Error, ValueError) as error:
                why = f"it cannot be read: {error}"
        if why:
            await self._blocking(lambda: self._file.begin_anew(grounds))
            cut = None
        if self._summaries is not None:
            form = self._summaries.form
            await self._blocking(lambda: self._file.expect_summaries(form))
        self._state.table.attach(self)
        self._histories.attach(self)
        if cut is not None:
            self._cut, self._written = cut, cut.next_offset
        _log.info(
            "store is open",
            extra={
                "commits": self._written,
                "subjects": sum(map(len, self._state.table.subjects.values())),
                "anew": why,
                "seconds": round(time.monotonic() - began_s, 3),
            },
        )
        self._task = asyncio.create_task(self._run(), name="store")
        return cut

    async def close(self) -> None:
        """Writes what is not written yet, and lets go of the file."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._blocking(self._file.close)
        self._thread.shutdown(wait=False)

    async def relieve(self) -> None:
        """Waits while so much is unwritten that memory would grow; for replays, which outrun the disk.

        Raises `StoreDamaged`.
        """
        while len(self._changed) > MAX_CHANGED_SUBJECTS and not self._closing:
            self._relieved.clear()
            self._wake.set()
            await self._relieved.wait()
            self._raise_failure()

    def take_note(self, applied: Applied, log_hash: bytes) -> None:
        """Follows one commit, after it was applied; `log_hash` is the log's after it. Raises `StoreDamaged`."""
        self._raise_failure()
        self._recorder.take_note(applied)
        changed = self._changed
        for key in applied.keys:
            changed[key[0], key[1]] = None
        for key, _ in applied.transitions:
            changed[key[0], key[1]] = None
        self._cut = Cut(applied.offset + 1, log_hash)
        if len(changed) >= BATCH_SUBJECTS:
            self._wake.set()

    # What the core and the histories read.

    def load(self, domain: str, subject: str) -> Aspects:
        """As `ColdSubjects.load`. Raises `StoreDamaged`."""
        aspects, mark = self._read(domain, subject)
        self._clean[domain, subject] = mark
        if len(self._clean) > self._max_hot and not self._cooling:
            self._cooling = True
            asyncio.get_running_loop().call_soon(self._cool)
        return aspects

    def glance(self, domain: str, subject: str) -> Aspects:
        """As `ColdSubjects.glance`. Raises `StoreDamaged`."""
        return self._read(domain, subject)[0]

    def transitions(self, domain: str, subject: str) -> list[Write]:
        """As `PastTransitions.transitions`. Raises `StoreDamaged`."""
        try:
            packed = self._file.history(domain, subject)
            return unpack_history(packed, self._state.decoder) if packed is not None else []
        except (sqlite3.Error, ValueError, CorruptStore) as error:
            raise self._damaged(error) from error

    def _read(self, domain: str, subject: str) -> tuple[Aspects, int]:
        try:
            packed, mark = self._file.load(domain, subject)
            return unpack_aspects(packed, self._state.decoder), mark
        except (sqlite3.Error, ValueError, KeyError, CorruptStore) as error:
            raise self._damaged(error) from error

    # Passes over all nodes.

    async def summaries(self) -> AsyncIterator[list[tuple[str, str, bytes | None]]]:
        """Pages of (domain, subject, summary) of all subjects as they stand in the file; to be read at a start, before
        the tail is replayed.
        """
        async for page in self._pages(self._file.summaries):
            yield page

    async def links(self) -> AsyncIterator[list[tuple[str, str, bytes | None]]]:
        """Pages of (domain, subject, event of its link's state) of the subjects in the file; what changed since must be
        read from memory.
        """
        async for page in self._pages(self._file.links):
            yield page

    async def _pages(
        self, read: Callable[[int, int], list[tuple[int, str, str, bytes | None]]]
    ) -> AsyncIterator[list[tuple[str, str, bytes | None]]]:
        after = 0
        while True:
            rows = await self._blocking(
                lambda after=after: read(after, PAGE_ROWS)  # type: ignore[misc]
            )
            if not rows:
                return
            after = rows[-1][0]
            yield [row[1:] for row in rows]

    # Writing behind.

    async def _run(self) -> None:
        while not self._closing:
            try:
                async with asyncio.timeout(WRITE_INTERVAL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if self._is_level():
                continue
            if not await self._write(self._gather()):
                return
            self._relieved.set()
            if self._unsaved() >= BATCH_SUMMARIES:
                self._wake.set()
        end_s = time.monotonic() + MAX_CLOSE_S
        while not self._is_level() and await self._write(self._gather()):
            if self._cut.next_offset == self._written and time.monotonic() > end_s:
                return

    def _is_level(self) -> bool:
        """Tells whether there is nothing to write."""
        return self._cut.next_offset == self._written and not self._unsaved()

    def _unsaved(self) -> int:
        return self._summaries.unsaved() if self._summaries is not None else 0

    def _gather(self) -> Batch:
        table = self._state.table
        rows = []
        for domain, subject in self._changed:
            aspects = table.hot(domain, subject)
            if aspects is not None:
                rows.append((domain, subject, dict(aspects)))
        self._writing = frozenset(self._changed)
        self._changed = {}
        parts = self._recorder.changed()
        for name, fold in self._folds.items():
            data = fold.stored()
            if data != self._fold_parts.get(name):
                self._fold_parts[name] = parts.put[f"{FOLD}/{name}"] = data
        summaries = _none
        if self._summaries is not None:
            summaries = self._summaries.leaving(BATCH_SUMMARIES)
        return Batch(self._cut, rows, self._histories.leaving(), parts, summaries)

    async def _write(self, batch: Batch) -> bool:
        """Writes a batch, again and again while the disk refuses; tells whether it was."""
        while True:
            try:
                marks = await self._blocking(lambda: self._file.write(batch))
                break
            except sqlite3.OperationalError as error:
                _log.error(
                    "the store was not written",
                    extra={"path": str(self._file.path), "error": str(error)},
                )
                if self._closing:
                    return False
                await asyncio.sleep(RETRY_S)
            except (sqlite3.Error, ValueError, CorruptStore) as error:
                self._damaged(error)
                self._relieved.set()
                return False
        self._written = batch.cut.next_offset
        self._writing = frozenset()
        self._histories.left()
        for at, mark in marks.items():
            if at[1].partition("/")[0] in COOLED_KINDS:
                self._clean[at] = mark
                self._clean.move_to_end(at)
        self._cool()
        return True

    def _cool(self) -> None:
        """Cools what has been hot for longest, down to the bound. What changed since is taken up when it is written."""
        self._cooling = False
        table = self._state.table
        while len(self._clean) > self._max_hot:
            at, mark = self._clean.popitem(last=False)
            if at not in self._changed and at not in self._writing:
                table.cool(*at, mark)

    # Starting.

    async def _restore(self) -> None:
        state = self._state
        fresh = State(state.controller, state.keys.verifier, state.keys.root_key)
        parts = await self._blocking(self._file.parts)
        numbers = restore(fresh, parts)
        after = 0
        while rows := await self._blocking(
            lambda after=after: self._file.index(after, PAGE_ROWS)  # type: ignore[misc]
        ):
            for row in rows:
                if row.aspects is None:
                    fresh.table.put_cold(row.domain, row.subject, row.mark)
                else:
                    aspects = unpack_aspects(row.aspects, fresh.decoder)
                    fresh.table.aspects_to_change(row.domain, row.subject).update(aspects)
            after = rows[-1].id
        for name, fold in self._folds.items():
            if f"{FOLD}/{name}" in parts:
                fold.restore(parts[f"{FOLD}/{name}"])
        state.take_over(fresh)
        self._recorder.is_stored(numbers)

    # Failing.

    def _damaged(self, error: Exception) -> StoreDamaged:
        """The file is no good any more: the next start begins with an empty one."""
        if self._failure is None:
            self._failure = StoreDamaged(self._file.path, error)
            self._file.distrust()
        return self._failure

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _blocking(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _none() -> Iterator[tuple[str, str, bytes]]:
    return iter(())


async def _is_in_log(cut: Cut, hash_before: Callable[[int], Awaitable[bytes]]) -> bool:
    """Tells whether the log holds what the store was made of."""
    try:
        return await hash_before(cut.next_offset) == cut.log_hash
    except IndexError:
        return False


def _meaning() -> str:
    """Changes with what events mean to this release: an aspect it did not know before may stand in the log already."""
    rules = repr(sorted(ASPECTS.items()))
    return hashlib.sha256(rules.encode()).hexdigest()[:16]


MEANING = _meaning()
