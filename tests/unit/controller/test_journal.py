from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controller.journal import (
    MAX_PROPOSED_BYTES,
    MAX_REQUESTS_A_COMMIT,
    MAX_WAITING,
    QUIET_TURNS,
    Committed,
    Journal,
    JournalClosed,
    JournalFull,
    WriteOutcomeUnknown,
)
from controller.log.errors import (
    CommitTooLarge,
    Fenced,
    HeadMoved,
    LogError,
    LogRefused,
    LogUnavailable,
    OutcomeUnknown,
)
from controller.log.port import MAX_COMMIT_BYTES, MastershipLease
from controller.signing import Ed25519Signer, Ed25519Verifier
from federation.errors import AlreadyExists, CorruptLog, EtagMismatch
from federation.identifiers import Key
from federation.proposal import Identity, Proposal
from federation.state import Applied, State
from souverix.event.v1 import event_pb2
from souverix.policy.v1 import policy_pb2
from tests.unit.controller.gated_log import GatedLog, Stands

ME = Identity("edge-a1-control", "edge-a1", 1)
ROOT_KEY = bytes(32)


def policy_key(number: int) -> Key:
    return Key("edge-a1", f"policies/p{number}", "policy")


class Bench:
    """A journal on a real log, and what it told."""

    def __init__(self, log: GatedLog, lease: MastershipLease) -> None:
        self.log = log
        self.lease = lease
        self.state = State(ME.controller, Ed25519Verifier(), ROOT_KEY)
        self.applied: list[tuple[Applied, event_pb2.Commit, int]] = []
        self.journal: Journal
        self.under_way: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.fault: Exception | None = None

    def _on_applied(self, applied: Applied, commit: event_pb2.Commit, size: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.applied.append((applied, commit, size))

    async def start(self) -> None:
        self.journal = Journal(
            self.log,
            self.lease.mastership,
            await self.log.head(),
            self.state,
            ME,
            Ed25519Signer.generate(),
            "r1",
            self._on_applied,
        )

    async def write(self, number: int, version: str = "v1") -> Committed[int]:
        """Writes a policy; the value is the number its event was given."""
        return await self.journal.submit(lambda p: put(p, number, version))

    def version(self, number: int) -> str | None:
        held = self.state.winner(policy_key(number))
        return str(held.body().version) if held is not None else None

    async def holding(self) -> None:
        """From now on appends wait; one is under way when this returns."""
        self.log.gate.clear()
        self.under_way = asyncio.ensure_future(self.write(0, "under way"))
        await asyncio.wait_for(self.log.waiting.wait(), 10)


def put(proposal: Proposal, number: int, version: str = "v1") -> int:
    body = policy_pb2.PolicySpec(version=version)
    return proposal.write(*policy_key(number), body, principal="user:a").sequence


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    log = GatedLog(tmp_path / "log.sqlite")
    await log.open(bytes(16))
    made = Bench(log, await log.campaign("r1", 5))
    await made.start()
    yield made
    log.gate.set()
    await made.journal.close()
    made.under_way.cancel()
    await asyncio.gather(made.under_way, return_exceptions=True)
    with contextlib.suppress(LogError):
        await made.lease.release()
    await log.close()


async def gathered(*submissions: asyncio.Future[Any]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*submissions, return_exceptions=True), 10)


async def test_answer_comes_after_its_commit_is_durable_and_applied(bench: Bench) -> None:
    await bench.holding()
    assert bench.version(0) is None
    assert not bench.under_way.done()
    bench.log.gate.set()
    committed = await bench.under_way
    assert (committed.value, committed.offset) == (1, 0)
    assert bench.version(0) == "under way"
    assert [(a.offset, c.offset, s) for a, c, s in bench.applied] == [
        (0, 0, len(bench.log.appended[0]))
    ]


async def test_writes_that_come_while_one_is_under_way_share_the_next_commit(
    bench: Bench,
) -> None:
    await bench.holding()
    writes = [asyncio.ensure_future(bench.write(n)) for n in range(1, 50)]
    await asyncio.sleep(0)
    bench.log.gate.set()
    offsets = {committed.offset for committed in await asyncio.gather(*writes)}
    assert offsets == {1}
    assert len(bench.log.appended) == 2


async def test_writes_that_keep_coming_do_not_put_a_commit_off_for_ever(bench: Bench) -> None:
    await gathered(*(asyncio.ensure_future(bench.write(number)) for number in range(2)))
    bench.log.gate.clear()
    first = asyncio.ensure_future(bench.write(0))
    following: list[asyncio.Future[Any]] = []
    # Until the append begins: how long the disk takes for it is no matter of the journal's.
    async with asyncio.timeout(10):
        while not bench.log.waiting.is_set():
            following.append(asyncio.ensure_future(bench.write(len(following) + 1)))
            for _ in range(QUIET_TURNS // 2):
                await asyncio.sleep(0)
    bench.log.gate.set()
    await gathered(first, *following)
    assert len(following) < MAX_REQUESTS_A_COMMIT


async def test_commit_names_replica_token_and_clock(bench: Bench) -> None:
    await bench.write(1)
    commit = event_pb2.Commit.FromString(bench.log.appended[0])
    assert commit.replica == "r1"
    assert commit.fencing_token == bench.lease.mastership.token == bench.journal.fencing_token
    assert commit.clock == bench.journal.clock.last > 0


async def test_refused_request_takes_only_its_own_drafts_with_it(bench: Bench) -> None:
    def refused(proposal: Proposal) -> None:
        put(proposal, 1, "refused")
        put(proposal, 2, "refused")
        raise EtagMismatch("read again")

    await bench.holding()
    before = asyncio.ensure_future(bench.write(1, "kept"))
    between = asyncio.ensure_future(bench.journal.submit(refused))
    after = asyncio.ensure_future(bench.write(1, "last"))
    await asyncio.sleep(0)
    bench.log.gate.set()

    results = await gathered(before, between, after)

    assert isinstance(results[1], EtagMismatch)
    assert bench.version(1) == "last"
    assert bench.version(2) is None
    assert [r.value for r in (results[0], results[2]) if isinstance(r, Committed)] == [2, 3]


async def test_request_sees_the_drafts_gathered_before_it(bench: Bench) -> None:
    await bench.holding()
    first = asyncio.ensure_future(bench.write(1, "v1"))

    def see(proposal: Proposal) -> str:
        held = proposal.winner(policy_key(1))
        return str(held.body().version) if held else "nothing"

    seen = asyncio.ensure_future(bench.journal.submit(see))
    await asyncio.sleep(0)
    bench.log.gate.set()
    await first
    committed = await seen
    assert (committed.value, committed.offset) == ("v1", None)


async def test_request_that_needs_no_commit_makes_none(bench: Bench) -> None:
    committed = await bench.journal.submit(lambda proposal: proposal.empty)
    assert (committed.value, committed.offset) == (True, None)
    assert bench.log.appended == []


async def test_refusal_that_rests_on_drafts_waits_for_their_commit(bench: Bench) -> None:
    def create(proposal: Proposal) -> None:
        if proposal.winner(policy_key(1)) is not None:
            raise AlreadyExists("p1 exists")
        put(proposal, 1)

    await bench.holding()
    first = asyncio.ensure_future(bench.journal.submit(create))
    second = asyncio.ensure_future(bench.journal.submit(create))
    await asyncio.sleep(0)
    bench.log.failures.append((LogUnavailable("no"), Stands.NOT_WRITTEN))  # of the one under way
    bench.log.failures.append((LogUnavailable("no"), Stands.NOT_WRITTEN))
    bench.log.gate.set()

    results = await gathered(bench.under_way, first, second)

    assert [type(r) for r in results] == [LogUnavailable] * 3
    await bench.journal.submit(create)
    with pytest.raises(AlreadyExists):
        await bench.journal.submit(create)


async def test_append_that_failed_drops_all_its_drafts_and_the_journal_goes_on(
    bench: Bench,
) -> None:
    bench.log.failures.append((LogUnavailable("etcd is away"), Stands.NOT_WRITTEN))
    results = await gathered(*(asyncio.ensure_future(bench.write(n)) for n in (1, 2)))
    assert [type(r) for r in results] == [LogUnavailable] * 2
    assert bench.version(1) is None
    assert bench.applied == []
    assert not bench.journal.failed.done()

    committed = await bench.write(3)
    assert (committed.value, committed.offset) == (1, 0)


@pytest.mark.parametrize("stands", list(Stands))
async def test_unknown_outcome_is_told_as_such_and_ends_the_journal(
    bench: Bench, stands: Stands
) -> None:
    bench.log.failures.append((OutcomeUnknown("no answer"), stands))
    with pytest.raises(WriteOutcomeUnknown, match="request_id"):
        await bench.write(1)
    assert bench.version(1) is None
    assert isinstance(await bench.journal.failed, JournalClosed)
    with pytest.raises(JournalClosed):
        await bench.write(2)
    stored = await bench.log.read(0, 1 << 20)
    assert len(stored) == (1 if stands is Stands.WRITTEN else 0)


@pytest.mark.parametrize("error", [Fenced("newer master"), HeadMoved("moved"), LogRefused("no")])
async def test_append_that_was_surely_refused_is_no_unknown_outcome(
    bench: Bench, error: LogError
) -> None:
    bench.log.failures.append((error, Stands.NOT_WRITTEN))
    with pytest.raises(JournalClosed, match="nothing was written"):
        await bench.write(1)
    assert isinstance(await bench.journal.failed, JournalClosed)


async def test_append_under_a_superseded_mastership_is_refused_by_the_log(bench: Bench) -> None:
    await bench.lease.release()
    successor = await bench.log.campaign("r2", 5)
    with pytest.raises(JournalClosed):
        await bench.write(1)
    assert await bench.log.read(0, 1 << 20) == []
    await successor.release()


async def test_closing_leaves_nobody_waiting(bench: Bench) -> None:
    await bench.holding()
    waiting = asyncio.ensure_future(bench.write(1))
    await asyncio.sleep(0)
    await bench.journal.close()
    results = await gathered(bench.under_way, waiting)
    assert [type(r) for r in results] == [WriteOutcomeUnknown, JournalClosed]
    with pytest.raises(JournalClosed):
        await bench.write(2)


async def test_fault_of_the_process_ends_the_journal_and_leaves_nobody_waiting(
    bench: Bench,
) -> None:
    bench.fault = ZeroDivisionError("a bug")
    with pytest.raises(WriteOutcomeUnknown):
        await bench.write(1)
    with pytest.raises(JournalClosed):
        await bench.write(2)
    assert bench.journal.failed.exception() is bench.fault


async def test_more_writes_than_may_wait_are_refused_at_once(bench: Bench) -> None:
    await bench.holding()
    writes = [asyncio.ensure_future(bench.write(n % 5)) for n in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(JournalFull):
        await bench.write(1)
    for write in writes:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)


async def test_write_nobody_waits_for_any_more_is_not_made(bench: Bench) -> None:
    await bench.holding()
    given_up = asyncio.ensure_future(bench.write(1))
    await asyncio.sleep(0)
    given_up.cancel()
    bench.log.gate.set()
    await bench.write(2)
    assert bench.version(1) is None


def fill(proposal: Proposal, number: int, size: int) -> None:
    """Drafts events of some bytes together."""
    part = 100_000
    for _ in range(size // part):
        put(proposal, number, "x" * part)


async def test_request_that_does_not_fit_any_more_goes_into_the_next_commit(bench: Bench) -> None:
    await bench.holding()
    small = asyncio.ensure_future(bench.journal.submit(lambda p: fill(p, 1, 300_000)))
    large = asyncio.ensure_future(bench.journal.submit(lambda p: fill(p, 2, 800_000)))
    await asyncio.sleep(0)
    bench.log.gate.set()
    offsets = [(await small).offset, (await large).offset]
    assert offsets == [1, 2]
    assert all(len(commit) <= MAX_COMMIT_BYTES for commit in bench.log.appended)


async def test_request_too_large_for_any_commit_harms_only_itself(bench: Bench) -> None:
    await bench.holding()
    small = asyncio.ensure_future(bench.write(1))
    large = asyncio.ensure_future(
        bench.journal.submit(lambda p: fill(p, 2, MAX_PROPOSED_BYTES + 200_000))
    )
    other = asyncio.ensure_future(bench.write(3))
    await asyncio.sleep(0)
    bench.log.gate.set()
    results = await gathered(small, large, other)
    assert [type(r) for r in results] == [Committed, CommitTooLarge, Committed]
    assert (bench.version(1), bench.version(2), bench.version(3)) == ("v1", None, "v1")


async def test_log_read_back_makes_the_state_that_was_written(bench: Bench) -> None:
    await asyncio.gather(*(bench.write(n % 3, f"v{n}") for n in range(20)))
    again = State(ME.controller, Ed25519Verifier(), ROOT_KEY)
    for offset, data in await bench.log.read(0, 1 << 24):
        again.apply(offset, event_pb2.Commit.FromString(data))
    assert dict(again.table.items()) == dict(bench.state.table.items())
    assert again.clock == bench.state.clock
    with pytest.raises(CorruptLog):
        again.apply(99, event_pb2.Commit())
