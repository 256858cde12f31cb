"""Links between children and parents. Owns delay, order, cuts and one-way partitions of connections; knows nothing of
what is sent.

A connection keeps the order of its frames, as HTTP/2 over TCP does. When it is cut, each direction loses what is in
flight beyond a point of its own, and each end hears of it at a time of its own: until then it goes on sending into
nothing, and frames of the old connection arrive beside those of the new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.simulation.world import World

#: Direction of frames.
UP, DOWN = 0, 1

#: Longest time in which frames in flight at a cut still arrive.
LATE_MS = 150

#: Longest time until an end hears of a cut, when it hears of it at all.
NOTICE_MS = 400


class End(Protocol):
    """What one end of a connection does with what comes."""

    def arrive(self, frames: Sequence[bytes]) -> None:
        """Frames came, in order."""

    def lost(self) -> None:
        """The connection is gone."""


@dataclass(slots=True)
class Link:
    """The way between one child and its parent. Both directions may be blocked apart."""

    child: int
    delay_ms: int
    jitter_ms: int
    blocked: list[bool] = field(default_factory=lambda: [False, False])
    connections: list[Connection] = field(default_factory=list)

    @property
    def is_clear(self) -> bool:
        """Tells whether frames pass both ways."""
        return not (self.blocked[UP] or self.blocked[DOWN])


class Connection:
    """One connection over a link."""

    def __init__(self, world: World, link: Link) -> None:
        self.world = world
        self.link = link
        self.ends: list[End] = []
        self.is_cut = False
        self._last_ms = [0, 0]
        self._dead_after_ms: list[float] = [float("inf"), float("inf")]
        self._stuck: tuple[list[Sequence[bytes]], list[Sequence[bytes]]] = ([], [])
        link.connections.append(self)

    def send(self, direction: int, frames: Sequence[bytes]) -> None:
        """Sends frames; they arrive later, after all sent before, or never."""
        if self.is_cut:
            return
        if self.link.blocked[direction] or self._stuck[direction]:
            self._stuck[direction].append(frames)
            return
        self._schedule(direction, frames)

    def unblock(self, direction: int) -> None:
        """Lets pass what waited for a partition to end."""
        waiting = self._stuck[direction]
        if not self.is_cut:
            for frames in waiting:
                self._schedule(direction, frames)
        waiting.clear()

    def cut(self, *, silently: bool = False) -> None:
        """Cuts the connection; silently: the ends find out by themselves."""
        if self.is_cut:
            return
        self.is_cut = True
        self.link.connections.remove(self)
        world = self.world
        for direction in (UP, DOWN):
            self._dead_after_ms[direction] = world.now_ms + world.between(0, LATE_MS)
        if not silently:
            for end in self.ends:
                world.after(world.between(0, NOTICE_MS), end.lost)

    def _schedule(self, direction: int, frames: Sequence[bytes]) -> None:
        world = self.world
        link = self.link
        arrival = world.now_ms + link.delay_ms + world.between(0, link.jitter_ms)
        arrival = self._last_ms[direction] = max(arrival, self._last_ms[direction])
        world.after(arrival - world.now_ms, self._deliver, direction, frames)

    def _deliver(self, direction: int, frames: Sequence[bytes]) -> None:
        if self.world.now_ms <= self._dead_after_ms[direction]:
            self.ends[1 - direction].arrive(frames)


class Network:
    """All links, by the child's number."""

    def __init__(self, world: World, links: dict[int, Link], parents: Sequence[int]) -> None:
        self.links = links
        self._world = world
        self._parents = parents

    def block(self, child: int, directions: Sequence[int]) -> None:
        """Begins a partition of one link."""
        for direction in directions:
            self.links[child].blocked[direction] = True

    def clear(self, child: int) -> None:
        """Ends a partition."""
        link = self.links[child]
        for direction in (UP, DOWN):
            if link.blocked[direction]:
                link.blocked[direction] = False
                for connection in list(link.connections):
                    connection.unblock(direction)

    def cut(self, child: int, *, silently: bool) -> int:
        """Cuts the connections of a link; returns how many."""
        connections = list(self.links[child].connections)
        for connection in connections:
            connection.cut(silently=silently)
        return len(connections)

    def path(self, source: int, target: int) -> list[int]:
        """Links between two controllers, by the child's number."""
        above_source, above_target = self._above(source), self._above(target)
        common = set(above_source) & set(above_target)
        return [c for c in above_source if c not in common] + [
            c for c in reversed(above_target) if c not in common
        ]

    def call(
        self,
        source: int,
        target: int,
        is_live: Callable[[int], bool],
        arrive: Callable[[], None],
    ) -> None:
        """Passes a forwarded call or its reply along the sessions of the tree; it is lost where one is down, at the
        start or at the end.
        """
        path = self.path(source, target)

        def land() -> None:
            if all(is_live(child) for child in path):
                arrive()

        if all(is_live(child) for child in path):
            delay = sum(self.links[child].delay_ms for child in path)
            self._world.after(delay + self._world.between(0, 10), land)

    def _above(self, controller: int) -> list[int]:
        found = []
        while controller > 0:
            found.append(controller)
            controller = self._parents[controller]
        return found
