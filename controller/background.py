"""How much of the event loop work takes that can wait. Owns the pauses between its slices and when a turn begins; never
does any work itself.

Where the loop is busy with calls and commits, work which somebody will need at some time gives way to what somebody
waits for now. How busy it is shows in the CPU time of its thread.
"""

from __future__ import annotations

import asyncio
import time

#: Share of the time where the loop has time.
SHARE = 0.2

#: The same where it is busy: enough to get on, by some three hundred nodes a second.
BUSY_SHARE = 0.03

#: A loop is busy when so much of a time was taken: what comes in then begins to wait for what is under way.
BUSY_LOAD = 0.6

#: Time over which it is told how busy the loop is, before a turn begins.
LOOK_S = 0.02

#: Longest a turn is put off: also where the loop is busy for minutes, ten a second get on.
LONGEST_WAIT_S = 0.1


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


class Turns:
    """Turns at work that has many askers: so many at once, first come, first served. While the loop is busy, also with
    those before, they begin one by one, each when it has time again.
    """

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._line = asyncio.Lock()
        self._looked_s, self._looked_cpu_s = time.monotonic(), time.thread_time()
        self._busy = False

    async def __aenter__(self) -> None:
        await self._free.acquire()
        try:
            async with self._line:
                await self._time_for_it()
        except asyncio.CancelledError:
            self._free.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._free.release()

    async def _time_for_it(self) -> None:
        end_s = time.monotonic() + LONGEST_WAIT_S
        # No event tells when a loop has time.
        while self._is_busy() and time.monotonic() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)

    def _is_busy(self) -> bool:
        now_s, cpu_s = time.monotonic(), time.thread_time()
        passed_s = now_s - self._looked_s
        if passed_s >= LOOK_S:
            self._busy = cpu_s - self._looked_cpu_s > BUSY_LOAD * passed_s
            self._looked_s, self._looked_cpu_s = now_s, cpu_s
        return self._busy
