"""Keeps the link to the parent, in the mode the sync strategy says. Owns when to dial and whom: a master's duty."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc

from controller.config import ParentSection
from controller.journal import Journal
from controller.replica import Replica
from controller.sync.driver import SessionDriver
from controller.sync.links import Links
from controller.tasks import end
from federation.backoff import Backoff
from federation.session import Session
from federation.session_effects import Close
from federation.session_phases import Phase
from federation.session_settings import HEARTBEAT_MS, PeerRole, Settings
from federation.state import Applied
from souverix.federation.v1 import authority_pb2
from souverix.sync.v1 import sync_pb2, sync_pb2_grpc
from trust.channels import ClientTls, open_channel
from trust.files import Credentials

_log = logging.getLogger(__name__)

#: Interval of periodic and opportunistic sessions unless the strategy says otherwise (seed 4: 15m).
DEFAULT_FREQUENCY_S = 900.0

#: A session that lasted longer was sound: what ended it begins a new series of attempts.
STEADY_S = 10.0

#: How often an opportunistic link looks whether the parent can be reached.
PROBE_S = 15.0

#: Messages on the link: one frame of joined runs and its envelope, with room.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

#: For a session with a renewed certificate to exchange events; also the pause before another is tried.
CHANGE_OVER_TIMEOUT_S = 15.0

CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

_MODES = {
    "continuous": authority_pb2.SYNC_MODE_CONTINUOUS,
    "periodic": authority_pb2.SYNC_MODE_PERIODIC,
    "opportunistic": authority_pb2.SYNC_MODE_OPPORTUNISTIC,
    "manual": authority_pb2.SYNC_MODE_MANUAL,
}


@dataclass(frozen=True, slots=True)
class Strategy:
    """When sessions are open."""

    mode: int
    frequency_s: float
    batch_events: int

    @property
    def keep_open(self) -> bool:
        """Tells whether a session stays when both sides are level."""
        return self.mode == authority_pb2.SYNC_MODE_CONTINUOUS


def strategy_of(replica: Replica) -> Strategy:
    """The strategy in force: the replica's own configuration, else its domain's authority record."""
    section = replica.config.sync
    if section is not None:
        frequency_s = section.frequency_s or DEFAULT_FREQUENCY_S
        return Strategy(_MODES[section.mode], frequency_s, section.batch_size)
    record = replica.state.authority.records.get(replica.config.controller.domain)
    if record is None or not record.sync.mode:
        return Strategy(authority_pb2.SYNC_MODE_CONTINUOUS, DEFAULT_FREQUENCY_S, 0)
    sync = record.sync
    frequency_s = (
        sync.frequency.ToTimedelta().total_seconds() if sync.HasField("frequency") else 0.0
    )
    return Strategy(sync.mode, frequency_s or DEFAULT_FREQUENCY_S, sync.batch_size)


class Dialer:
    """Dials the parent's addresses in turn."""

    def __init__(self, replica: Replica, links: Links, parent: ParentSection) -> None:
        self._replica = replica
        self._links = links
        self._parent = parent
        self._backoff = Backoff()
        self._now = asyncio.Event()
        self._address_at = 0
        links.dial_now = self._now.set
        #: Set when the certificate in use is not the newest.
        self._renewed = asyncio.Event()
        if replica.credentials is not None:
            replica.credentials.on_renewal.append(self._renewed.set)

    async def run(self, journal: Journal) -> None:
        """Keeps the link while this replica is master; ends by cancellation."""
        attempt = 0
        while True:
            strategy = strategy_of(self._replica)
            if strategy.mode == authority_pb2.SYNC_MODE_MANUAL:
                await self._now.wait()
            self._now.clear()
            end = await self._one_session(journal, strategy)
            if end.reason == sync_pb2.GOODBYE_REASON_LEVEL:
                attempt = 0
                await self._pause(self._pause_after_level_s(strategy))
                continue
            if strategy_of(self._replica) != strategy:
                continue
            self._address_at += 1
            if end.lasted_s > STEADY_S:
                attempt = 0
            delay_ms = end.retry_after_ms or self._backoff.delay_ms(attempt, random.random())  # noqa: S311 jitter
            attempt += 1
            if strategy.mode in (
                authority_pb2.SYNC_MODE_OPPORTUNISTIC,
                authority_pb2.SYNC_MODE_PERIODIC,
            ):
                delay_ms = min(delay_ms, int(PROBE_S * 1000))
            self._links.attempt_failed(self._parent.controller, end.message, _now_ms() + delay_ms)
            await self._pause(delay_ms / 1000)

    async def _one_session(self, journal: Journal, strategy: Strategy) -> _End:
        """A session; after the certificate was renewed another, which takes its place before it ends."""
        current = self._begin(journal, strategy)
        try:
            while True:
                renewed = asyncio.create_task(self._renewed.wait())
                await asyncio.wait({current.task, renewed}, return_when=asyncio.FIRST_COMPLETED)
                renewed.cancel()
                if current.task.done():
                    return current.task.result()
                current = await self._change_over(current, journal, strategy)
        finally:
            await end(current.task)

    def _begin(self, journal: Journal, strategy: Strategy) -> _Attempt:
        held = self._replica.credentials
        credentials = held.current if held is not None else None
        self._renewed.clear()
        live = asyncio.Event()
        driver = self._driver(journal, strategy)
        task = asyncio.create_task(self._run_session(driver, strategy, credentials, live))
        return _Attempt(driver, credentials, live, task)

    async def _change_over(
        self, current: _Attempt, journal: Journal, strategy: Strategy
    ) -> _Attempt:
        """Makes before it breaks: the session that goes on. One that was begun in vain is begun again later."""
        successor = self._begin(journal, strategy)
        live = asyncio.create_task(successor.live.wait())
        try:
            async with asyncio.timeout(CHANGE_OVER_TIMEOUT_S):
                await asyncio.wait(
                    {live, successor.task, current.task}, return_when=asyncio.FIRST_COMPLETED
                )
        except TimeoutError:
            _log.warning("the parent does not take the renewed certificate yet")
        finally:
            live.cancel()
        if not successor.live.is_set():
            await end(successor.task)
            await asyncio.wait({current.task}, timeout=CHANGE_OVER_TIMEOUT_S)
            self._renewed.set()
            return current
        await self._links.changed_over(current.driver)
        _log.info("changed over to the renewed certificate")
        current.driver.close(sync_pb2.GOODBYE_REASON_REPLACED, "the certificate was renewed")
        await end(current.task)
        return successor

    def _driver(self, journal: Journal, strategy: Strategy) -> SessionDriver:
        address = self._parent.addresses[self._address_at % len(self._parent.addresses)]
        config = self._replica.config
        session = Session(
            self._replica.state,
            Settings(
                controller=config.controller.id,
                replica=config.controller.replica,
                domain=config.controller.domain,
                incarnation=self._replica.incarnation,
                keeps_values=True,
                peer_role=PeerRole.PARENT,
                peers={self._parent.controller: ""},
                keep_open=strategy.keep_open,
                batch_events=strategy.batch_events,
                heartbeat_ms=min(HEARTBEAT_MS, int(strategy.frequency_s * 1000)),
                backlog_events=self._backlog_events(),
            ),
        )
        return SessionDriver(self._replica, journal, session, self._links, address)

    async def _run_session(
        self,
        driver: SessionDriver,
        strategy: Strategy,
        credentials: Credentials | None,
        live: asyncio.Event,
    ) -> _End:
        address = driver.address
        # The parent's name: of the domain above the one that the own certificate is of.
        tls = None
        if credentials is not None:
            tls = ClientTls.of(credentials, credentials.controller_name(levels_up=1))

        def end_when_changed(applied: Applied) -> None:
            # The first session of a domain brings the record that says how it is to sync.
            if applied.authority_changed and strategy_of(self._replica) != strategy:
                driver.close(sync_pb2.GOODBYE_REASON_UNSPECIFIED, "the sync strategy has changed")

        self._links.opened(driver, PeerRole.PARENT)
        close = Close(sync_pb2.GOODBYE_REASON_UNSPECIFIED, "the link was given up")
        began_s = time.monotonic()
        try:
            async with open_channel(address, CHANNEL_OPTIONS, tls) as channel:
                call = sync_pb2_grpc.SyncServiceStub(channel).Connect()
                sender = asyncio.create_task(_send_frames(call, driver))
                try:
                    with self._replica.changes.listen(end_when_changed):
                        close = await driver.run(_noting(_frames(call), driver, live))
                finally:
                    await end(sender)
                    call.cancel()
        finally:
            self._links.ended(driver, close.message)
        if close.reason != sync_pb2.GOODBYE_REASON_LEVEL:
            _log.info("no link to the parent", extra={"address": address, "reason": close.message})
        return _End(close.reason, close.message, close.retry_after_ms, time.monotonic() - began_s)

    def _backlog_events(self) -> int:
        """Events of the own subtree not known to be durable at the parent: an estimate from above."""
        state, durability = self._replica.state, self._replica.durability
        own = self._replica.config.controller.domain
        path = state.authority.path_of(own)
        parent = path[-2] if path and len(path) > 1 else ""
        return sum(
            max(0, held.received - durability.reached(parent, stream))
            for stream, held in state.streams.items()
            if state.authority.is_within(stream.domain, own)
        )

    def _pause_after_level_s(self, strategy: Strategy) -> float:
        if strategy.mode == authority_pb2.SYNC_MODE_MANUAL:
            return 0.0
        return strategy.frequency_s

    async def _pause(self, pause_s: float) -> None:
        """Waits, unless an operator asks for a session."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._now.wait(), pause_s)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One session with the parent: `live` is set when it exchanges events, and its task's result is how it ended."""

    driver: SessionDriver
    credentials: Credentials | None
    live: asyncio.Event
    task: asyncio.Task[_End]


@dataclass(frozen=True, slots=True)
class _End:
    reason: int
    message: str
    retry_after_ms: int
    lasted_s: float


async def _send_frames(
    call: grpc.aio.StreamStreamCall[sync_pb2.ConnectRequest, sync_pb2.ConnectResponse],
    driver: SessionDriver,
) -> None:
    try:
        while (frame := await driver.outgoing.get()) is not None:
            await call.write(sync_pb2.ConnectRequest(frame=frame))
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return  # the reading side learns the same and ends the session


async def _frames(
    call: grpc.aio.StreamStreamCall[sync_pb2.ConnectRequest, sync_pb2.ConnectResponse],
) -> AsyncIterator[sync_pb2.Frame]:
    try:
        while True:
            response = await call.read()
            if not isinstance(response, sync_pb2.ConnectResponse):
                return
            yield response.frame
    except grpc.aio.AioRpcError as error:
        raise ConnectionError(f"{error.code().name}: {error.details()}") from error


async def _noting(
    frames: AsyncIterator[sync_pb2.Frame], driver: SessionDriver, live: asyncio.Event
) -> AsyncIterator[sync_pb2.Frame]:
    """The frames as they come; notes when the session exchanges events."""
    async for frame in frames:
        yield frame
        if driver.session.phase is Phase.SYNCING:
            live.set()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
