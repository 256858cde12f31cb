from __future__ import annotations

import asyncio
import time

import pytest

from controller.background import BUSY_LOAD, BUSY_SHARE, SHARE, Background


class Loop:
    """A loop whose other work takes a part of every pause."""

    def __init__(self) -> None:
        self.load = 0.0
        self.pauses: list[float] = []
        self._now_s = 100.0
        self._cpu_s = 5.0

    async def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self._now_s += pause_s
        self._cpu_s += self.load * pause_s

    def now(self) -> float:
        return self._now_s

    def cpu(self) -> float:
        return self._cpu_s


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(asyncio, "sleep", made.sleep)
    monkeypatch.setattr(time, "monotonic", made.now)
    monkeypatch.setattr(time, "thread_time", made.cpu)
    return made


IDLE_PAUSE_S = 0.004 * (1 / SHARE - 1)
BUSY_PAUSE_S = 0.004 * (1 / BUSY_SHARE - 1)


async def test_slices_keep_to_their_share_where_the_loop_has_time(loop: Loop) -> None:
    pace = Background()
    loop.load = BUSY_LOAD - 0.01
    for _ in range(2):
        await pace.rest(0.004)
    assert loop.pauses == pytest.approx([IDLE_PAUSE_S, IDLE_PAUSE_S])


async def test_work_gives_way_while_the_loop_is_busy_and_no_longer(loop: Loop) -> None:
    pace = Background()
    loop.load = BUSY_LOAD + 0.01
    await pace.rest(0.004)
    loop.load = 0.0
    await pace.rest(0.004)
    await pace.rest(0.004)
    assert loop.pauses == pytest.approx([IDLE_PAUSE_S, BUSY_PAUSE_S, IDLE_PAUSE_S])
