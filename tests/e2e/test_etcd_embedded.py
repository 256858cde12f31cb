"""The controller's own etcd: started, watched over, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from controller.etcd import connection
from controller.etcd.access import Access, TlsFiles
from controller.log.embedded import EmbeddedEtcd
from controller.log.embedded_tls import make_certificates
from controller.log.errors import LogRefused, LogUnavailable
from controller.log.etcd_log import EtcdLog
from tests.e2e.etcd_logs import NONCE, PATIENCE_S, PREFIX, TTL_S, read_all, until
from tests.processes import ProcessStarter

RUN_UNTIL_KILLED = """
import asyncio, pathlib, sys
from controller.log.embedded import EmbeddedEtcd

async def main():
    async with EmbeddedEtcd(sys.argv[1], pathlib.Path(sys.argv[2])) as etcd:
        print(f"etcd runs as {etcd.pid}.", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def is_running(pid: int) -> bool:
    """Whether the process lives; one that has ended but was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in {"Z", "X"}


async def test_it_comes_back_after_its_death_with_all_it_held(
    etcd_binary: Path, tmp_path: Path
) -> None:
    async with EmbeddedEtcd(str(etcd_binary), tmp_path / "etcd") as etcd:
        log = EtcdLog(etcd.access, PREFIX)
        try:
            await log.open(NONCE)
            lease = await log.campaign("a", PATIENCE_S)
            head = await log.append(lease.mastership, await log.head(), b"one")
            first_pid = etcd.pid
            assert first_pid is not None
            os.kill(first_pid, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_S):
                await log.append(lease.mastership, head, b"two")
            assert await read_all(log) == [(0, b"one"), (1, b"two")]
            assert etcd.pid not in {None, first_pid}
        finally:
            await log.close()


async def test_it_ends_with_its_owner_and_keeps_its_data(etcd_binary: Path, tmp_path: Path) -> None:
    identities = set()
    for commit in (b"one", b"two"):
        async with EmbeddedEtcd(str(etcd_binary), tmp_path / "etcd") as etcd:
            pid = etcd.pid
            assert pid is not None
            log = EtcdLog(etcd.access, PREFIX)
            head = await log.open(NONCE)
            lease = await log.campaign("a", TTL_S)
            await log.append(lease.mastership, head, commit)
            identities.add(log.identity)
            commits = await read_all(log)
            await lease.release()
            await log.close()
        assert not is_running(pid)
    assert commits == [(0, b"one"), (1, b"two")]
    assert len(identities) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
async def test_it_dies_when_its_owner_is_killed(
    start_process: ProcessStarter, etcd_binary: Path, tmp_path: Path
) -> None:
    owner = start_process(
        "owner",
        [sys.executable, "-c", RUN_UNTIL_KILLED, etcd_binary, tmp_path / "etcd"],
        cwd=Path(__file__).parent.parent.parent,
    )
    await asyncio.to_thread(owner.wait_for_log, "etcd runs as")
    pid = int(owner.log().rpartition("etcd runs as ")[2].split(".")[0])
    assert is_running(pid)
    owner.kill()
    await until(lambda: not is_running(pid), "the end of etcd")


async def test_a_missing_program_is_named_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(LogRefused, match=r"no-such-etcd.*install etcd"):
        await EmbeddedEtcd("no-such-etcd", tmp_path / "etcd").start()


async def test_what_etcd_says_is_told_if_it_does_not_start(
    etcd_binary: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("a file where the directory should be")
    with pytest.raises(LogUnavailable, match="not a directory"):
        await EmbeddedEtcd(str(etcd_binary), tmp_path).start()


async def test_nobody_speaks_with_it_in_clear_or_without_its_certificate(
    etcd_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CALL_TIMEOUT_S", 0.5)
    async with EmbeddedEtcd(str(etcd_binary), tmp_path / "etcd") as etcd:
        own = etcd.access.tls
        assert own is not None
        assert own.key is not None
        assert own.key.stat().st_mode & 0o777 == 0o600
        for tls in (None, TlsFiles(own.authority), make_certificates(tmp_path / "others")):
            log = EtcdLog(Access(etcd.access.endpoints, tls=tls), PREFIX)
            try:
                with pytest.raises(LogUnavailable):
                    await log.open(NONCE)
            finally:
                await log.close()
