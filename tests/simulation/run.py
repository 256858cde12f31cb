"""One simulated fleet from start to judgement. Owns the course of a simulation: build up, workload and faults, healing,
rest, checks.
"""

from __future__ import annotations

import gc

from tests.simulation import invariants
from tests.simulation.clients import Clients
from tests.simulation.faults import Faults
from tests.simulation.fleet import TICK_MS, Fleet
from tests.simulation.history import Figures
from tests.simulation.intrigue import Intrigue
from tests.simulation.world import InvariantViolated, World

#: Simulated time in which clients write and faults strike.
FAULTY_MS = 4_000

#: Rounds of ticks in which a healed fleet must come to rest: silent sessions end after three heartbeats.
REST_ROUNDS = 20

#: Shares of runs: some are calm, so that faults do not hide what breaks without them.
CALM = 0.1

#: Shares of runs in which nobody touches keys.
UNTROUBLED = 0.4


def simulate(seed: int, *, verbose: bool = False) -> Figures:
    """Simulates the fleet of one seed; returns its figures. Raises `InvariantViolated`."""
    return play(seed, verbose=verbose).history.figures


def play(seed: int, *, verbose: bool = False) -> Fleet:
    """Simulates the fleet of one seed; returns it at rest, with every invariant checked.

    Raises `InvariantViolated`.
    """
    gc.disable()
    try:
        return _play(World(seed, verbose=verbose))
    finally:
        gc.enable()


def _play(world: World) -> Fleet:
    fleet = Fleet(world)
    faults = Faults(fleet)
    clients = Clients(fleet)
    fleet.start()
    _plan(world, clients, faults)
    _plan_intrigue(world, Intrigue(fleet))
    world.run_until(FAULTY_MS)
    faults.heal()
    world.trace("the fleet is healed")
    _come_to_rest(world, fleet)
    world.trace("the fleet is at rest")
    invariants.check(fleet)
    fleet.history.figures.events = world.events
    return fleet


def _plan(world: World, clients: Clients, faults: Faults) -> None:
    calm = world.happens(CALM)
    strikes = [
        world.between(200, FAULTY_MS - 200) for _ in range(0 if calm else world.between(1, 8))
    ]
    for at_ms in strikes:
        world.after(at_ms, faults.strike)
    for _ in range(world.between(6, 11)):
        at_ms = world.between(300, FAULTY_MS - 300)
        if strikes and world.happens(0.5):
            at_ms = world.chance.choice(strikes) + world.between(20, 600)
        for _ in range(world.between(1, 4)):
            world.after(at_ms + world.between(0, 30), clients.ask)
    for _ in range(world.between(2, 6)):
        world.after(world.between(0, FAULTY_MS - 100), clients.report)
    for _ in range(world.between(0, 5)):
        world.after(world.between(500, FAULTY_MS - 200), clients.transfer)


def _plan_intrigue(world: World, intrigue: Intrigue) -> None:
    if world.happens(UNTROUBLED):
        return
    for _ in range(world.between(0, 3)):
        world.after(world.between(400, FAULTY_MS - 200), intrigue.rotate)
    for _ in range(world.between(0, 2)):
        world.after(world.between(800, FAULTY_MS - 200), intrigue.expel)
    for _ in range(world.between(0, 6)):
        world.after(world.between(400, FAULTY_MS), intrigue.forge)


def _come_to_rest(world: World, fleet: Fleet) -> None:
    for _ in range(REST_ROUNDS):
        world.run_until(world.now_ms + TICK_MS)
        fleet.tick()
        if _is_quiet(fleet):
            world.drain()
            if _is_quiet(fleet):
                return
    raise InvariantViolated("I15", f"the fleet is not at rest {REST_ROUNDS} ticks after healing")


def _is_quiet(fleet: Fleet) -> bool:
    return all(
        controller.is_linked and all(e.session.is_level for e in controller.level_ends())
        for controller in fleet.controllers[1:]
    ) and not any(r.is_busy for c in fleet.controllers for r in c.replicas)
