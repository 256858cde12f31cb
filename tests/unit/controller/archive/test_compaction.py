"""The store's part of the log stays within its budget, and whoever still needs it holds it, within bounds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.archive import archived_log, compaction
from controller.archive.archived_log import ArchivedLog
from controller.archive.compaction import Compaction
from controller.archive.directory import ArchiveDirectory
from controller.config import ControllerConfig, ControllerSection, TrustSection
from controller.log.sqlite_log import SqliteLog
from controller.replica import Replica
from controller.signing import Ed25519Signer
from federation.identifiers import Key
from souverix.policy.v1 import policy_pb2
from tests.unit.controller.test_replica import DEADLINE_S, NoLinks, until

SEGMENT_BYTES = 16 * 1024
BUDGET_BYTES = 4 * SEGMENT_BYTES
SIGNER = Ed25519Signer.generate()


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archived_log, "SEGMENT_BYTES", SEGMENT_BYTES)
    monkeypatch.setattr(compaction, "SEGMENT_BYTES", SEGMENT_BYTES)
    monkeypatch.setattr(compaction, "LOOK_S", 0.01)
    monkeypatch.setattr(compaction, "RETRY_S", 0.01)


class Compacting:
    """A replica, and its compaction as a test has it look."""

    def __init__(self, directory: Path, name: str) -> None:
        data_dir = directory / name
        config = ControllerConfig(
            ControllerSection("zone-control", "zone", data_dir, replica=name),
            TrustSection(directory / "key.pem", SIGNER.public_key.hex()),
        )
        self.log = ArchivedLog(
            SqliteLog(directory / "log.sqlite", "test"), ArchiveDirectory(data_dir / "archive")
        )
        self.replica = Replica(config, self.log, SIGNER, NoLinks())
        self.compaction = Compaction(self.replica, self.log, BUDGET_BYTES)
        self.life = asyncio.create_task(self.replica.run())

    async def write(self, count: int = 1) -> None:
        """Commits of some 2 KB, which do not compress."""
        for _ in range(count):
            body = policy_pb2.PolicySpec(version=os.urandom(1024).hex())
            await self.replica.journal().submit(
                lambda p, body=body: p.write("zone", "policies/p", "policy", body, principal="u")  # type: ignore[misc]
            )

    async def stored(self) -> None:
        """Waits until the read model is durable."""
        replica = self.replica
        await until(
            lambda: replica.store.durable_to == replica.state.next_offset, "a durable read model"
        )

    async def stop(self) -> None:
        self.life.cancel()
        await asyncio.gather(self.life, return_exceptions=True)
        await self.log.close()

    def kept_bytes(self) -> int:
        return sum(segment.commit_bytes for segment in self.log.in_both())

    async def all_offsets(self) -> list[int]:
        read: list[int] = []
        while page := await self.log.read(len(read), 1 << 20):
            read += [offset for offset, _ in page]
        return read


@pytest.fixture
async def master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Compacting]:
    monkeypatch.setattr("controller.store.store.WRITE_INTERVAL_S", 0.01)
    made = Compacting(tmp_path, "r1")
    await asyncio.wait_for(made.replica.replayed(), DEADLINE_S)
    await until(lambda: made.replica.is_master, "mastership")
    yield made
    await made.stop()


async def test_a_small_log_is_left_alone(master: Compacting) -> None:
    await master.write(3)
    await master.compaction.look()
    assert master.log.segments == []
    storage = master.replica.log_storage
    assert storage is not None
    assert (storage.start, storage.archived_to, storage.archive_bytes) == (0, 0, 0)


async def test_within_the_budget_commits_are_archived_and_kept(master: Compacting) -> None:
    await master.write(20)
    await master.stored()
    await master.compaction.look()
    assert 2 * SEGMENT_BYTES < master.kept_bytes() <= BUDGET_BYTES
    assert master.log.start == 0


async def test_beyond_the_budget_the_older_half_leaves_the_store(master: Compacting) -> None:
    await master.write(120)
    await master.stored()
    before = (await master.log.space()).file_bytes
    await master.compaction.look()

    assert 0 < master.kept_bytes() <= BUDGET_BYTES * compaction.KEPT_SHARE
    assert master.log.start > 60
    storage = master.replica.log_storage
    assert storage is not None
    assert storage.start == master.log.start
    assert storage.archived_to == master.log.archived_to > master.log.start
    assert storage.archived_commit_bytes > storage.archive_bytes > 0
    assert storage.store.file_bytes < before / 2
    assert await master.all_offsets() == list(range(master.replica.state.next_offset))
    commits = await master.replica.read_commits(3, 1)
    assert commits[0].offset == 3


async def test_what_the_read_model_does_not_have_yet_stays(
    master: Compacting, monkeypatch: pytest.MonkeyPatch
) -> None:
    await master.write(120)
    await master.stored()
    monkeypatch.setattr(type(master.replica.store), "durable_to", 30)
    await master.compaction.look()
    assert 0 < master.log.start <= 30


async def test_a_replica_that_is_behind_holds_the_log_up_to_a_bound(
    master: Compacting, caplog: pytest.LogCaptureFixture
) -> None:
    await master.write(50)
    await master.stored()
    await master.log._log.note_archived("r2", 10)
    await master.compaction.look()
    assert master.log.start <= 10
    held = master.log.start

    await master.write(compaction.MAX_HELD_BUDGETS * 50)
    await master.stored()
    await master.compaction.look()
    assert master.log.start > held + 100
    assert "replicas are left behind by compaction" in caplog.text


async def test_a_standby_archives_for_itself_and_never_trims(
    master: Compacting, tmp_path: Path
) -> None:
    standby = Compacting(tmp_path, "r2")
    try:
        await asyncio.wait_for(standby.replica.replayed(), DEADLINE_S)
        await master.write(120)
        end = master.replica.state.next_offset
        await until(lambda: standby.replica.state.next_offset == end, "the standby's following")
        await standby.compaction.look()
        assert standby.log.start == 0
        assert await master.log.archived() == {"r2": standby.log.archived_to}
        await master.stored()
        await master.compaction.look()
        assert master.log.start > 60
        assert await standby.all_offsets() == list(range(end))
    finally:
        await standby.stop()


async def test_compaction_goes_on_after_a_failure(
    master: Compacting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await master.write(120)
    await master.stored()
    write, failed = ArchiveDirectory.write, 0

    def failing(*arguments: object) -> None:
        nonlocal failed
        failed += 1
        if failed < 3:
            raise OSError(28, "No space left on device")
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ArchiveDirectory, "write", failing)
    running = asyncio.create_task(master.compaction.run())
    try:
        await until(lambda: master.log.start > 60, "compaction")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert "the log was not compacted" in caplog.text
    assert await master.all_offsets() == list(range(master.replica.state.next_offset))


async def test_a_restart_without_the_read_model_replays_the_archive(
    master: Compacting, tmp_path: Path
) -> None:
    await master.write(120)
    await master.stored()
    await master.compaction.look()
    assert master.log.start > 0
    end = master.replica.state.next_offset
    await master.stop()
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / "r1" / f"store.sqlite{suffix}").unlink(missing_ok=True)
    again = Compacting(tmp_path, "r1")
    try:
        await asyncio.wait_for(again.replica.replayed(), DEADLINE_S)
        assert again.replica.state.next_offset >= end
        assert again.replica.state.winner(Key("zone", "policies/p", "policy")) is not None
    finally:
        await again.stop()
