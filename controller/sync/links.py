"""The sync sessions that stand, and what goes over them beside events: acknowledgements for the levels below, and by
way of `forwards` and `large_values` writes and chunks. Owns the registry of sessions; decides nothing about a write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.replica import Replica
from controller.sync.driver import SessionDriver
from controller.sync.forwards import Forwards, Local
from controller.sync.large_values import LargeValues
from controller.values import ValueStore
from controller.writes import Caller
from federation.backlog import SyncDebt
from federation.identifiers import StreamId
from federation.session import Session
from federation.session_phases import Phase
from federation.session_settings import PeerRole
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2

_log = logging.getLogger(__name__)

#: An operator's sync tries again after this when the parent could not be reached: often enough for a person who waits.
ASK_AGAIN_S = 2.0

#: How often an operator who waits for a sync is told how it goes.
PROGRESS_S = 0.1

#: A peer that changes over to a new certificate keeps two sessions for so long at most: as long as a write may take.
CHANGE_OVER_S = 10.0

#: How long nothing may come on the earlier one before it is ended: some round trips of a slow link.
QUIET_S = 1.0


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer as operators see it; times in milliseconds since the epoch, None: never or not known."""

    controller: str
    domain: str
    role: PeerRole
    phase: Phase
    address: str
    last_seen_ms: int | None
    debt: SyncDebt | None
    skew_ms: int | None
    last_error: str
    next_attempt_ms: int | None
    last_level_ms: int | None


@dataclass(frozen=True, slots=True)
class _Past:
    last_seen_ms: int | None = None
    last_error: str = ""
    last_level_ms: int | None = None
    next_attempt_ms: int | None = None


class Links:
    """All sessions of one replica: at most one to the parent, at most one to each child."""

    def __init__(self) -> None:
        self.parent: SessionDriver | None = None
        self.children: dict[str, SessionDriver] = {}
        self._replica: Replica | None = None
        self._values: LargeValues | None = None
        self._forwards: Forwards | None = None
        self._past: dict[str, _Past] = {}
        #: By peer, the last session that exchanged events: it knows what the peer acknowledged, also when it is over.
        self._exchanged: dict[str, Session] = {}
        #: By peer, when such a session was last heard before it ended, in monotonic seconds.
        self._heard_s: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Asks the dialer for a session now; set by the dialer.
        self.dial_now: Callable[[], None] = lambda: None

    def attach(self, replica: Replica, values: ValueStore, local: Local) -> None:
        """Completes the wiring: links are a part of the replica's write path, and use it themselves."""
        self._replica = replica
        self._values = LargeValues(replica, values)
        self._forwards = Forwards(replica, local, self._next_hop)

    # Sessions.

    def opened(self, driver: SessionDriver, role: PeerRole) -> None:
        """A session begins. One that stands with the parent is used until the new one exchanges events."""
        stands = self.parent is not None and self.parent.session.phase is Phase.SYNCING
        if role is PeerRole.PARENT and not stands:
            self.parent = driver

    def ended(
        self, driver: SessionDriver, message: str, next_attempt_ms: int | None = None
    ) -> None:
        """A session is over; writes that wait on it have an unknown outcome."""
        if self.parent is driver:
            self.parent = None
        for controller, held in list(self.children.items()):
            if held is driver:
                del self.children[controller]
        peer = driver.session.peer
        if self._exchanged.get(peer) is driver.session and driver.heard_s is not None:
            self._heard_s[peer] = driver.heard_s
        if peer:
            earlier = self._past.get(peer, _Past())
            self._past[peer] = _Past(
                driver.last_seen_ms or earlier.last_seen_ms,
                message,
                driver.last_level_wall_ms or earlier.last_level_ms,
                next_attempt_ms,
            )
        if self._values is not None:
            self._values.ended(driver)
        if self._forwards is not None:
            self._forwards.ended(driver)

    def attempt_failed(self, controller: str, message: str, next_attempt_ms: int) -> None:
        """The parent could not be reached."""
        earlier = self._past.get(controller, _Past())
        self._past[controller] = _Past(
            earlier.last_seen_ms, message, earlier.last_level_ms, next_attempt_ms
        )

    # What sessions tell (driver.Observer).

    def live(self, driver: SessionDriver) -> None:
        """A session exchanges events: register a child, and tell it what is durable above."""
        replica = self._required_replica()
        self._exchanged[driver.session.peer] = driver.session
        self._required_values().live(driver, of_child=_is_child(driver))
        if not _is_child(driver):
            self.parent = driver
            return
        earlier = self.children.get(driver.session.peer)
        if earlier is not None and earlier is not driver:
            self._replace(earlier, driver)
        self.children[driver.session.peer] = driver
        for domain, positions in replica.durability.vectors().items():
            driver.durable_above(domain, positions)

    def _replace(self, earlier: SessionDriver, driver: SessionDriver) -> None:
        """Ends a child's earlier session: at once, unless the child changed over to a new certificate. Then it ends the
        other itself, when nothing is under way there any more.
        """
        reason, message = sync_pb2.GOODBYE_REASON_REPLACED, "a newer session of this peer took over"
        if earlier.certificate == driver.certificate:
            earlier.close(reason, message)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(CHANGE_OVER_S, earlier.close, reason, message)

    async def changed_over(self, driver: SessionDriver) -> None:
        """Returns when a session that another took the place of is not used any more, or CHANGE_OVER_S have passed."""
        for _ in range(int(CHANGE_OVER_S / QUIET_S)):
            # What the other side sent before it learned of the new session may still be on its way.
            await asyncio.sleep(QUIET_S)
            if not self._required_forwards().is_busy(driver):
                return

    def acknowledged(
        self, driver: SessionDriver, domain: str, positions: Mapping[StreamId, int]
    ) -> None:
        """Takes in an acknowledgement from above and passes it down."""
        if driver is not self.parent:
            return
        self._spawn(self._take_acknowledgement(domain, positions))

    async def _take_acknowledgement(self, domain: str, positions: Mapping[StreamId, int]) -> None:
        """A child that comes meanwhile is told all that is known (`live`), so that none is left out."""
        await self._required_replica().durability.advance(domain, positions)
        for child in list(self.children.values()):
            child.durable_above(domain, positions)

    def passed(self, driver: SessionDriver, frame: sync_pb2.Frame) -> None:
        """Handles frames that are no part of syncing."""
        kind = frame.WhichOneof("kind")
        if kind == "forward":
            of_child = _is_child(driver)
            self._spawn(self._required_forwards().serve(driver, frame.forward, of_child=of_child))
        elif kind == "forward_reply":
            self._required_forwards().answered(driver, frame.forward_reply)
        elif kind == "want_chunks":
            self._required_values().take_want(driver, frame.want_chunks, of_child=_is_child(driver))
        elif kind == "chunk":
            self._required_values().take_chunk(driver, frame.chunk)

    def arriving(self, driver: SessionDriver, runs: Sequence[event_pb2.Run]) -> None:
        """Sees to it that large values which observations name come here too."""
        self._required_values().arriving(driver, runs)

    # Views.

    def syncing(self) -> dict[str, SessionDriver]:
        """The sessions that exchange events now, by the controller at the other end."""
        drivers = [*self.children.values(), *([self.parent] if self.parent is not None else [])]
        return {d.session.peer: d for d in drivers if d.session.phase is Phase.SYNCING}

    def heard_s(self, controller: str) -> float | None:
        """When a peer was last heard in a session that exchanges or exchanged events, in monotonic seconds; None: never
        by this process.
        """
        driver = self.syncing().get(controller)
        return driver.heard_s if driver is not None else self._heard_s.get(controller)

    def acknowledged_by(self, controller: str) -> Mapping[StreamId, int]:
        """How far a peer acknowledged streams in its last session with this process; empty where there was none."""
        exchanged = self._exchanged.get(controller)
        return exchanged.acked if exchanged is not None else {}

    def peers(self) -> list[PeerView]:
        """The parent, then the children by id."""
        replica = self._required_replica()
        config = replica.config
        views = []
        if config.parent is not None:
            views.append(
                self._view(
                    config.parent.controller,
                    "",
                    PeerRole.PARENT,
                    self.parent,
                    ",".join(config.parent.addresses),
                )
            )
        configured = {child.controller: child.domain for child in config.children}
        for controller in sorted(configured.keys() | self.children.keys()):
            driver = self.children.get(controller)
            domain = configured.get(controller) or (driver.session.peer_domain if driver else "")
            views.append(self._view(controller, domain, PeerRole.CHILD, driver, ""))
        return views

    async def sync_now(self, timeout_s: float) -> AsyncGenerator[PeerView, None]:
        """Opens a session with the parent in every mode, and tells how it goes until both sides are level or the
        time is over.
        """
        replica = self._required_replica()
        if replica.config.parent is None:
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        start_level = self._level_ms(replica.config.parent.controller)
        ask_at = loop.time()
        while (now := loop.time()) < end:
            if self.parent is None and now >= ask_at:
                ask_at = now + ASK_AGAIN_S
                self.dial_now()
            view = self.peers()[0]
            yield view
            driver = self.parent
            if driver is not None and driver.session.is_level and driver.session.peer_level:
                return
            if driver is None and self._level_ms(view.controller) != start_level:
                return
            await asyncio.sleep(PROGRESS_S)

    def _level_ms(self, controller: str) -> int | None:
        return self._past.get(controller, _Past()).last_level_ms

    def _view(
        self,
        controller: str,
        domain: str,
        role: PeerRole,
        driver: SessionDriver | None,
        address: str,
    ) -> PeerView:
        past = self._past.get(controller, _Past())
        exchanged = self._exchanged.get(controller)
        debt = exchanged.debt(time.time_ns() // 1_000_000) if exchanged is not None else None
        if driver is None:
            return PeerView(
                controller,
                domain,
                role,
                Phase.CLOSED,
                address,
                past.last_seen_ms,
                debt,
                None,
                past.last_error,
                past.next_attempt_ms,
                past.last_level_ms,
            )
        session = driver.session
        return PeerView(
            controller,
            session.peer_domain or domain,
            role,
            session.phase,
            driver.address,
            driver.last_seen_ms or past.last_seen_ms,
            debt,
            session.skew_ms,
            past.last_error,
            None,
            driver.last_level_wall_ms or past.last_level_ms,
        )

    # Forwarding (writes.Forwarder).

    def link_up(self, controller: str) -> bool:
        """Tells whether the next hop towards a controller has a session now."""
        return self._next_hop(controller) is not None

    def last_heard_ms(self, controller: str) -> int | None:
        """When the next hop towards a controller was last heard, since the epoch; None: never by this process."""
        driver = self._next_hop(controller)
        if driver is not None:
            return driver.last_seen_ms or None
        table = self._required_replica().state.authority
        domain = table.domain_served_by(controller)
        heard = [
            past.last_seen_ms
            for peer, past in self._past.items()
            if past.last_seen_ms is not None and self._leads_to(peer, domain)
        ]
        return max(heard, default=None)

    async def forward(self, controller: str, method: str, request: bytes, caller: Caller) -> bytes:
        """Has a write made by another controller (`Forwards.forward`)."""
        return await self._required_forwards().forward(controller, method, request, caller)

    def _next_hop(self, controller: str) -> SessionDriver | None:
        replica = self._required_replica()
        table = replica.state.authority
        own = replica.config.controller.domain
        domain = table.domain_served_by(controller)
        if domain is None:
            return None
        if not table.is_within(domain, own):
            driver = self.parent
        else:
            driver = next(
                (
                    d
                    for d in self.children.values()
                    if table.is_within(domain, d.session.peer_domain)
                ),
                None,
            )
        return driver if driver is not None and driver.session.phase is Phase.SYNCING else None

    def _leads_to(self, peer: str, domain: str | None) -> bool:
        """Tells whether what goes to a domain goes by way of a peer."""
        replica = self._required_replica()
        table = replica.state.authority
        if domain is None:
            return False
        if not table.is_within(domain, replica.config.controller.domain):
            parent = replica.config.parent
            return parent is not None and peer == parent.controller
        served = table.domain_served_by(peer)
        return served is not None and table.is_within(domain, served)

    def _required_replica(self) -> Replica:
        if self._replica is None:
            raise RuntimeError("links are not attached")
        return self._replica

    def _required_forwards(self) -> Forwards:
        if self._forwards is None:
            raise RuntimeError("links are not attached")
        return self._forwards

    def _required_values(self) -> LargeValues:
        if self._values is None:
            raise RuntimeError("links are not attached")
        return self._values

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_child(driver: SessionDriver) -> bool:
    return driver.session.peer_role is PeerRole.CHILD
