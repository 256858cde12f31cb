"""Waits for whichever of several asyncio events is set first.

Owns nothing else; leaves no task behind.
"""

from __future__ import annotations

import asyncio


async def first_set(*events: asyncio.Event, timeout_s: float | None) -> None:
    """Return when one of `events` is set, or after `timeout_s` (None: never)."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
