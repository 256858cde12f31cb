"""Real processes for tests are awaited with a deadline and never left behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.processes import ProcessStarter, accepts_connections, free_port

LISTEN = "import http.server, sys; http.server.test(port=int(sys.argv[1]), bind='127.0.0.1')"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('deaf', flush=True); time.sleep(600)"
)
SLEEP = "import time; print('up', flush=True); time.sleep(600)"


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_waits_for_a_port_and_stops_what_it_started(start_process: ProcessStarter) -> None:
    port = free_port()
    server = start_process("server", [sys.executable, "-c", LISTEN, str(port)])
    server.wait_for_port(port)
    assert server.is_running()
    server.stop()
    assert not server.is_running()
    assert not accepts_connections(port)


def test_a_process_that_ends_early_fails_the_wait_with_its_log(
    start_process: ProcessStarter,
) -> None:
    process = start_process("short", [sys.executable, "-c", "raise SystemExit('no such disk')"])
    with pytest.raises(AssertionError, match=r"(?s)ended with 1.*no such disk"):
        process.wait_for_log("ready")


def test_a_restart_has_a_log_of_its_own(start_process: ProcessStarter) -> None:
    first = start_process("sleeper", [sys.executable, "-c", SLEEP])
    first.wait_for_log("up")
    first.kill()
    second = start_process("sleeper", [sys.executable, "-c", SLEEP])
    second.wait_for_log("up")
    assert first.log_path != second.log_path


def test_nothing_is_left_behind_paused_or_deaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.processes.STOP_WITHIN_S", 0.2)
    starter = ProcessStarter(tmp_path)
    paused = starter("paused", [sys.executable, "-c", SLEEP])
    deaf = starter("deaf", [sys.executable, "-c", STUBBORN])
    paused.wait_for_log("up")
    deaf.wait_for_log("deaf")
    paused.pause()
    starter.stop_all()
    assert not exists(paused.pid)
    assert not exists(deaf.pid)
