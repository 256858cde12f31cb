"""Ending tasks. Owns the one safe way to do it; starts none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

#: Time a task is given before it is told again. A cancellation can be lost where it meets the completion of what the
#: task waits for (`asyncio.wait_for` before Python 3.12), so that telling once is not enough.
TELL_AGAIN_S = 0.2


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks until all have ended; what they raised is not raised here."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=TELL_AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Waits until work has ended that must not be broken off, however often its caller is told to end. The work must
    be bounded. Raises what the work raised.
    """
    task = asyncio.create_task(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
