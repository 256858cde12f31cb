"""Takes the sync sessions of children (SyncService). Owns the server side of the stream; the session is the core's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc

from controller.bearer import current_bearer
from controller.journal import JournalClosed
from controller.replica import Replica
from controller.standing import BearerRefused
from controller.sync.driver import FAREWELL_S, SessionDriver
from controller.sync.links import Links
from controller.tasks import end
from federation.session import Session
from federation.session_settings import PeerRole, Settings
from souverix.sync.v1 import sync_pb2, sync_pb2_grpc
from trust.identity import Kind

#: Children that may replay a backlog at once: each fills a CPU with verification; the others are told when to return.
MAX_REPLAYS = 4

#: A backlog below this is no replay: it is done before the next heartbeat.
REPLAY_EVENTS = 10_000

#: Spread of the times at which children are told to return, so that they do not return together.
RETRY_AFTER_MS = (2_000, 10_000)

#: Sessions at once, children of one controller and their late predecessors; beyond it the dialler is told to return.
MAX_SESSIONS = 1024


class ReplayAdmission:
    """Bounds how many children replay a backlog at once (federation.session.Admission). One a session; a child's newer
    session takes over the place of an earlier one, whose end then frees nothing.
    """

    def __init__(self, replaying: dict[str, ReplayAdmission]) -> None:
        self._replaying = replaying

    def try_admit(self, controller: str, backlog_events: int) -> int | None:
        """None: go on. A number: milliseconds after which to try again."""
        if backlog_events < REPLAY_EVENTS:
            return None
        if controller not in self._replaying and len(self._replaying) >= MAX_REPLAYS:
            return random.randint(*RETRY_AFTER_MS)  # noqa: S311 jitter
        self._replaying[controller] = self
        return None

    def replayed(self, controller: str) -> None:
        """The child is level, or this session is over."""
        if self._replaying.get(controller) is self:
            del self._replaying[controller]


class SyncService(sync_pb2_grpc.SyncServiceServicer):
    """The dialled side of sync."""

    def __init__(self, replica: Replica, links: Links) -> None:
        self._replica = replica
        self._links = links
        self._replaying: dict[str, ReplayAdmission] = {}
        self._drivers: set[SessionDriver] = set()

    async def Connect(  # noqa: N802 the contract's name
        self,
        request_iterator: AsyncIterator[sync_pb2.ConnectRequest],
        context: Any,
    ) -> AsyncIterator[sync_pb2.ConnectResponse]:
        """One session with a child."""
        try:
            journal = self._replica.journal()
        except JournalClosed as error:
            yield _goodbye(sync_pb2.GOODBYE_REASON_NOT_MASTER, str(error))
            return
        if len(self._drivers) >= MAX_SESSIONS:
            yield _goodbye(
                sync_pb2.GOODBYE_REASON_BUSY,
                f"{MAX_SESSIONS} sessions stand already",
                random.randint(*RETRY_AFTER_MS),  # noqa: S311 jitter
            )
            return
        admission = ReplayAdmission(self._replaying)
        config = self._replica.config
        session = Session(
            self._replica.state,
            Settings(
                controller=config.controller.id,
                replica=config.controller.replica,
                domain=config.controller.domain,
                incarnation=self._replica.incarnation,
                keeps_values=True,
                peer_role=PeerRole.CHILD,
                peers=self._possible_peers(),
                admission=admission,
            ),
        )
        bearer = current_bearer()
        driver = SessionDriver(
            self._replica,
            journal,
            session,
            self._links,
            context.peer(),
            bearer.fingerprint if bearer else "",
        )
        self._drivers.add(driver)
        self._links.opened(driver, PeerRole.CHILD)
        frames = (request.frame async for request in request_iterator)
        running = asyncio.create_task(self._run(driver, frames, admission))
        loop, call = asyncio.get_running_loop(), asyncio.current_task()

        def lost(_: Any) -> None:
            # A call that is lost while a frame is being sent leaves this generator where it yielded, unclosed.
            running.cancel()

        def over(_: asyncio.Task[None]) -> None:
            # A peer that reads no more would hold the call open for as long as it stays connected.
            if call is not None:
                loop.call_later(FAREWELL_S, call.cancel)

        context.add_done_callback(lost)
        running.add_done_callback(over)
        try:
            while (frame := await driver.outgoing.get()) is not None:
                yield sync_pb2.ConnectResponse(frame=frame)
        finally:
            await end(running)

    def _possible_peers(self) -> dict[str, str]:
        """The children that may be at the other end: by TLS the one that the certificate names, and nobody else."""
        children = {child.controller: child.domain for child in self._replica.config.children}
        bearer = current_bearer()
        if bearer is None:
            return children
        named = bearer.identity
        if named.kind is not Kind.CONTROLLER or children.get(named.name) != named.domain:
            raise BearerRefused(
                grpc.StatusCode.PERMISSION_DENIED,
                "IDENTITY_MISMATCH",
                f"{named.principal} of domain {named.domain} is no child of {self._replica.config.controller.id}",
            )
        return {named.name: named.domain}

    async def _run(
        self,
        driver: SessionDriver,
        frames: AsyncIterator[sync_pb2.Frame],
        admission: ReplayAdmission,
    ) -> None:
        """The session, and the end of all that is kept for it."""
        try:
            await driver.run(frames)
        finally:
            self._drivers.discard(driver)
            admission.replayed(driver.session.peer)
            message = driver.closed.message if driver.closed else "the connection was lost"
            self._links.ended(driver, message)

    async def end_sessions(self, reason: int, message: str) -> None:
        """Tells every child to go, because this replica stops or is no longer the master."""
        for driver in list(self._drivers):
            driver.close(reason, message)


def _goodbye(reason: int, message: str, retry_after_ms: int = 0) -> sync_pb2.ConnectResponse:
    goodbye = sync_pb2.Goodbye(
        reason=reason,  # type: ignore[arg-type]
        message=message,
        retry_after_ms=retry_after_ms,
    )
    return sync_pb2.ConnectResponse(frame=sync_pb2.Frame(goodbye=goodbye))
