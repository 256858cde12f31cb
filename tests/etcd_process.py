"""A real etcd for tests: started on free loopback ports, and stopped, killed, paused at will.

Owns its processes alone; they die with the test run, however that ends.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controller.log import die_with_parent

START_TIMEOUT_S = 20.0
POLL_S = 0.02


def etcd_binary() -> str:
    """The etcd program; skips the test where there is none, and fails it in CI."""
    tools = Path(__file__).parent.parent / ".tools" / "bin"
    found = shutil.which("etcd", path=f"{tools}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        reason = "etcd is not installed: run `make tools`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class EtcdProcess:
    """One etcd member with its data in `directory`."""

    def __init__(self, directory: Path, *flags: str, tls: bool = False) -> None:
        self._directory = directory
        self._flags = flags
        self._tls = tls
        with socket.socket() as client, socket.socket() as peer:
            for probe in (client, peer):
                probe.bind(("127.0.0.1", 0))
            self.port: int = client.getsockname()[1]
            self._peer_port: int = peer.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it serves."""
        scheme = "https" if self._tls else "http"
        client = f"{scheme}://{self.endpoint}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    die_with_parent.__file__,
                    str(os.getpid()),
                    etcd_binary(),
                    "--name=test",
                    f"--data-dir={self._directory / 'data'}",
                    f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster=test={peer}",
                    "--listen-metrics-urls=http://127.0.0.1:0",
                    # A short election lets leases be short, and so the tests.
                    "--heartbeat-interval=50",
                    "--election-timeout=500",
                    "--logger=zap",
                    "--log-level=error",
                    *self._flags,
                ],
                stdout=output,
                stderr=output,
            )
        if self._tls:
            self._wait_until(self._is_listening)
        else:
            self._wait_until(self._is_healthy)

    def stop(self) -> None:
        """End it in order, if it runs."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without warning."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
            process.wait(START_TIMEOUT_S)

    def _signal(self, which: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(which)

    def _wait_until(self, ready: object) -> None:
        assert self._process is not None
        assert callable(ready)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not ready():
            output = self._directory / "output"
            assert time.monotonic() < deadline_s, f"etcd does not start: {output.read_text()}"
            try:
                status = self._process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"etcd ended with status {status}: {output.read_text()}")

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
