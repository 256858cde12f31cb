"""The stores that the log contract runs on; each opens any number of logs on one store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from controller.etcd.access import Access
from controller.log.etcd_log import EtcdLog
from controller.log.port import StoredLog
from controller.log.sqlite_log import SqliteLog
from tests.etcd_process import EtcdProcess
from tests.processes import ProcessStarter

NONCE = bytes(range(16))
OpenLog = Callable[[], Awaitable[StoredLog]]
"""Opens one more log on the store, as another replica would."""


@pytest.fixture(scope="session")
def shared_etcd(
    etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EtcdProcess]:
    """One etcd for all tests that do it no harm; each takes a prefix of its own."""
    directory = tmp_path_factory.mktemp("shared-etcd")
    starter = ProcessStarter(directory)
    etcd = EtcdProcess(starter, etcd_binary, directory / "data")
    etcd.start()
    yield etcd
    starter.stop_all()


@pytest.fixture(params=["etcd", "sqlite"])
async def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenLog]:
    """Opens logs on one fresh store, and closes them all when the test ends."""
    opened: list[StoredLog] = []
    prefix = f"/contract/{uuid4()}"

    def new_log() -> StoredLog:
        if request.param == "sqlite":
            return SqliteLog(tmp_path / "log.db", str(uuid4()))
        etcd: EtcdProcess = request.getfixturevalue("shared_etcd")
        return EtcdLog(Access(endpoints=[etcd.endpoint]), prefix)

    async def open_one() -> StoredLog:
        log = new_log()
        opened.append(log)
        await log.open(NONCE)
        return log

    yield open_one
    for log in opened:
        await log.close()
