from __future__ import annotations

import asyncio

import pytest

from controller.tasks import TELL_AGAIN_S, end, finish


async def test_tasks_are_cancelled_and_waited_for() -> None:
    cleaned = []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(number)

    tasks = [asyncio.create_task(work(n)) for n in range(3)]
    await asyncio.sleep(0)
    await end(*tasks)
    assert sorted(cleaned) == [0, 1, 2]
    assert all(task.cancelled() for task in tasks)


async def test_a_task_that_missed_its_cancellation_is_told_again() -> None:
    told: list[None] = []

    async def deaf_once() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told.append(None)
                if len(told) > 1:
                    raise

    task = asyncio.create_task(deaf_once())
    await asyncio.sleep(0)
    async with asyncio.timeout(100 * TELL_AGAIN_S):
        await end(task)
    assert len(told) == 2
    assert task.cancelled()


async def test_what_tasks_raised_is_taken_and_not_raised() -> None:
    async def failing() -> None:
        raise ValueError("before or at the end")

    done = asyncio.create_task(failing())
    await asyncio.wait({done})
    await end(done, asyncio.create_task(failing()))
    await end()
    assert isinstance(done.exception(), ValueError)


async def test_work_that_must_not_be_broken_off_is_finished_however_often_its_caller_is_told() -> (
    None
):
    done = []

    async def write() -> None:
        await asyncio.sleep(3 * TELL_AGAIN_S)
        done.append(1)

    async def live() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await finish(write())

    task = asyncio.create_task(live())
    await asyncio.sleep(0)
    await end(task)
    assert done == [1]
    assert task.cancelled()


async def test_what_finished_work_raised_is_raised() -> None:
    async def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await finish(fail())
