"""The one writer of a controller's log while it is master. Owns group commit; decides nothing about what is written.

While one append is in flight, all arriving requests gather for the next: no timer. A request is a function that
reads and drafts through a `Proposal`; it runs between appends, so that it sees all that is committed and the drafts
gathered before it. Nothing is answered before its commit stands (design §4).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from controller.log.errors import CommitTooLarge, LogError, LogUnavailable
from controller.log.port import Head, Log, Mastership
from federation.chain import Signer
from federation.clock import HybridClock
from federation.proposal import Identity, Proposal
from federation.state import Applied, State
from souverix.event.v1 import event_pb2

T = TypeVar("T")

#: Requests that may wait for the next commit. At 2,500 writes a second this is over a second of work; beyond it the
#: caller is better served by an immediate refusal.
MAX_WAITING = 4096

#: Most requests in one commit, so that one commit's work stays well below the lease's renewal interval.
MAX_REQUESTS_A_COMMIT = 1024


class JournalError(Exception):
    """Root of the journal's errors."""


class JournalClosed(JournalError):
    """This replica is not the master, or ceased to be: ask the master."""


class JournalFull(JournalError):
    """Too many writes wait: slow down and try again."""


class WriteOutcomeUnknown(JournalError):
    """The commit may or may not stand; repeat the request with the same request_id."""


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """What a request returned, and the commit that holds its drafts (None: it drafted nothing)."""

    value: T
    offset: int | None


@dataclass(slots=True)
class _Waiting:
    decide: Callable[[Proposal], Any]
    done: asyncio.Future[Committed[Any]]


class Journal:
    """Appends proposals to the log under one mastership, and applies them to the state.

    `on_applied` is called after each commit, with what it changed, its message and its size in bytes, before any
    caller is answered.
    """

    def __init__(
        self,
        log: Log,
        mastership: Mastership,
        head: Head,
        state: State,
        identity: Identity,
        signer: Signer,
        replica: str,
        on_applied: Callable[[Applied, event_pb2.Commit, int], None],
    ) -> None:
        self.identity = identity
        self.head = head
        self.clock = HybridClock(state.clock)
        self._log = log
        self._mastership = mastership
        self._state = state
        self._signer = signer
        self._replica = replica
        self._on_applied = on_applied
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._closed: JournalError | None = None
        #: Set when the journal can write no more; holds the reason.
        self.failed: asyncio.Future[JournalError] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name="journal")

    @property
    def fencing_token(self) -> int:
        """The mastership under which every append is made."""
        return self._mastership.token

    async def submit(self, decide: Callable[[Proposal], T]) -> Committed[T]:
        """Runs `decide` on the next proposal and returns once its commit is durable and applied.

        Whatever `decide` raises is raised here, and its drafts are dropped. Raises `JournalClosed`, `JournalFull`,
        `WriteOutcomeUnknown`, `LogUnavailable`.
        """
        if self._closed is not None:
            raise self._closed
        if len(self._waiting) >= MAX_WAITING:
            raise JournalFull(f"{MAX_WAITING} writes wait already; retry later")
        done: asyncio.Future[Committed[T]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(decide, done))
        self._wake.set()
        return await done

    async def close(self) -> None:
        """Stops writing; whoever still waits is told so."""
        self._fail(JournalClosed("this replica ceased to be the master"))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._closed is None:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting and self._closed is None:
                await self._commit_next()

    async def _commit_next(self) -> None:
        proposal = Proposal(
            self._state, self.identity, self.clock, self._signer, time.time_ns() // 1_000_000
        )
        gathered: list[tuple[_Waiting, Any]] = []
        while self._waiting and not proposal.full and len(gathered) < MAX_REQUESTS_A_COMMIT:
            waiting = self._waiting.popleft()
            if waiting.done.cancelled():
                continue
            mark = proposal.mark()
            try:
                value = waiting.decide(proposal)
            except Exception as error:  # noqa: BLE001 whatever a request raises belongs to its caller
                proposal.revert(mark)
                _refuse(waiting, error)
                continue
            if proposal.mark() == mark and proposal.empty:
                _answer(waiting, Committed(value, None))
                continue
            gathered.append((waiting, value))
        if proposal.empty:
            for waiting, value in gathered:
                _answer(waiting, Committed(value, None))
            return
        built = proposal.build(os.urandom(16), self._replica, self.fencing_token)
        try:
            self.head = await self._log.append(self._mastership, self.head, built.data)
        except (LogUnavailable, CommitTooLarge) as error:
            for waiting, _ in gathered:
                _refuse(waiting, error)
            return
        except LogError as error:
            unknown = WriteOutcomeUnknown(
                f"the log did not say whether the write stands ({error}); repeat it with the same request_id"
            )
            for waiting, _ in gathered:
                _refuse(waiting, unknown)
            self._fail(JournalClosed(f"the mastership is lost: {error}"))
            return
        applied = self._state.apply(built.commit.offset, built.commit, built.prepared)
        self._on_applied(applied, built.commit, len(built.data))
        for waiting, value in gathered:
            _answer(waiting, Committed(value, built.commit.offset))

    def _fail(self, error: JournalError) -> None:
        if self._closed is None:
            self._closed = error
            self._wake.set()
        for waiting in self._waiting:
            _refuse(waiting, error)
        self._waiting.clear()
        if not self.failed.done():
            self.failed.set_result(error)


def _answer(waiting: _Waiting, committed: Committed[Any]) -> None:
    if not waiting.done.done():
        waiting.done.set_result(committed)


def _refuse(waiting: _Waiting, error: Exception) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(error)
