"""Runs a program that the kernel kills when its parent dies.

Owns nothing but the moment between fork and exec. Run as a script, `PARENT_PID PROGRAM
ARGUMENTS...`, and imports next to nothing, for it is started in front of the program each time. A
hook within the parent's fork would do the same, but must not run where other threads (gRPC's) may
hold locks.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def run(parent_pid: int, command: list[str]) -> None:
    """Become `command`; die at once if the parent is gone already.

    Elsewhere than on Linux just run.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit("the parent is gone")
    os.execv(command[0], command)  # noqa: S606 - becoming the program is the purpose


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2:])
