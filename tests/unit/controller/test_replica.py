from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from controller.config import ControllerConfig, ControllerSection, ParentSection, TrustSection
from controller.journal import Journal, JournalClosed, WriteOutcomeUnknown
from controller.log.errors import LogCorrupt, LogUnavailable, OutcomeUnknown
from controller.log.port import Head, MastershipLease
from controller.log.witness import Witness, WitnessFile
from controller.replica import Replica
from controller.signing import Ed25519Signer
from controller.writes import Caller
from federation.identifiers import Key
from souverix.event.v1 import event_pb2
from souverix.policy.v1 import policy_pb2
from tests.unit.controller.gated_log import GatedLog, Stands

#: Longest wait for a condition; reached only when a test fails.
DEADLINE_S = 10.0

SIGNER = Ed25519Signer.generate()


async def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about in {DEADLINE_S} s"
        await asyncio.sleep(0.005)


class NoLinks:
    def link_up(self, controller: str) -> bool:
        return False

    def last_heard_ms(self, controller: str) -> int | None:
        return None

    async def forward(self, controller: str, method: str, request: bytes, caller: Caller) -> bytes:
        raise AssertionError(f"nothing is forwarded to {controller} here")


class ObservedLog(GatedLog):
    """Lets a test take away the leases it hands out."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.leases: list[MastershipLease] = []

    async def campaign(self, candidate: str, ttl_s: float) -> MastershipLease:
        lease = await super().campaign(candidate, ttl_s)
        self.leases.append(lease)
        return lease


class Running:
    """One replica and its life."""

    def __init__(self, directory: Path, name: str) -> None:
        self.log = ObservedLog(directory / "log.sqlite")
        config = ControllerConfig(
            ControllerSection("edge-a1-control", "edge-a1", directory / name, replica=name),
            TrustSection(directory / "key.pem", bytes(32).hex()),
            parent=ParentSection("region-a-control", ("127.0.0.1:1",)),
        )
        self.replica = Replica(config, self.log, SIGNER, NoLinks())
        self.life: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        self.life = asyncio.create_task(self.replica.run())
        return self.life

    async def ready(self) -> Running:
        """Waits until it has read its log."""
        if self.life is None:
            self.start()
        await asyncio.wait_for(self.replica.replayed(), DEADLINE_S)
        return self

    async def master(self) -> Running:
        """Waits until it is master."""
        await self.ready()
        await until(lambda: self.replica.is_master, "mastership")
        return self

    async def stop(self) -> None:
        if self.life is not None:
            self.life.cancel()
            await asyncio.gather(self.life, return_exceptions=True)
            self.life = None
        await self.log.close()

    async def write(self, version: str) -> int:
        """Writes a policy; returns the number of its event."""
        body = policy_pb2.PolicySpec(version=version)
        committed = await self.replica.journal().submit(
            lambda p: p.write("edge-a1", "policies/p1", "policy", body, principal="user:a")
        )
        return committed.value.sequence

    def version(self) -> str | None:
        held = self.replica.state.winner(Key("edge-a1", "policies/p1", "policy"))
        return str(held.body().version) if held is not None else None


Make = Callable[[str], Running]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Running] = []

    def replica(name: str) -> Running:
        made.append(Running(tmp_path, name))
        return made[-1]

    yield replica
    for running in made:
        running.log.gate.set()
        await running.stop()


# Master and standby.


async def test_alone_it_becomes_master_and_writes(make: Make) -> None:
    one = await make("r1").master()
    assert await one.write("v1") == 1
    assert one.version() == "v1"


async def test_standby_follows_and_refuses_to_write(make: Make) -> None:
    one = await make("r1").master()
    two = await make("r2").ready()
    await one.write("v1")
    await until(lambda: two.version() == "v1", "the standby's following")
    assert not two.replica.is_master
    with pytest.raises(JournalClosed, match="r2 of edge-a1-control is not the master"):
        two.replica.journal()


async def test_standby_takes_over_and_goes_on_where_the_master_stopped(make: Make) -> None:
    one = await make("r1").master()
    two = await make("r2").ready()
    for number in range(5):
        await one.write(f"v{number}")
    token = one.replica.journal().fencing_token
    clock = one.replica.journal().clock.last
    await one.stop()

    await two.master()

    assert two.version() == "v4"
    assert two.replica.journal().fencing_token > token
    assert two.replica.journal().clock.last >= clock
    assert await two.write("v5") == 6


async def test_restarted_replica_knows_what_it_wrote(make: Make) -> None:
    one = await make("r1").master()
    await one.write("v1")
    table = dict(one.replica.state.table.items())
    await one.stop()
    again = await make("r1").master()
    assert dict(again.replica.state.table.items()) == table
    assert again.replica.incarnation == 1
    assert await again.write("v2") == 2


async def test_lost_lease_ends_the_mastership_and_a_new_election_begins(make: Make) -> None:
    one = await make("r1").master()
    journal = one.replica.journal()
    await one.log.leases[0].release()
    await until(lambda: len(one.log.leases) == 2 and one.replica.is_master, "the next mastership")
    with pytest.raises(JournalClosed):
        await journal.submit(lambda p: None)
    assert one.replica.journal() is not journal
    assert await one.write("v1") == 1


async def test_write_under_way_when_the_lease_is_lost_is_told_as_unknown(make: Make) -> None:
    one = await make("r1").master()
    one.log.gate.clear()
    writing = asyncio.ensure_future(one.write("v1"))
    await asyncio.wait_for(one.log.waiting.wait(), DEADLINE_S)
    await one.log.leases[0].release()
    with pytest.raises(WriteOutcomeUnknown):
        await asyncio.wait_for(writing, DEADLINE_S)


async def test_commit_of_unknown_outcome_that_stands_is_in_effect_once_it_is_read_back(
    make: Make,
) -> None:
    one = await make("r1").master()
    one.log.failures.append((OutcomeUnknown("no answer"), Stands.WRITTEN))
    with pytest.raises(WriteOutcomeUnknown):
        await one.write("v1")
    await until(lambda: len(one.log.leases) == 2 and one.replica.is_master, "the next mastership")
    assert one.version() == "v1"
    assert await one.write("v2") == 2


async def test_commit_of_unknown_outcome_that_does_not_stand_leaves_no_trace(make: Make) -> None:
    one = await make("r1").master()
    one.log.failures.append((OutcomeUnknown("no answer"), Stands.NOT_WRITTEN))
    with pytest.raises(WriteOutcomeUnknown):
        await one.write("v1")
    await until(lambda: len(one.log.leases) == 2 and one.replica.is_master, "the next mastership")
    assert one.version() is None
    assert await one.write("v2") == 1


async def test_stopped_standby_leaves_no_campaign_behind(make: Make) -> None:
    one = await make("r1").master()
    two = await make("r2").ready()
    assert two.life is not None
    two.life.cancel()
    await asyncio.gather(two.life, return_exceptions=True)
    await one.stop()
    assert two.log.leases == []
    assert await two.log.current_master() is None


async def test_log_that_contradicts_itself_ends_the_standby(make: Make) -> None:
    one = await make("r1").master()
    two = make("r2")
    life = two.start()
    await two.ready()
    journal = one.replica.journal()
    await one.log.append(
        one.log.leases[0].mastership, journal.head, event_pb2.Commit(offset=0).SerializeToString()
    )
    await one.log.append(
        one.log.leases[0].mastership, await one.log.head(), b"\xff no commit at all"
    )
    with pytest.raises(Exception, match="parsing"):
        await asyncio.wait_for(life, DEADLINE_S)
    assert not two.replica.is_master


# Duties.


async def test_duty_runs_while_the_replica_is_master(make: Make) -> None:
    begun: list[Journal] = []
    ended: list[Journal] = []

    async def duty(journal: Journal) -> None:
        begun.append(journal)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(journal)

    one = make("r1")
    one.replica.add_duty(duty)
    await one.master()
    await until(lambda: len(begun) == 1, "the duty")
    first = one.replica.journal()
    await one.log.leases[0].release()
    await until(lambda: len(begun) == 2, "the duty of the next mastership")
    assert (begun[0], ended) == (first, [first])
    await one.stop()
    assert ended == begun


def test_duty_is_registered_once(tmp_path: Path) -> None:
    async def duty(journal: Journal) -> None: ...

    async def register() -> None:
        replica = Running(tmp_path, "r1").replica
        replica.add_duty(duty)
        with pytest.raises(ValueError, match="registered already"):
            replica.add_duty(duty)

    asyncio.run(register())


async def test_fault_of_a_duty_ends_the_replica_and_frees_the_mastership(make: Make) -> None:
    async def duty(journal: Journal) -> None:
        raise ZeroDivisionError("a bug")

    one = make("r1")
    one.replica.add_duty(duty)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(one.start(), DEADLINE_S)
    assert not one.replica.is_master
    assert await one.log.current_master() is None


async def test_duty_that_ends_by_itself_is_a_fault(make: Make) -> None:
    async def duty(journal: Journal) -> None:
        return

    one = make("r1")
    one.replica.add_duty(duty)
    with pytest.raises(RuntimeError, match="ended by itself"):
        await asyncio.wait_for(one.start(), DEADLINE_S)


async def test_duty_that_fails_with_its_journal_does_not_end_the_replica(make: Make) -> None:
    runs: list[int] = []

    async def duty(journal: Journal) -> None:
        runs.append(journal.fencing_token)
        if len(runs) == 1:
            await journal.submit(
                lambda p: p.write(
                    "edge-a1", "policies/p1", "policy", policy_pb2.PolicySpec(), principal="a"
                )
            )
        await asyncio.Event().wait()

    one = make("r1")
    one.log.failures.append((OutcomeUnknown("no answer"), Stands.NOT_WRITTEN))
    one.replica.add_duty(duty)
    life = one.start()
    await until(lambda: len(runs) == 2, "the duty of the next mastership")
    assert not life.done()


# Incarnations.


async def test_log_that_was_set_back_begins_a_new_incarnation_which_is_kept(
    make: Make, tmp_path: Path
) -> None:
    one = await make("r1").master()
    await one.write("v1")
    seen = await one.log.head()
    ahead = Head(seen.next_offset + 5, bytes(32), seen.nonce)
    identity = one.log.identity
    await one.stop()
    WitnessFile(tmp_path / "r1" / "witness.json").store(Witness(identity, ahead))

    again = await make("r1").master()
    assert again.replica.incarnation == 2
    assert await again.write("v2") == 1
    origins = {s.origin.incarnation for s in again.replica.state.streams}
    assert origins == {1, 2}
    current = await again.log.head()
    await again.stop()
    WitnessFile(tmp_path / "r1" / "witness.json").store(Witness(identity, current))

    third = await make("r1").master()
    assert third.replica.incarnation == 2
    assert await third.write("v3") == 2


async def test_standby_takes_up_the_incarnation_that_the_master_began(
    make: Make, tmp_path: Path
) -> None:
    before = await make("r0").master()
    await before.write("v1")
    seen = await before.log.head()
    identity = before.log.identity
    await before.stop()
    WitnessFile(tmp_path / "r1" / "witness.json").store(
        Witness(identity, Head(seen.next_offset + 5, bytes(32), seen.nonce))
    )
    one = await make("r1").master()
    two = await make("r2").ready()
    assert (one.replica.incarnation, two.replica.incarnation) == (2, 1)
    await one.write("v2")
    await one.stop()

    await two.master()

    assert two.replica.incarnation == 2
    assert await two.write("v3") == 2


# Reading the log.


async def test_commits_are_read_alike_from_memory_and_from_the_log(make: Make) -> None:
    one = await make("r1").master()
    for number in range(6):
        await one.write(f"v{number}")
    offsets = [c.offset for c in await one.replica.read_commits(2, 1 << 20)]
    assert offsets == [2, 3, 4, 5]
    assert [c.offset for c in await one.replica.read_commits(2, 1)] == [2]
    assert await one.replica.read_commits(6, 1 << 20) == []
    stored = await one.log.read(2, 1 << 20)
    in_memory = await one.replica.read_commits(2, 1 << 20)
    assert [(c.offset, c.SerializeToString()) for c in in_memory] == stored


async def test_witness_of_the_log_is_kept_while_it_grows(make: Make, tmp_path: Path) -> None:
    one = await make("r1").master()
    await one.write("v1")
    file = WitnessFile(tmp_path / "r1" / "witness.json")
    head = await one.log.head()

    def kept() -> bool:
        witness = file.load()
        return witness is not None and witness.head == head

    await until(kept, "the witness")


async def test_log_that_is_away_at_the_election_is_asked_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make("r1")
    monkeypatch.setattr("controller.replica.RETRY_S", 0.01)
    answers = [LogUnavailable("away"), LogUnavailable("away")]
    real = one.log.head

    async def head() -> Head:
        if answers:
            raise answers.pop()
        return await real()

    monkeypatch.setattr(one.log, "head", head)
    await one.master()
    assert answers == []


async def test_corrupt_log_at_the_election_is_for_an_operator(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make("r1")

    async def head() -> Head:
        raise LogCorrupt("the head is unreadable")

    monkeypatch.setattr(one.log, "head", head)
    with pytest.raises(LogCorrupt):
        await asyncio.wait_for(one.start(), DEADLINE_S)
