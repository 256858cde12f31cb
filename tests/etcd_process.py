"""A real etcd for tests, on free loopback ports, to be killed, paused and started again.

Owns the command line; the process itself is the starter's.
"""

from __future__ import annotations

import http.client
from pathlib import Path

from tests.processes import ProcessStarter, RunningProcess, accepts_connections, free_port


class EtcdProcess:
    """One etcd member. `tls` says that the flags given make its client port speak TLS."""

    def __init__(
        self, starter: ProcessStarter, binary: Path, data: Path, *flags: str, tls: bool = False
    ) -> None:
        self._starter = starter
        self._tls = tls
        self.port = free_port()
        client = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        peer = f"http://127.0.0.1:{free_port()}"
        self._command = [
            str(binary),
            "--name=test",
            f"--data-dir={data}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
            # A short election lets leases be short, and so the tests.
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--logger=zap",
            "--log-level=error",
            *flags,
        ]
        self._running: RunningProcess | None = None

    @property
    def endpoint(self) -> str:
        """Where clients reach it; the same after a restart."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it serves."""
        self._running = self._starter("etcd", self._command)
        if self._tls:
            self._running.wait_for_port(self.port)
        else:
            self._running.wait_until(self._is_healthy, "etcd is healthy")

    def kill(self) -> None:
        """End it without notice."""
        assert self._running is not None
        self._running.kill()

    def pause(self) -> None:
        """Freeze it: it keeps its connections and answers nothing."""
        assert self._running is not None
        self._running.pause()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        assert self._running is not None
        self._running.resume()

    def _is_healthy(self) -> bool:
        if not accepts_connections(self.port):
            return False
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()
