"""An etcd of our own, for a controller that was given none.

Owns one local etcd process: its data directory, its loopback ports, its health, its restarts, its
end. Never listens beyond loopback nor in clear, and never leaves the process behind: etcd dies with the
controller.

etcd is told to dump its consensus log often: it keeps that many requests in memory, and ours may
have a MiB each. Old revisions (of the head, above all) are compacted by their number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Self

from controller.etcd.access import Access, TlsFiles
from controller.etcd.client import Etcd
from controller.etcd.connection import Pauses
from controller.etcd.errors import EtcdError
from controller.log import die_with_parent
from controller.log.embedded_tls import make_certificates
from controller.log.errors import LogRefused, LogUnavailable
from trust.errors import FilesUnusable

START_TIMEOUT_S = 30.0
"""For becoming healthy; replaying a large log after a crash takes seconds."""
START_ATTEMPTS = 3
"""Each with other ports."""
HEALTH_PAUSE_S = 0.05
"""Between two questions for health."""
STOP_TIMEOUT_S = 5.0
"""For stopping in order; etcd survives being killed as well."""
RESTART_PAUSE_S = 0.1
LONGEST_RESTART_PAUSE_S = 10.0
"""Pauses before restarts double up to this: a broken disk must not make a busy loop."""
STEADY_S = 30.0
"""After running this long, a death begins a new series of restarts."""
SNAPSHOT_COUNT = 2_000
"""Requests between two dumps of the consensus log; etcd keeps these and 5,000 more in memory."""
KEPT_FILES = 2
"""Files of 64 MB of the consensus log, and dumps, kept beside those in use: what restarts after a crash
read is in use, and more is for members that lag behind, of which there are none."""
KEPT_REVISIONS = 10_000
"""Revisions that a watch may lag behind before it has to read pages instead."""
QUOTA_BYTES = 8 * 1024**3
"""Size at which etcd refuses writes; the most that etcd recommends."""
OUTPUT_BYTES = 4 * 1024 * 1024
"""Size of etcd's own output above which a start begins a new file and keeps one old one."""
OUTPUT_LINES_TOLD = 5
"""Lines of etcd's output that an error quotes."""

_log = logging.getLogger(__name__)


class EmbeddedEtcd:
    """A supervised local etcd with its data in `directory`."""

    def __init__(self, binary: str, directory: Path) -> None:
        self._binary = binary
        self._directory = directory
        self._output_path = directory / "etcd.log"
        self._tls: TlsFiles | None = None
        self._client_port = 0
        self._peer_port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def access(self) -> Access:
        """How to reach it; the endpoint stays the same over restarts."""
        return Access(endpoints=(f"127.0.0.1:{self._client_port}",), tls=self._tls)

    @property
    def pid(self) -> int | None:
        """The process id, None while it is not running."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start and wait until it is healthy.

        Must be called in the main thread: the kernel takes the end of the starting thread for the
        parent's. Raises LogRefused if there is no such program, LogUnavailable if it does not
        come up.
        """
        program = shutil.which(self._binary)
        if program is None:
            raise LogRefused(
                f"etcd not found as {self._binary!r}; install etcd, name its path, give the endpoints "
                "of a running etcd, or use the SQLite log"
            )
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._tls = make_certificates(self._directory / "tls")
        except FilesUnusable as error:
            raise LogRefused(f"our own etcd gets no certificates: {error}") from error
        for attempt in range(1, START_ATTEMPTS + 1):
            self._client_port, self._peer_port = _free_ports()
            try:
                await self._until_healthy(await self._launch(program))
                break
            except LogUnavailable:
                await self.close()
                # Another process may have taken a port between our look and etcd's.
                if attempt == START_ATTEMPTS:
                    raise
            except BaseException:
                await self.close()
                raise
        self._supervisor = asyncio.create_task(self._supervise(program), name="embedded etcd")
        _log.info(
            "no etcd endpoints are configured: running our own etcd at 127.0.0.1:%d, data in %s",
            self._client_port,
            self._directory,
        )

    async def close(self) -> None:
        """Stop etcd and wait for its end."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _supervise(self, program: str) -> None:
        pauses = Pauses(RESTART_PAUSE_S, LONGEST_RESTART_PAUSE_S)
        while True:
            started_s = time.monotonic()
            process = self._process
            if process is not None:
                status = await process.wait()
                self._process = None
                _log.warning("etcd ended with status %d: %s", status, self._last_words())
            if time.monotonic() - started_s > STEADY_S:
                pauses.reset()
            await asyncio.sleep(pauses.next_s())
            try:
                await self._launch(program)
            except OSError as error:
                _log.warning("etcd cannot be started: %s", error)
            else:
                _log.info("etcd was started again")

    async def _launch(self, program: str) -> asyncio.subprocess.Process:
        if self._output_path.exists() and self._output_path.stat().st_size > OUTPUT_BYTES:
            self._output_path.replace(self._output_path.with_suffix(".log.1"))
        # A file rather than a pipe: etcd must not wait for us to read.
        with self._output_path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                die_with_parent.__file__,
                str(os.getpid()),
                *self._command(program),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(),
            )
        return self._process

    def _command(self, program: str) -> list[str]:
        client = f"https://127.0.0.1:{self._client_port}"
        peer = f"https://127.0.0.1:{self._peer_port}"
        tls = self._directory / "tls"
        return [
            program,
            "--name=embedded",
            f"--data-dir={self._directory / 'data'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=embedded={peer}",
            f"--cert-file={tls / 'cert.pem'}",
            f"--key-file={tls / 'key.pem'}",
            f"--trusted-ca-file={tls / 'ca.pem'}",
            "--client-cert-auth",
            f"--peer-cert-file={tls / 'cert.pem'}",
            f"--peer-key-file={tls / 'key.pem'}",
            f"--peer-trusted-ca-file={tls / 'ca.pem'}",
            "--peer-client-cert-auth",
            f"--snapshot-count={SNAPSHOT_COUNT}",
            f"--max-wals={KEPT_FILES}",
            f"--max-snapshots={KEPT_FILES}",
            "--auto-compaction-mode=revision",
            f"--auto-compaction-retention={KEPT_REVISIONS}",
            f"--quota-backend-bytes={QUOTA_BYTES}",
            "--logger=zap",
            "--log-level=warn",
        ]

    async def _until_healthy(self, process: asyncio.subprocess.Process) -> None:
        healthy = asyncio.create_task(self._ask_for_health())
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait(
                {healthy, ended}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not healthy.done():
                raise LogUnavailable(
                    f"our own etcd {'ended' if ended.done() else 'does not come up'}; "
                    f"it says: {self._last_words()}"
                )
        finally:
            for task in (healthy, ended):
                task.cancel()
            await asyncio.gather(healthy, ended, return_exceptions=True)

    async def _ask_for_health(self) -> None:
        while True:
            with suppress(EtcdError):
                async with Etcd(self._accepting_any_version()) as etcd:
                    if (await etcd.status()).leader:
                        return
            await asyncio.sleep(HEALTH_PAUSE_S)

    def _accepting_any_version(self) -> Access:
        # Whether the version is fit for a log is judged where the log is opened.
        return Access(self.access.endpoints, tls=self._tls, accept_lossy_versions=True)

    def _last_words(self) -> str:
        try:
            with self._output_path.open(errors="replace") as output:
                lines = deque(output, maxlen=OUTPUT_LINES_TOLD)
        except OSError as error:
            return f"nothing ({error})"
        return " | ".join(line.strip() for line in lines) or "nothing"


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _environment() -> dict[str, str]:
    """Ours, without the variables that etcd takes for flags."""
    kept = "ETCD_UNSUPPORTED_ARCH"
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ETCD_") or name == kept
    }
