"""Appends whose answer is lost: found out, never guessed, never written twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.etcd import connection
from controller.log import etcd_log
from controller.log.errors import Fenced, LogUnavailable, OutcomeUnknown
from deploy.tcp_proxy import TcpProxy
from tests.e2e.etcd_logs import PATIENCE_S, TTL_S, opened, read_all, until, until_stored
from tests.etcd_process import EtcdProcess
from tests.processes import ProcessStarter


@pytest.fixture
def etcd(start_process: ProcessStarter, etcd_binary: Path, tmp_path: Path) -> EtcdProcess:
    process = EtcdProcess(start_process, etcd_binary, tmp_path / "data")
    process.start()
    return process


@pytest.fixture
async def link(etcd: EtcdProcess) -> AsyncIterator[TcpProxy]:
    """The way from the master to etcd; everyone else reaches etcd directly."""
    async with TcpProxy("127.0.0.1", etcd.port) as proxy:
        yield proxy


async def test_an_append_whose_answer_is_lost_is_found_to_stand_once(
    etcd: EtcdProcess, link: TcpProxy
) -> None:
    async with opened(link.endpoint) as log, opened(etcd.endpoint) as observer:
        lease = await log.campaign("a", TTL_S)
        head = await log.append(lease.mastership, await log.head(), b"one")
        link.swallow_replies()
        appending = asyncio.create_task(log.append(lease.mastership, head, b"two"))
        await until_stored(observer, 2)
        assert not appending.done()
        link.heal()
        async with asyncio.timeout(PATIENCE_S):
            assert await appending == await observer.head()
        assert await read_all(observer) == [(0, b"one"), (1, b"two")]


async def test_an_append_that_never_arrived_is_made_again(
    etcd: EtcdProcess, link: TcpProxy
) -> None:
    async with opened(link.endpoint) as log, opened(etcd.endpoint) as observer:
        lease = await log.campaign("a", PATIENCE_S)
        head = await log.append(lease.mastership, await log.head(), b"one")
        link.swallow_requests()
        appending = asyncio.create_task(log.append(lease.mastership, head, b"two"))
        await until(lambda: link.swallowed_bytes > 0, "the request on its way")
        async with asyncio.timeout(PATIENCE_S):
            assert await observer.head() == head
            link.heal()
            assert await appending == await observer.head()
        assert await read_all(observer) == [(0, b"one"), (1, b"two")]


async def test_an_append_overtaken_by_a_new_master_is_told_it_was_fenced(
    etcd: EtcdProcess, link: TcpProxy
) -> None:
    async with opened(link.endpoint) as log, opened(etcd.endpoint) as successor:
        lease = await log.campaign("a", TTL_S)
        head = await log.append(lease.mastership, await log.head(), b"one")
        link.swallow_requests()
        appending = asyncio.create_task(log.append(lease.mastership, head, b"by the old master"))
        async with asyncio.timeout(PATIENCE_S):
            new_lease = await successor.campaign("b", TTL_S)
            assert not lease.valid
            await successor.append(new_lease.mastership, head, b"by the new master")
            link.heal()
            with pytest.raises(Fenced):
                await appending
        assert await read_all(successor) == [(0, b"one"), (1, b"by the new master")]


async def test_an_outcome_that_cannot_be_found_out_is_called_unknown(
    etcd: EtcdProcess, link: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_log, "RESOLVE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(connection, "TRY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(connection, "CALL_TIMEOUT_S", 1.0)
    async with opened(link.endpoint) as log, opened(etcd.endpoint) as observer:
        lease = await log.campaign("a", PATIENCE_S)
        head = await log.head()
        link.swallow_replies()
        with pytest.raises(OutcomeUnknown):
            await log.append(lease.mastership, head, b"one")
        assert await read_all(observer) == [(0, b"one")]
        link.heal()
        assert await log.append(lease.mastership, head, b"one") == await observer.head()


async def test_an_append_that_was_never_sent_is_told_so(
    etcd: EtcdProcess, link: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CALL_TIMEOUT_S", 0.5)
    async with opened(link.endpoint) as log, opened(etcd.endpoint) as observer:
        lease = await log.campaign("a", PATIENCE_S)
        head = await log.head()
        link.cut()
        await until(lambda: link.connections == 0, "the cut")
        async with asyncio.timeout(PATIENCE_S):
            # The client learns of the reset in its own time; from then on it sends nothing.
            with pytest.raises(LogUnavailable):
                await log.head()
        with pytest.raises(LogUnavailable, match="no etcd member answers"):
            await log.append(lease.mastership, head, b"one")
        assert await observer.head() == head
