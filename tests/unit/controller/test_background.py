from __future__ import annotations

import asyncio
import time

import pytest

from controller.background import (
    BUSY_LOAD,
    BUSY_SHARE,
    LONGEST_WAIT_S,
    LOOK_S,
    SHARE,
    Background,
    Turns,
)

#: The real one, for tests that let others run.
sleep = asyncio.sleep


class Loop:
    """A loop whose other work takes a part of every pause."""

    def __init__(self) -> None:
        self.load = 0.0
        self.pauses: list[float] = []
        self._now_s = 0.0
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


class Asker:
    """Takes a turn and keeps it until it is told to end."""

    def __init__(self, turns: Turns, begun: list[str], name: str) -> None:
        self.end = asyncio.Event()
        self.task = asyncio.create_task(self._run(turns, begun, name))

    async def _run(self, turns: Turns, begun: list[str], name: str) -> None:
        async with turns:
            begun.append(name)
            await self.end.wait()


async def others_run() -> None:
    for _ in range(10):
        await sleep(0)


async def test_turns_are_given_in_order_and_no_more_than_so_many_at_once() -> None:
    turns, begun = Turns(2), list[str]()
    askers = [Asker(turns, begun, name) for name in "abcd"]
    await others_run()
    assert begun == ["a", "b"]
    askers[1].end.set()
    await others_run()
    assert begun == ["a", "b", "c"]
    for asker in askers:
        asker.end.set()
    await asyncio.gather(*(asker.task for asker in askers))
    assert begun == ["a", "b", "c", "d"]


async def test_a_turn_begins_when_the_loop_has_time_again(loop: Loop) -> None:
    turns = Turns(2)
    loop.load = 1.0
    await loop.sleep(LOOK_S)
    loop.pauses.clear()
    loop.load = BUSY_LOAD - 0.01
    async with turns:
        assert loop.pauses == [LOOK_S]
    async with turns:
        assert loop.pauses == [LOOK_S]


async def test_a_turn_is_put_off_for_a_bounded_time(loop: Loop) -> None:
    turns = Turns(2)
    loop.load = 1.0
    await loop.sleep(LOOK_S)
    loop.pauses.clear()
    async with turns:
        assert sum(loop.pauses) == pytest.approx(LONGEST_WAIT_S, abs=LOOK_S)


async def test_who_gives_up_waiting_leaves_its_turn_to_the_next() -> None:
    turns, begun = Turns(1), list[str]()
    first, second, third = (Asker(turns, begun, name) for name in "abc")
    await others_run()
    second.task.cancel()
    await asyncio.gather(second.task, return_exceptions=True)
    first.end.set()
    third.end.set()
    await asyncio.gather(first.task, third.task)
    assert begun == ["a", "c"]
