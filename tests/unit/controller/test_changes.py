from __future__ import annotations

import asyncio

import pytest

from controller.changes import MAX_LAG_COMMITS, Changes, SlowWatcher
from federation.state import Applied


async def test_watcher_gets_every_commit_from_its_subscription_on_in_order() -> None:
    changes = Changes()
    changes.publish(Applied(0))
    with changes.subscribe() as subscription:
        for offset in (1, 2, 3):
            changes.publish(Applied(offset))
        commits = subscription.commits()
        assert [(await anext(commits)).offset for _ in range(3)] == [1, 2, 3]
        await commits.aclose()


async def test_watchers_do_not_share_a_queue() -> None:
    changes = Changes()
    with changes.subscribe() as one, changes.subscribe() as other:
        changes.publish(Applied(0))
        for subscription in (one, other):
            applied = await subscription.next(1)
            assert applied is not None
            assert applied.offset == 0


async def test_watcher_is_told_when_nothing_came_in_time() -> None:
    changes = Changes()
    with changes.subscribe() as subscription:
        assert await subscription.next(0.01) is None


async def test_waiting_watcher_is_woken() -> None:
    changes = Changes()
    with changes.subscribe() as subscription:
        waiting = asyncio.ensure_future(subscription.next(10))
        await asyncio.sleep(0)
        changes.publish(Applied(4))
        applied = await waiting
        assert applied is not None
        assert applied.offset == 4


async def test_watcher_that_lags_too_far_is_dropped_and_holds_nobody_up() -> None:
    changes = Changes()
    with changes.subscribe() as slow, changes.subscribe() as quick:
        for offset in range(MAX_LAG_COMMITS + 1):
            changes.publish(Applied(offset))
            await quick.next(1)
        with pytest.raises(SlowWatcher):
            await slow.next(1)
        with pytest.raises(SlowWatcher):
            await anext(slow.commits())
        changes.publish(Applied(MAX_LAG_COMMITS + 1))
        assert await quick.next(1) is not None


async def test_watcher_that_lags_as_far_as_allowed_loses_nothing() -> None:
    changes = Changes()
    with changes.subscribe() as subscription:
        for offset in range(MAX_LAG_COMMITS):
            changes.publish(Applied(offset))
        got = [await subscription.next(1) for _ in range(MAX_LAG_COMMITS)]
        assert [a.offset for a in got if a is not None] == list(range(MAX_LAG_COMMITS))


async def test_ended_subscription_and_listener_hear_no_more() -> None:
    changes = Changes()
    heard: list[int] = []
    with changes.subscribe() as subscription, changes.listen(lambda a: heard.append(a.offset)):
        changes.publish(Applied(0))
    changes.publish(Applied(1))
    assert heard == [0]
    assert await subscription.next(1) is not None
    assert await subscription.next(0.01) is None


async def test_a_watcher_that_is_ended_by_the_very_commit_it_hears_of_ends() -> None:
    """As a watch whose bearer's certificate that commit revokes."""
    changes = Changes()

    async def watch() -> None:
        with changes.subscribe() as subscription:
            while True:
                await subscription.next(60.0)

    watching = asyncio.create_task(watch())
    for _ in range(3):  # Until it waits, with whatever it waits by.
        await asyncio.sleep(0)
    changes.publish(Applied(1))
    asyncio.get_running_loop().call_soon(watching.cancel)
    done, _ = await asyncio.wait({watching}, timeout=5)
    assert done
    assert watching.cancelled()


async def test_a_watcher_that_waits_for_so_long_hears_of_nothing() -> None:
    changes = Changes()
    with changes.subscribe() as subscription:
        assert await subscription.next(0.01) is None
