from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from deploy.local_processes import PORT_SHARES, PORT_SPAN, free_port

ROOT = Path(__file__).resolve().parents[3]
SHARE = PORT_SPAN // PORT_SHARES


def test_a_port_that_is_in_use_or_taken_is_not_given() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port(())))
        listener.listen()
        used = listener.getsockname()[1]
        found = {free_port({used + 1}) for _ in range(200)}
    assert not found & {used, used + 1}


def test_no_port_is_given_twice_in_a_row_of_many() -> None:
    found = [free_port(()) for _ in range(SHARE // 2)]
    assert len(set(found)) == len(found)


def test_processes_at_work_at_once_are_given_ports_of_different_shares() -> None:
    own = {free_port(()) for _ in range(50)}
    program = (
        "from deploy.local_processes import free_port; print(*(free_port(()) for _ in range(50)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    others = set(map(int, told.stdout.split()))
    assert max(own) - min(own) < SHARE
    assert max(others) - min(others) < SHARE
    assert max(own) < min(others) or max(others) < min(own)
