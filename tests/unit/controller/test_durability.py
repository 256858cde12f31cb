from __future__ import annotations

import asyncio

from controller.durability import Durability
from federation.identifiers import Lane, Origin, StreamId

STATE = StreamId("edge-a1", Origin("edge-a1-control", 1), Lane.STATE)
CONTROL = STATE._replace(lane=Lane.CONTROL)


async def test_level_is_reached_up_to_the_highest_acknowledged_number() -> None:
    durability = Durability()
    assert durability.reached("global", STATE) == 0
    await durability.advance("global", {STATE: 5})
    await durability.advance("global", {STATE: 3, CONTROL: 1})
    assert durability.reached("global", STATE) == 5
    assert durability.reached("region-a", STATE) == 0


async def test_domains_hold_a_write_only_with_all_its_positions() -> None:
    durability = Durability()
    await durability.advance("region-a", {STATE: 5, CONTROL: 2})
    await durability.advance("global", {STATE: 5})
    positions = [(STATE, 5), (CONTROL, 1)]
    assert durability.domains_holding(positions, ["region-a", "global"]) == ["region-a"]
    assert durability.domains_holding([(STATE, 6)], ["region-a", "global"]) == []


async def test_waiting_ends_when_all_positions_are_acknowledged() -> None:
    durability = Durability()
    waiting = asyncio.ensure_future(durability.wait("global", [(STATE, 5), (CONTROL, 1)], 10))
    await asyncio.sleep(0)
    await durability.advance("global", {STATE: 5})
    await durability.advance("region-a", {CONTROL: 9})
    await asyncio.sleep(0)
    assert not waiting.done()
    await durability.advance("global", {CONTROL: 1})
    assert await asyncio.wait_for(waiting, 10) is True


async def test_what_is_durable_already_is_not_waited_for() -> None:
    durability = Durability()
    await durability.advance("global", {STATE: 5})
    assert await durability.wait("global", [(STATE, 5)], 0) is True


async def test_waiting_ends_with_its_time() -> None:
    assert await Durability().wait("global", [(STATE, 1)], 0.01) is False


async def test_many_may_wait_for_different_numbers() -> None:
    durability = Durability()
    waits = [asyncio.ensure_future(durability.wait("global", [(STATE, n)], 10)) for n in (1, 2, 3)]
    await asyncio.sleep(0)
    await durability.advance("global", {STATE: 2})
    done, pending = await asyncio.wait(waits, timeout=0.05)
    assert (len(done), pending) == (2, {waits[2]})
    await durability.advance("global", {STATE: 3})
    assert await asyncio.wait_for(waits[2], 10) is True
