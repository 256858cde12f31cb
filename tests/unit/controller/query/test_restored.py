"""Rows taken back from the store are those the facts give, whatever happened, and wherever a life ended."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.changes import Changes
from controller.log.port import EMPTY_HASH, hash_after
from controller.query import live as live_columns
from controller.query.columns import READ
from controller.query.likeness import Basis, Grounds
from controller.query.live import LiveColumns
from controller.query.stored_summary import pack, unpack
from controller.query.summary import NodeSummary
from controller.signing import Ed25519Verifier
from controller.store.store import Store
from controller.twin.history import Histories
from federation.identifiers import Lane, Origin
from federation.state import State
from souverix.event.v1 import event_pb2
from souverix.federation.v1 import authority_pb2
from souverix.policy.v1 import policy_pb2
from tests.federation_fixture import ROOT, MemoryController
from tests.unit.controller.query.fleets import RandomFleet
from tests.unit.controller.query.test_live import check_totals, contents


class Life:
    """One life of a replica's state, store and columns, on the log of a random fleet."""

    def __init__(self, path: Path, controller: MemoryController, *, probes: bool = False) -> None:
        self._controller = controller
        self.state = State(controller.name, Ed25519Verifier(), controller.root_signer.public_key)
        histories = Histories(self.state)
        self.changes = Changes()
        self._histories = histories
        self.live = LiveColumns(self.state, self.changes, lambda: controller.now_ms)
        if not probes:
            self.live._probe = lambda: None  # type: ignore[method-assign]
        self.store = Store(path, self.state, histories, max_hot_subjects=3)
        self.store.summarise(self.live)
        self._hashes = [EMPTY_HASH]

    async def _hash_before(self, offset: int) -> bytes:
        return self._hash(offset)

    def _hash(self, offset: int) -> bytes:
        for commit in self._controller.commits[len(self._hashes) - 1 : offset]:
            self._hashes.append(hash_after(self._hashes[-1], commit.SerializeToString()))
        return self._hashes[offset]

    async def begin(self) -> None:
        """As a replica does: the store, what it holds of rows, the tail."""
        if await self.store.open(b"n" * 16, self._hash_before) is not None:
            await self.live.restore(self.store.summaries())
        self.follow()
        self.live.begin()

    def follow(self) -> None:
        """Applies what the log has beyond this."""
        for commit in self._controller.commits[self.state.next_offset :]:
            again = event_pb2.Commit.FromString(commit.SerializeToString())
            applied = self.state.apply(commit.offset, again)
            self._histories.take_note(applied)
            self.store.take_note(applied, self._hash(commit.offset + 1))
            self.changes.publish(applied)

    def settle(self) -> None:
        """Reads all that is to be read."""
        self.live.columns.mark_ended(self._controller.now_ms)
        while self.live.work(50):
            pass

    async def write(self) -> None:
        """Writes a batch, as the store does after an interval."""
        await self.store._write(self.store._gather())

    async def break_off(self) -> None:
        """Ends as a process that is killed: with what was written last."""
        assert self.store._task is not None
        self.store._task.cancel()
        await self.store._blocking(self.store._file.close)
        self.store._thread.shutdown()


def made_anew(controller: MemoryController) -> LiveColumns:
    """Columns read from the whole log."""
    rebuilt = LiveColumns(controller.replayed(), Changes(), lambda: controller.now_ms)
    rebuilt.begin()
    while rebuilt.work(1000):
        pass
    return rebuilt


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_restored_columns_are_those_rebuilt_from_the_log(seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_live_and_die(seed, Path(directory) / "store.sqlite"))


async def _live_and_die(seed: int, path: Path) -> None:
    chance, fleet = Random(seed), RandomFleet(seed, nodes=10)
    for _ in range(3):
        life = Life(path, fleet.controller)
        await life.begin()
        for _ in range(chance.randrange(60)):
            fleet.step()
            life.follow()
            if chance.random() < 0.3:
                life.live.work(chance.randrange(1, 8))
            if chance.random() < 0.1:
                await life.write()
        await (life.break_off() if chance.random() < 0.7 else life.store.close())
        for _ in range(chance.randrange(20)):
            fleet.step()
    last = Life(path, fleet.controller)
    await last.begin()
    last.settle()
    await last.store.close()
    rebuilt = made_anew(fleet.controller)
    assert contents(last.live.columns) == contents(rebuilt.columns)
    assert last.live.freshness().pending == 0
    check_totals(last.live.columns)


@pytest.fixture
def fleet() -> RandomFleet:
    fleet = RandomFleet(7, nodes=30)
    for _ in range(300):
        fleet.step()
    return fleet


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


async def stored(path: Path, fleet: RandomFleet) -> None:
    """Leaves a store with the rows of all nodes."""
    life = Life(path, fleet.controller)
    await life.begin()
    life.settle()
    await life.store.close()


def single(life: Life) -> int:
    """Nodes known in one domain: all others are read at every start."""
    return sum(
        subject.startswith("nodes/") and len(domains) == 1
        for subject, domains in life.state.domains_of_subject.items()
    )


async def test_start_reads_no_node_that_was_stored(path: Path, fleet: RandomFleet) -> None:
    await stored(path, fleet)
    life = Life(path, fleet.controller)
    await life.begin()
    assert life.live.freshness().pending == 30 - single(life) < 15
    assert len(contents(life.live.columns)) > 15
    await life.store.close()


async def test_policy_that_came_while_nothing_ran_has_nodes_compared_again(
    path: Path, fleet: RandomFleet
) -> None:
    await stored(path, fleet)
    spec = policy_pb2.PolicySpec(version="v9", target_version="9.9.9", enforced=True)
    fleet.controller.submit(
        lambda p: p.write(ROOT, "policies/base", "policy", spec, principal="user:a")
    )
    life = Life(path, fleet.controller)
    await life.begin()
    assert life.live.freshness().pending > 15
    life.settle()
    await life.store.close()
    assert contents(life.live.columns) == contents(made_anew(fleet.controller).columns)


async def test_admission_that_came_while_nothing_ran_has_nodes_read_again(
    path: Path, fleet: RandomFleet
) -> None:
    await stored(path, fleet)
    life = Life(path, fleet.controller)
    capped = authority_pb2.Admission(
        controller=fleet.controller.name,
        incarnation=1,
        lane=int(Lane.TELEMETRY),
        first_sequence=1,
        last_sequence=10_000,
        received_stamp=1,
    )
    assert await life.store.open(b"n" * 16, life._hash_before) is not None
    life.state.admissions.put("edge-a1", capped)
    await life.live.restore(life.store.summaries())
    columns = life.live.columns
    in_domain = columns.in_domains({"edge-a1"})
    assert in_domain.any()
    assert set(columns.column("stale")[in_domain].tolist()) == {READ}
    life.settle()
    rebuilt = made_anew_with(fleet.controller, capped)
    assert contents(columns) == contents(rebuilt.columns)
    await life.store.close()


def made_anew_with(controller: MemoryController, capped: authority_pb2.Admission) -> LiveColumns:
    state = controller.replayed()
    assert state.admissions.put("edge-a1", capped).origin == Origin(controller.name, 1)
    rebuilt = LiveColumns(state, Changes(), lambda: controller.now_ms)
    rebuilt.begin()
    while rebuilt.work(1000):
        pass
    return rebuilt


async def test_rows_of_another_form_are_made_anew(
    path: Path, fleet: RandomFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(path, fleet)
    monkeypatch.setattr(LiveColumns, "form", "another")
    life = Life(path, fleet.controller)
    await life.begin()
    assert len(life.live.columns) == 0
    assert life.live.freshness().pending == 30
    life.settle()
    await life.store.close()
    assert contents(life.live.columns) == contents(made_anew(fleet.controller).columns)


async def test_rows_that_another_release_made_otherwise_are_read_again(
    path: Path,
    fleet: RandomFleet,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def pack_otherwise(summary: object, basis: object) -> bytes:
        return pack(summary and summary._replace(region="elsewhere"), basis)  # type: ignore[attr-defined,arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(live_columns, "pack", pack_otherwise)
        await stored(path, fleet)
    life = Life(path, fleet.controller, probes=True)
    await life.begin()
    assert "stored rows are not what the facts say" in caplog.messages
    assert life.live.freshness().pending > 0
    life.settle()
    await life.store.close()
    assert contents(life.live.columns) == contents(made_anew(fleet.controller).columns)


async def test_waiver_that_ended_while_nothing_ran_is_no_fault_of_its_row(
    path: Path, fleet: RandomFleet, caplog: pytest.LogCaptureFixture
) -> None:
    while not (ends := made_anew(fleet.controller).columns._ends):
        fleet.step()
    await stored(path, fleet)
    fleet.controller.now_ms = max(ends.values())
    life = Life(path, fleet.controller, probes=True)
    await life.begin()
    assert "stored rows are not what the facts say" not in caplog.messages
    life.settle()
    await life.store.close()
    assert contents(life.live.columns) == contents(made_anew(fleet.controller).columns)


async def test_row_that_cannot_be_read_is_made_anew(
    path: Path, fleet: RandomFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(live_columns, "pack", lambda *_: b"\xff\xff")
        await stored(path, fleet)
    life = Life(path, fleet.controller)
    await life.begin()
    life.settle()
    await life.store.close()
    assert contents(life.live.columns) == contents(made_anew(fleet.controller).columns)


def test_summary_is_the_same_once_stored(fleet: RandomFleet) -> None:
    columns = made_anew(fleet.controller).columns
    held = columns.summaries(np.arange(len(columns)))
    assert [summary for summary, _ in held] == [columns.summary(r) for r in range(len(columns))]
    for summary, basis in held:
        assert summary is not None
        assert unpack(summary.domain, pack(summary, basis)) == (summary, basis)
    full = NodeSummary._make(_DISTINCT)
    assert unpack("d", pack(full, Basis(Grounds(b"p", b"a", is_gated=True), b"i"))) == (
        full,
        Basis(Grounds(b"p", b"a", is_gated=True), b"i"),
    )


def _distinct() -> list[object]:
    """A value of its own for each field of a summary."""
    made: list[object] = ["d"]
    for number, name in enumerate(NodeSummary._fields[1:], 1):
        plain = NodeSummary._field_defaults[name]
        if name == "tags":
            made.append(("a", "b"))
        elif name == "labels":
            made.append((("k", "v"), ("l", "w")))
        elif name == "release":
            made.append(("1", "2", "3"))
        else:
            made.append(type(plain)(number))
    return made


_DISTINCT = _distinct()
