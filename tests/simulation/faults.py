"""What goes wrong in a fleet, and its end. Owns which faults come when; every one ends before the fleet is judged."""

from __future__ import annotations

from tests.simulation.fleet import Controller, Fleet
from tests.simulation.network import DOWN, UP
from tests.simulation.replica import Replica

#: A lease runs out after this long without its holder.
LEASE_MS = 400

#: A clock gone wrong shows a time this far ahead: ten days.
FAR_FUTURE_MS = 864_000_000


class Faults:
    """Breaks a fleet, and heals it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._world = fleet.world

    def strike(self) -> None:
        """One fault happens."""
        chosen = self._world.chance.random()
        if chosen < 0.15:
            self._cut()
        elif chosen < 0.55:
            self._partition()
        elif chosen < 0.7:
            self._crash()
        elif chosen < 0.85:
            self._pause()
        else:
            self._bend_clock()

    def heal(self) -> None:
        """Ends every fault; clocks keep their skew, within a second."""
        fleet = self._fleet
        fleet.healed = True
        for child in fleet.network.links:
            fleet.network.clear(child)
        for controller in fleet.controllers:
            controller.frozen_at_ms = None
            controller.skew_ms = max(-500, min(500, controller.skew_ms))
            for replica in controller.replicas:
                if replica.paused:
                    replica.resume()
                if not replica.alive:
                    replica.restart()
            controller.elect()
            controller.dial_soon()

    def _link(self) -> int:
        """Mostly a link between writers of one domain."""
        if self._world.happens(0.7):
            controller: Controller = self._world.chance.choice(self._fleet.contested)
            path = self._fleet.network.path(controller.number, 0)
            return self._world.chance.choice(path)
        return self._world.between(1, len(self._fleet.controllers) - 1)

    def _cut(self) -> None:
        child = self._link()
        cut = self._fleet.network.cut(child, silently=self._world.happens(0.3))
        self._fleet.history.figures.cuts += cut
        self._world.trace(f"the link of c{child} is cut")

    def _partition(self) -> None:
        world = self._world
        child = self._link()
        directions = world.chance.choice(([UP, DOWN], [UP, DOWN], [UP], [DOWN]))
        self._fleet.network.block(child, directions)
        self._fleet.history.figures.cuts += 1
        world.trace(f"the link of c{child} is partitioned, directions {directions}")
        if world.happens(0.7):
            self._fleet.network.cut(child, silently=world.happens(0.3))
        world.after(world.between(300, 3500), self._fleet.network.clear, child)

    def _crash(self) -> None:
        replica = self._any_master()
        if replica is None:
            return
        self._fleet.history.figures.crashes += 1
        replica.crash()
        controller = replica.controller
        self._world.after(LEASE_MS, controller.elect)
        self._world.after(self._world.between(50, 1500), self._come_back, replica)

    def _come_back(self, replica: Replica) -> None:
        if not replica.alive:
            replica.restart()
            replica.controller.elect()

    def _pause(self) -> None:
        replica = self._any_master()
        if replica is None or replica.paused:
            return
        replica.pause()
        self._world.after(LEASE_MS, replica.controller.elect)
        self._world.after(self._world.between(50, 1500), self._wake, replica)

    def _wake(self, replica: Replica) -> None:
        if replica.paused:
            replica.resume()

    def _any_master(self) -> Replica | None:
        return self._world.chance.choice(self._fleet.controllers).master

    def _bend_clock(self) -> None:
        world = self._world
        controller: Controller = world.chance.choice(self._fleet.controllers)
        how = world.chance.random()
        if how < 0.3:
            controller.skew_ms += world.between(-3000, 3000)
        elif how < 0.6:
            controller.frozen_at_ms = controller.wall_ms()
            world.after(world.between(100, 2000), self._thaw, controller)
        else:
            controller.skew_ms += FAR_FUTURE_MS
            world.after(world.between(100, 2000), self._set_right, controller)
        world.trace(f"the clock of {controller.name} shows {controller.wall_ms()}")

    def _thaw(self, controller: Controller) -> None:
        controller.frozen_at_ms = None

    def _set_right(self, controller: Controller) -> None:
        controller.skew_ms = self._world.between(-300, 300)
