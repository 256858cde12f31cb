"""Processes of this project on this machine: programs, ports on loopback, starting and stopping. Owns how one process
is run and ended, by its pid; knows nothing of what runs in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from controller.log import die_with_parent

#: Wait for a process to end after SIGTERM before it is killed.
STOP_TIMEOUT_S = 10.0

#: Listeners get ports below those of outgoing connections, of which a federation has hundreds: between the choice of a
#: port and its use one of them could take it. So could another process that chooses ports: each has a share of its own,
#: as long as there are no more of them at work than shares.
PORT_SPAN = 10_000
PORT_SHARES = 16
MAX_PORT_ATTEMPTS = 100

#: Beginning of the outgoing range where the system does not tell it (Linux's default).
DEFAULT_OUTGOING_PORT = 32_768


@dataclass(slots=True)
class RunningProcess:
    """A process of ours."""

    name: str
    command: Sequence[str]
    log_path: Path
    process: subprocess.Popen[bytes]
    _output: IO[bytes]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        self._output.close()

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL when it does not end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if not self._output.closed:
            self._output.close()


def start_process(directory: Path, name: str, command: Sequence[str]) -> RunningProcess:
    """Starts a program that dies with this process; its output goes to a file of its name in the directory."""
    log_path = directory / (name.replace("/", "-") + ".log")
    output = log_path.open("ab")
    # Its own process group: Ctrl-C is for us, who stop the others in order.
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    return RunningProcess(name, command, log_path, process, output)


def find_program(name: str) -> str:
    """An external program, from the project's tools or from PATH. Raises `FileNotFoundError`."""
    tools = Path(__file__).resolve().parent.parent / ".tools" / "bin" / name
    if tools.exists():
        return str(tools)
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is neither in .tools/bin nor on PATH; run `make tools`")
    return found


def free_port(taken: Collection[int]) -> int:
    """A port that nobody listens on, that no outgoing connection will be given, and that was not given out here for
    hundreds of ports. Raises `OSError`.
    """
    for port in itertools.islice(_ports(), MAX_PORT_ATTEMPTS):
        with contextlib.suppress(OSError), socket.socket() as probe:
            if port not in taken:
                probe.bind(("127.0.0.1", port))
                return port
    raise OSError(f"no free port among {MAX_PORT_ATTEMPTS} tried below {_first_outgoing_port()}")


@functools.cache
def _ports() -> Iterator[int]:
    """The ports of this process's share, one after the other, round and round from one taken by chance."""
    size = PORT_SPAN // PORT_SHARES
    first = _first_outgoing_port() - PORT_SPAN + _port_share() * size
    begin = random.randrange(size)
    return itertools.cycle(first + (begin + number) % size for number in range(size))


def _port_share() -> int:
    """This process's share of the ports, held until it ends; one of the others' where all are taken."""
    for share in range(PORT_SHARES):
        path = Path(tempfile.gettempdir()) / f"souverix-ports-{share}"
        with contextlib.suppress(PermissionError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return share
    return random.randrange(PORT_SHARES)


def _first_outgoing_port() -> int:
    """Where the kernel's range for the ports of outgoing connections begins."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return DEFAULT_OUTGOING_PORT
