"""How much of the event loop background work takes. Owns the pauses between its slices; never does any work itself.

Where the loop is busy with calls and commits, background work, which somebody will need at some time, gives way to what
somebody waits for now. How busy it is shows in the CPU time of its thread while the work paused.
"""

from __future__ import annotations

import asyncio
import time

#: Share of the time where the loop has time.
SHARE = 0.2

#: The same where it is busy: enough to get on, by some three hundred nodes a second.
BUSY_SHARE = 0.03

#: A loop is busy when others took so much of a pause.
BUSY_LOAD = 0.6


class Background:
    """The pace of one kind of background work."""

    def __init__(self) -> None:
        self._share = SHARE

    async def rest(self, spent_s: float) -> None:
        """Pauses after a slice that took so long, so that all slices together keep to their share."""
        began_s, began_cpu_s = time.monotonic(), time.thread_time()
        await asyncio.sleep(spent_s * (1 / self._share - 1))
        passed_s, cpu_s = time.monotonic() - began_s, time.thread_time() - began_cpu_s
        self._share = BUSY_SHARE if cpu_s > BUSY_LOAD * passed_s else SHARE
