"""Real processes for tests: start one, wait until it is ready, and leave none behind.

Owns the processes it started and signals only those, by their id. Waiting is always for a
condition, with a deadline; a process that ends meanwhile fails the wait at once, with its log.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy import local_processes

READY_WITHIN_S = 60.0
"""Starting etcd or a controller takes about a second; two busy cores make it slower."""

STOP_WITHIN_S = 10.0
"""How long a process may take to end by itself after SIGTERM."""

POLL_INTERVAL_S = 0.02

LOG_TAIL_BYTES = 4_000
"""How much of its log a failure shows."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now, and that no outgoing connection will be given."""
    return local_processes.free_port(())


def accepts_connections(port: int) -> bool:
    """Whether something accepts TCP connections at this port of 127.0.0.1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


def wait_until(
    condition: Callable[[], bool], what: str, *, within_s: float = READY_WITHIN_S
) -> None:
    """Return when the condition holds; AssertionError names `what` was awaited in vain."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_INTERVAL_S)


class RunningProcess:
    """One started program, with its output in `log_path`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended yet; a stopped (SIGSTOP) process counts as running."""
        return self._process.poll() is None

    def log(self) -> str:
        """All it has written so far, standard output and error together."""
        return self.log_path.read_text(errors="replace")

    def wait_until(
        self, condition: Callable[[], bool], what: str, *, within_s: float = READY_WITHIN_S
    ) -> None:
        """Return when the condition holds; fails with the log at the deadline or if it ends."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert self.is_running(), (
                f"{self.name} ended with {self._process.returncode} before: {what}\n{self._tail()}"
            )
            assert time.monotonic() < deadline, (
                f"{self.name}: not within {within_s:g} s: {what}\n{self._tail()}"
            )
            time.sleep(POLL_INTERVAL_S)

    def wait_for_log(self, text: str, *, within_s: float = READY_WITHIN_S) -> None:
        """Return when the log holds this text."""
        self.wait_until(lambda: text in self.log(), f"{text!r} in its log", within_s=within_s)

    def wait_for_port(self, port: int, *, within_s: float = READY_WITHIN_S) -> None:
        """Return when this port of 127.0.0.1 accepts connections."""
        self.wait_until(lambda: accepts_connections(port), f"port {port} open", within_s=within_s)

    def wait_for_exit(self, *, within_s: float = STOP_WITHIN_S) -> int:
        """Return its exit status (minus the signal's number when one ended it)."""
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            message = f"{self.name} still runs after {within_s:g} s\n{self._tail()}"
            raise AssertionError(message) from None

    def pause(self) -> None:
        """Stop its execution, as a virtual machine that is suspended (SIGSTOP)."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without notice (SIGKILL), and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end, insist after STOP_WITHIN_S, and return its exit status."""
        if self.is_running():
            self._process.terminate()
            self.resume()
            try:
                self._process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait()

    def _tail(self) -> str:
        return f"--- end of {self.log_path}\n{self.log()[-LOG_TAIL_BYTES:]}"


class ProcessStarter:
    """Starts processes for one test, and stops them all when it ends, last started first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[RunningProcess] = []

    def __call__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> RunningProcess:
        """Start `command` with its output in `<name>.log`; a restart writes to a log of its own.

        `env` adds to the environment. The caller waits for readiness, by the returned object.
        """
        earlier = sum(process.name == name for process in self._started)
        log_path = self._directory / (f"{name}.{earlier}.log" if earlier else f"{name}.log")
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd or self._directory,
            )
        started = RunningProcess(name, process, log_path)
        self._started.append(started)
        return started

    def stop_all(self) -> None:
        """Stop what still runs."""
        for process in reversed(self._started):
            process.stop()
