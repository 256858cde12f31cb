"""The etcd log through deaths, freezes, cuts and compactions of etcd."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Sized
from contextlib import aclosing
from pathlib import Path

import pytest

from controller.etcd import watch as watch_module
from controller.etcd.access import Access
from controller.etcd.client import Etcd, prefix_end
from controller.etcd.errors import Compacted
from controller.log.errors import Fenced, LogError
from controller.log.port import CommitAt
from controller.log.witness import Continuity, Witness, check_continuity
from deploy.tcp_proxy import TcpProxy
from tests.e2e.etcd_logs import (
    PATIENCE_S,
    PREFIX,
    TTL_S,
    follow_until,
    opened,
    read_all,
    until,
    until_stored,
)
from tests.etcd_process import EtcdProcess
from tests.processes import ProcessStarter, free_port


@pytest.fixture
def etcd(start_process: ProcessStarter, etcd_binary: Path, tmp_path: Path) -> EtcdProcess:
    process = EtcdProcess(start_process, etcd_binary, tmp_path / "data")
    process.start()
    return process


@pytest.fixture
async def link(etcd: EtcdProcess) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", etcd.port) as proxy:
        yield proxy


async def until_seen(seen: Sized, count: int) -> None:
    await until(lambda: len(seen) >= count, f"{count} commits")


async def test_what_was_acknowledged_survives_kills_of_etcd_under_writes(
    etcd: EtcdProcess,
) -> None:
    acknowledged: list[bytes] = []
    async with opened(etcd.endpoint) as log, opened(etcd.endpoint) as standby:
        lease = await log.campaign("a", PATIENCE_S)
        seen: list[CommitAt] = []
        following = asyncio.create_task(follow_until(standby, 300, seen))

        async def write() -> None:
            head = await log.head()
            for number in range(300):
                commit = f"commit {number}".encode()
                head = await log.append(lease.mastership, head, commit)
                acknowledged.append(commit)

        writing = asyncio.create_task(write())
        async with asyncio.timeout(PATIENCE_S):
            for kill_after in (60, 150):
                await until_seen(acknowledged, kill_after)
                etcd.kill()
                await asyncio.to_thread(etcd.start)
            await writing
            await following
        stored = await read_all(log)
    assert len(acknowledged) == 300
    assert stored == list(enumerate(acknowledged))
    assert seen == stored


async def test_a_follower_sees_each_commit_once_through_cuts_and_compaction(
    etcd: EtcdProcess, link: TcpProxy
) -> None:
    access = Access(endpoints=[etcd.endpoint])
    seen: list[CommitAt] = []
    async with opened(etcd.endpoint) as log, opened(link.endpoint) as standby, Etcd(access) as raw:
        lease = await log.campaign("a", PATIENCE_S)
        head = await log.head()
        following = asyncio.create_task(follow_until(standby, 90, seen))
        for number in range(90):
            if number in {30, 60}:
                await until_seen(seen, number - 10)
                link.cut()
            head = await log.append(lease.mastership, head, f"commit {number}".encode())
            if number in {45, 75}:
                now = await raw.range(b"anything")
                await raw.compact(now.header.revision)
                link.heal()
        async with asyncio.timeout(PATIENCE_S):
            await following
        assert seen == await read_all(log)


async def test_a_watch_behind_the_compaction_is_told_so(etcd: EtcdProcess) -> None:
    async with Etcd(Access(endpoints=[etcd.endpoint])) as raw:
        first = await raw.put(b"key", b"1")
        await raw.put(b"key", b"2")
        last = await raw.put(b"key", b"3")
        await raw.compact(last.header.revision)
        async with aclosing(raw.watch(b"key", start_revision=first.header.revision)) as watch:
            with pytest.raises(Compacted) as caught:
                await anext(watch)
        assert caught.value.revision == last.header.revision
        with pytest.raises(Compacted):
            await raw.range(b"key", revision=first.header.revision)


async def test_a_watch_resumes_without_loss_or_repeat_and_cuts_no_transaction(
    etcd: EtcdProcess, link: TcpProxy
) -> None:
    keys = prefix_end(b"many/")
    async with (
        Etcd(Access(endpoints=[etcd.endpoint])) as raw,
        Etcd(Access(endpoints=[link.endpoint])) as far,
    ):
        start = (await raw.range(b"x")).header.revision + 1
        seen: list[bytes] = []

        async def watch() -> None:
            async with aclosing(far.watch(b"many/", keys, start_revision=start)) as changes_from:
                async for changes in changes_from:
                    seen.extend(event.kv.value for event in changes.events)
                    if len(seen) >= 200:
                        return

        watching = asyncio.create_task(watch())
        for number in range(200):
            await raw.put(b"many/%d" % (number % 7), b"%d" % number)
            if number % 40 == 20:
                link.reset_connections()
        async with asyncio.timeout(PATIENCE_S):
            await watching
    assert seen == [b"%d" % number for number in range(200)]


async def test_a_watch_leaves_a_member_that_hangs(
    etcd: EtcdProcess, link: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "QUIET_S", 0.3)
    monkeypatch.setattr(watch_module, "HUNG_S", 0.3)
    async with (
        Etcd(Access(endpoints=[etcd.endpoint])) as raw,
        Etcd(Access(endpoints=[link.endpoint, etcd.endpoint])) as far,
    ):
        start = (await raw.range(b"x")).header.revision + 1
        async with aclosing(far.watch(b"key", start_revision=start)) as watch:
            await raw.put(b"key", b"before")
            assert (await anext(watch)).events[0].kv.value == b"before"
            link.stall()
            await raw.put(b"key", b"after")
            async with asyncio.timeout(PATIENCE_S):
                assert (await anext(watch)).events[0].kv.value == b"after"


async def test_a_lease_is_no_longer_valid_when_etcd_might_give_it_to_another(
    etcd: EtcdProcess,
) -> None:
    async with opened(etcd.endpoint) as log, opened(etcd.endpoint) as other:
        lease = await log.campaign("a", 1.0)
        head = await log.append(lease.mastership, await log.head(), b"one")
        etcd.pause()
        paused_s = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            await lease.lost()
        assert not lease.valid
        # Renewed at the latest just before the pause, so it cannot have outlived its time from
        # there.
        assert time.monotonic() - paused_s < 2.0
        etcd.resume()
        async with asyncio.timeout(PATIENCE_S):
            successor = await other.campaign("b", 1.0)
        assert not lease.valid
        with pytest.raises(Fenced):
            await log.append(lease.mastership, head, b"two")
        await other.append(successor.mastership, head, b"by the successor")


async def test_a_dead_first_endpoint_is_passed_over(etcd: EtcdProcess) -> None:
    async with opened(f"127.0.0.1:{free_port()}", etcd.endpoint) as log:
        lease = await log.campaign("a", TTL_S)
        await log.append(lease.mastership, await log.head(), b"one")
        assert await read_all(log) == [(0, b"one")]


async def test_the_master_keeps_its_lease_when_its_member_hangs(
    etcd: EtcdProcess, link: TcpProxy
) -> None:
    async with opened(link.endpoint, etcd.endpoint) as log:
        lease = await log.campaign("a", 6.0)
        head = await log.append(lease.mastership, await log.head(), b"one")
        link.stall()
        async with asyncio.timeout(PATIENCE_S):
            head = await log.append(lease.mastership, head, b"two")
        losing = asyncio.create_task(lease.lost())
        done, _ = await asyncio.wait({losing}, timeout=4.0)
        losing.cancel()
        assert not done
        assert lease.valid
        assert (await log.append(lease.mastership, head, b"three")).next_offset == 3


async def test_endpoints_of_two_clusters_are_refused(
    etcd: EtcdProcess, start_process: ProcessStarter, etcd_binary: Path, tmp_path: Path
) -> None:
    stranger = EtcdProcess(start_process, etcd_binary, tmp_path / "other")
    stranger.start()
    with pytest.raises(LogError, match="belongs to etcd cluster"):
        async with opened(etcd.endpoint, stranger.endpoint):
            pytest.fail("two clusters were taken for one")


async def test_a_campaign_outlasts_an_outage(etcd: EtcdProcess) -> None:
    async with opened(etcd.endpoint) as first, opened(etcd.endpoint) as second:
        lease = await first.campaign("a", TTL_S)
        waiting = asyncio.create_task(second.campaign("b", TTL_S))
        await until_stored(first, 0)
        etcd.kill()
        await asyncio.to_thread(etcd.start)
        async with asyncio.timeout(PATIENCE_S):
            await lease.release()
            successor = await waiting
        assert successor.mastership.token > lease.mastership.token


async def test_a_log_set_back_to_an_older_copy_is_recognised(
    etcd: EtcdProcess, tmp_path: Path
) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with opened(etcd.endpoint) as log:
        lease = await log.campaign("a", 1.0)
        head = await log.append(lease.mastership, await log.head(), b"one")
        etcd.kill()
        await asyncio.to_thread(shutil.copytree, data, copy)
        await asyncio.to_thread(etcd.start)
        head = await log.append(lease.mastership, head, b"two")
        witness = Witness(log.identity, head)
        assert await check_continuity(witness, log) is Continuity.SAME
        await lease.release()
    etcd.kill()
    await asyncio.to_thread(shutil.rmtree, data)
    await asyncio.to_thread(shutil.copytree, copy, data)
    await asyncio.to_thread(etcd.start)
    async with opened(etcd.endpoint) as log:
        assert log.identity == witness.identity
        assert await check_continuity(witness, log) is Continuity.REWOUND
        # Even where the log has grown past the witness again, on another branch.
        async with asyncio.timeout(PATIENCE_S):
            lease = await log.campaign("b", TTL_S)
        head = await log.head()
        for commit in (b"other two", b"other three"):
            head = await log.append(lease.mastership, head, commit)
        assert await check_continuity(witness, log) is Continuity.REWOUND


async def test_pages_are_of_one_revision(etcd: EtcdProcess) -> None:
    async with Etcd(Access(endpoints=[etcd.endpoint])) as raw:
        for number in range(10):
            await raw.put(b"%s/page/%d" % (PREFIX.encode(), number), b"old")
        values: list[bytes] = []
        async with aclosing(raw.pages(f"{PREFIX}/page/".encode(), page_keys=3)) as pages:
            async for page in pages:
                values += [kv.value for kv in page.kvs]
                await raw.put(b"%s/page/9" % PREFIX.encode(), b"new")
        assert values == [b"old"] * 10
        status = await raw.status()
        assert status.leader != 0
        assert [member.name for member in await raw.members()] == ["test"]
