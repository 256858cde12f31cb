"""The one writer of a controller's log while it is master. Owns group commit; decides nothing about what is written.

While one append is in flight, all arriving requests gather for the next: no timer. A request is a function that
reads and drafts through a `Proposal`; it runs between appends, so that it sees all that is committed and the drafts
gathered before it. Nothing is answered before its commit stands, not even a refusal that rests on drafts of that
commit (design §4).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from controller.log.errors import (
    CommitTooLarge,
    Fenced,
    HeadMoved,
    LogError,
    LogRefused,
    LogUnavailable,
)
from controller.log.port import MAX_COMMIT_BYTES, Head, Log, Mastership
from controller.outdated import StateOutdated
from controller.tasks import end
from controller.telemetry.commits import CommitTelemetry
from federation.chain import Signer
from federation.clock import HybridClock
from federation.proposal import Identity, Proposal
from federation.state import Applied, State
from souverix.event.v1 import event_pb2
from telemetry.context import TraceContext
from telemetry.started import OFF, Telemetry

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Requests that may wait for the next commit. At 2,500 writes a second this is over a second of work; beyond it the
#: caller is better served by an immediate refusal.
MAX_WAITING = 4096

#: Most requests in one commit, so that one commit's work stays well below the lease's renewal interval.
MAX_REQUESTS_A_COMMIT = 1024

#: A request that would make the commit larger than this waits for the next one; a sixteenth is left for estimates.
MAX_PROPOSED_BYTES = MAX_COMMIT_BYTES - MAX_COMMIT_BYTES // 16


#: Turns of the loop without a new request after which no more are on their way. A call is let in by the server every
#: few turns, some ten microseconds each; after a commit of one request nobody is waited for but who is there already.
QUIET_TURNS = 24
QUIET_TURNS_ALONE = 2

#: Longest a commit is put off because calls keep coming in: the time of a few appends, and enough for some dozens of
#: calls to be answered and to come again. Seals and the round trip to the log are per commit.
MAX_ARRIVALS_S = 0.008


class JournalError(Exception):
    """Root of the journal's errors."""


class JournalClosed(JournalError):
    """This replica is not the master, or ceased to be: ask the master."""


class JournalFull(JournalError):
    """Too many writes wait: slow down and try again."""


class WriteOutcomeUnknown(JournalError):
    """The commit may or may not stand; repeat the request with the same request_id."""


class Committed(NamedTuple, Generic[T]):
    """What a request returned, and the commit that holds what it drafted or received (None: there was nothing)."""

    value: T
    offset: int | None


@dataclass(slots=True)
class _Waiting:
    decide: Callable[[Proposal], Any]
    done: asyncio.Future[Committed[Any]]
    trace: TraceContext | None = None


@dataclass(slots=True)
class _Gathered:
    waiting: _Waiting
    value: Any = None
    drafted: bool = False
    #: It was refused, for reasons that may rest on drafts of the same commit.
    refusal: Exception | None = None


class Journal:
    """Appends proposals to the log under one mastership, and applies them to the state.

    `on_applied` is called after each commit, with what it changed, its message and its size in bytes, before any
    caller is answered. What it returns ends the journal; callers are answered before, unless they may have written in
    vain.
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
        on_applied: Callable[[Applied, event_pb2.Commit, int], StateOutdated | None],
        telemetry: Telemetry = OFF,
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
        self._telling = CommitTelemetry(telemetry)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._in_flight: list[_Gathered] = []
        self._gathered_last = 0
        self._closed: JournalError | None = None
        #: Set when the journal can write no more; holds the reason. An exception in it is a fault of this process,
        #: whose state is not to be relied on any more.
        self.failed: asyncio.Future[JournalError] = self._loop.create_future()
        self._task = asyncio.create_task(self._run(), name="journal")

    @property
    def fencing_token(self) -> int:
        """The mastership under which every append is made."""
        return self._mastership.token

    @property
    def waiting(self) -> int:
        """Requests that wait for a commit to come."""
        return len(self._waiting)

    async def submit(
        self, decide: Callable[[Proposal], T], trace: TraceContext | None = None
    ) -> Committed[T]:
        """Runs `decide` on the next proposal and returns once its commit is durable and applied.

        Whatever `decide` raises is raised here, and what it drafted is dropped. It runs again when what it drafts
        does not fit any more. The commit's span stands in `trace`, or is linked to it. Raises `JournalClosed`,
        `JournalFull`, `WriteOutcomeUnknown`, `LogUnavailable`, `CommitTooLarge`.
        """
        if self._closed is not None:
            raise self._closed
        if len(self._waiting) >= MAX_WAITING:
            raise JournalFull(f"{MAX_WAITING} writes wait already; retry later")
        done: asyncio.Future[Committed[T]] = self._loop.create_future()
        self._waiting.append(_Waiting(decide, done, trace))
        self._wake.set()
        return await done

    async def close(self) -> None:
        """Stops writing; whoever still waits is told so."""
        self._fail(JournalClosed("this replica ceased to be the master"))
        await end(self._task)

    async def _run(self) -> None:
        try:
            while self._closed is None:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting and self._closed is None:
                    await self._arrivals()
                    await self._commit_next()
        except StateOutdated as error:
            self.failed.set_exception(error)
            self._fail(JournalClosed("the state of this replica is made anew from the log"))
        except Exception as error:  # noqa: BLE001 the replica must hear of it, whatever it is
            _log.exception("the journal failed")
            if not self.failed.done():
                self.failed.set_exception(error)
            self._fail(JournalClosed(f"this replica failed ({type(error).__name__})"))
        finally:
            self._refuse_in_flight(
                WriteOutcomeUnknown(
                    "this replica ceased to be the master before the log answered; repeat the write with the same "
                    "request_id"
                )
            )

    async def _arrivals(self) -> None:
        """Lets calls that are on the sockets already join the next commit. No timer: a lone writer is not held up.

        Without it a loop that is busy with calls comes round to the journal after every second one, and commits, seals
        and awaits the disk for two writes at a time.
        """
        enough = QUIET_TURNS if self._gathered_last > 1 else QUIET_TURNS_ALONE
        quiet = 0
        end_s = self._loop.time() + MAX_ARRIVALS_S
        while self._loop.time() < end_s:
            waiting = len(self._waiting)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) == waiting else 0
            if quiet == enough or len(self._waiting) >= MAX_REQUESTS_A_COMMIT:
                return

    async def _commit_next(self) -> None:
        proposal = Proposal(
            self._state, self.identity, self.clock, self._signer, time.time_ns() // 1_000_000
        )
        self._in_flight = self._gather(proposal)
        self._gathered_last = len(self._in_flight)
        if proposal.empty:
            self._answer_in_flight(None)
            return
        built = proposal.build(os.urandom(16), self._replica, self.fencing_token)
        traces = (gathered.waiting.trace for gathered in self._in_flight)
        try:
            with self._telling.append(len(self._in_flight), len(built.data), traces):
                self.head = await self._log.append(self._mastership, self.head, built.data)
        except (LogUnavailable, CommitTooLarge) as error:
            self._refuse_in_flight(error)
            return
        except (Fenced, HeadMoved, LogRefused) as error:
            closed = JournalClosed(f"the mastership is lost, and nothing was written: {error}")
            self._refuse_in_flight(closed)
            self._fail(closed)
            return
        except LogError as error:
            self._refuse_in_flight(
                WriteOutcomeUnknown(
                    f"the log did not say whether the write stands ({error}); repeat it with the same request_id"
                )
            )
            self._fail(JournalClosed(f"the mastership is given up: {error}"))
            return
        applied = self._state.apply(built.commit.offset, built.commit, built.prepared)
        outdated = self._on_applied(applied, built.commit, len(built.data))
        if outdated is None or not outdated.own:
            self._answer_in_flight(built.commit.offset)
        if outdated is not None:
            raise outdated

    def _gather(self, proposal: Proposal) -> list[_Gathered]:
        """Runs waiting requests on the proposal until it is full; those that need no commit are answered at once."""
        gathered: list[_Gathered] = []
        while self._waiting and not proposal.full and len(gathered) < MAX_REQUESTS_A_COMMIT:
            waiting = self._waiting.popleft()
            if waiting.done.done():
                continue
            mark = proposal.mark()
            alone = proposal.empty
            try:
                value = waiting.decide(proposal)
            except Exception as error:  # noqa: BLE001 whatever a request raises belongs to its caller
                proposal.revert(mark)
                if alone:
                    _refuse(waiting, error)
                else:
                    gathered.append(_Gathered(waiting, refusal=error))
                continue
            drafted = proposal.mark() != mark
            if drafted and proposal.size > MAX_PROPOSED_BYTES:
                size = proposal.size
                proposal.revert(mark)
                if not alone:
                    self._waiting.appendleft(waiting)
                    break
                _refuse(
                    waiting, CommitTooLarge(f"{size} bytes exceed one commit; split the request")
                )
            elif alone and not drafted:
                _answer(waiting, Committed(value, None))
            else:
                gathered.append(_Gathered(waiting, value, drafted))
        return gathered

    def _answer_in_flight(self, offset: int | None) -> None:
        for gathered in self._in_flight:
            if gathered.refusal is not None:
                _refuse(gathered.waiting, gathered.refusal)
            else:
                at = offset if gathered.drafted else None
                _answer(gathered.waiting, Committed(gathered.value, at))
        self._in_flight = []

    def _refuse_in_flight(self, error: Exception) -> None:
        for gathered in self._in_flight:
            _refuse(gathered.waiting, error)
        self._in_flight = []

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
