"""The return of one node behind its lock: its turn, the staged backlog, the verdict, and then its effects or its
isolation. Owns the order of these; what is wrong with a backlog is the staging's to say.
"""

from __future__ import annotations

import asyncio
import logging
import time

from controller.journal import Journal
from controller.nodelink.evidence import evidence_of
from controller.nodelink.incidents import Incident, standing_incident
from controller.nodelink.link import End, Link
from controller.nodelink.reception import BUSY_RETRY_S, Reception
from controller.nodelink.replays import Replay
from controller.nodelink.reports import ReportIntake
from controller.nodelink.session import SessionState, Step
from controller.nodelink.staging import MAX_BYTES, MAX_REPORTS, Staging, Violation
from controller.twin.drift import DriftAnalyzer
from controller.twin.node import find_node
from souverix.fleet.v1 import return_pb2
from souverix.nodelink.v1 import nodelink_pb2

_log = logging.getLogger(__name__)

Response = nodelink_pb2.ConnectResponse

#: How long a node may be silent about its backlog in its turn: others wait for the place.
STALLED_AFTER_S = 30.0


class Return:
    """One node's return over one link, whose session it moves."""

    def __init__(
        self,
        desk: Reception,
        link: Link,
        intake: ReportIntake,
        journal: Journal,
        peer: str,
        public_key: bytes,
    ) -> None:
        self._desk = desk
        self._link = link
        self._intake = intake
        self._journal = journal
        self._peer = peer
        self._public_key = public_key
        self._staging: Staging | None = None
        self._verdict: asyncio.Future[int | Violation] | None = None
        self._heard_s = 0.0
        self._is_resumed = False
        #: Of a chunk that was refused.
        self._evidence: return_pb2.BacklogEvidence | None = None
        self._replay: Replay | None = None
        if link.session.state is SessionState.ADMITTED:
            self._replay = desk.replays.begin(
                link.node, link.domain, link.backlog_reports, time.monotonic()
            )

    async def run(self) -> None:
        """Brings the node back, if it is locked; then waits to be cancelled."""
        while self._link.session.state is SessionState.ADMITTED:
            async with self._desk.turns:
                await self._take_turn()
        if self._link.session.state is SessionState.LIVE:
            await self._resolve()
        await asyncio.Event().wait()

    def take(self, chunk: nodelink_pb2.ReplayChunk) -> None:
        """A chunk of the backlog came."""
        staging, verdict = self._staging, self._verdict
        if staging is None or verdict is None or verdict.done():
            return
        self._heard_s = time.monotonic()
        if chunk.number == 1 and self._is_resumed:
            # The agent does not have what was staged before the cut: it begins anew. Nothing of it took effect.
            staging = self._staging = Staging(staging.node, staging.source, staging.first)
        self._is_resumed = False
        before = staging.staged
        try:
            if staging.take(chunk):
                self._move(Step.CHUNK_STAGED)
                self._note_staged(staging)
            if chunk.signature:
                staging.check_end(chunk, self._link.session.token, self._is_signed)
                verdict.set_result(chunk.remaining_reports)
        except Violation as violation:
            self._evidence = evidence_of(before, chunk, self._public_key, self._link.run)
            verdict.set_result(violation)

    def durable(self, reports: int) -> None:
        """Reports of the node are in effect."""
        if self._replay is not None and self._replay.ended_s is None:
            self._replay.applied += reports
            self._desk.replays.changed(self._replay)

    def lost(self) -> None:
        """The link is gone: what is staged is kept for the next one."""
        if self._staging is not None:
            self._desk.parked.park(self._staging, time.monotonic())
            self._staging = None
        if self._replay is not None:
            self._desk.replays.move(self._replay, SessionState.ENDED, time.monotonic())

    async def _take_turn(self) -> None:
        link, desk = self._link, self._desk
        self._heard_s = time.monotonic()
        staging = desk.parked.resume(
            link.node, link.source, self._intake.highest + 1, self._heard_s
        )
        self._staging = staging
        self._is_resumed = staging.next_chunk > 1
        self._verdict = asyncio.get_running_loop().create_future()
        self._note_turn(staging)
        self._move(Step.TURN_CAME)
        turn = nodelink_pb2.ReplayTurn(
            first_sequence=staging.first,
            staged_sequence=staging.last,
            staged_hash=staging.head,
            next_chunk=staging.next_chunk,
            max_reports=MAX_REPORTS,
            max_bytes=MAX_BYTES,
        )
        link.send(Response(replay_turn=turn))
        verdict = await self._heard_out(self._verdict)
        if isinstance(verdict, Violation):
            await self._isolate(verdict)
        elif verdict is not None:
            self._move(Step.END_VERIFIED)
            self._staging = None
            await self._intake.replay(staging.reports)
            if verdict:
                self._move(Step.MORE_WAITS)
            else:
                self._release()

    async def _heard_out(self, verdict: asyncio.Future[int | Violation]) -> int | Violation | None:
        """How the replay ends: with so many reports left, or in a violation; None when the node fell silent over it."""
        while not verdict.done():
            left_s = self._heard_s + STALLED_AFTER_S - time.monotonic()
            if left_s <= 0:
                message = f"nothing of the backlog came for {STALLED_AFTER_S:g} s"
                self._link.end(
                    nodelink_pb2.LINK_END_UNSPECIFIED,
                    message,
                    End("replay_stalled", message),
                    BUSY_RETRY_S,
                )
                return None
            await asyncio.wait({verdict}, timeout=left_s)
        return verdict.result()

    def _release(self) -> None:
        """The lock is off."""
        link, desk, replay = self._link, self._desk, self._replay
        if replay is not None:
            replay.drift_objects = self._drift_objects()
        self._move(Step.IN_EFFECT)
        desk.connectivity.reconciled(link)
        link.send(Response(lock_released=nodelink_pb2.LockReleased()))
        desk.dispatcher.link_opened(link)
        desk.attesting.link_opened(link)
        _log.info(
            "a node has returned",
            extra={"node": link.node, "reports": replay.applied if replay is not None else 0},
        )

    async def _isolate(self, violation: Violation) -> None:
        link = self._link
        self._staging = None
        incident = Incident(
            link.domain,
            link.node,
            return_pb2.INCIDENT_KIND_BACKLOG_REFUSED,
            violation.evidence,
            self._peer,
            violation.reason,
            relay=link.relay,
            certificate=link.vouched.fingerprint if link.vouched is not None else "",
            backlog=self._evidence,
        )
        # The agent may hang up now: what it tried is recorded all the same.
        await asyncio.shield(
            self._desk.keep(self._desk.incidents.refuse_backlog(self._journal, incident))
        )
        if self._replay is not None:
            self._replay.reason = violation.reason
        self._move(Step.VIOLATION)
        isolated = nodelink_pb2.Isolated(reason=violation.reason, message=violation.evidence)
        link.send(Response(isolated=isolated))
        self._desk.dispatcher.link_opened(link)
        self._desk.attesting.link_opened(link)
        _log.warning("a backlog was refused", extra={"node": link.node, "cause": str(violation)})

    async def _resolve(self) -> None:
        """Notes that the node returned in order, if something was wrong before."""
        link = self._link
        if standing_incident(self._desk.replica.state, link.domain, link.node) is not None:
            await self._desk.incidents.resolve(self._journal, link.domain, link.node)

    def _drift_objects(self) -> int | None:
        """Desired against actual, now that all reports are in effect; None where it cannot be told."""
        state = self._desk.replica.state
        at = find_node(state, f"nodes/{self._link.node}")
        if at is None:
            return None
        drift = DriftAnalyzer(state, time.time_ns() // 1_000_000).drift_of(at)
        return len(drift.objects) if not drift.unknown else None

    def _is_signed(self, message: bytes, signature: bytes) -> bool:
        return self._desk.verifier.verify(self._public_key, message, signature)

    def _move(self, step: Step) -> None:
        if self._link.session.move(step) and self._replay is not None:
            self._desk.replays.move(self._replay, self._link.session.state, time.monotonic())

    def _note_turn(self, staging: Staging) -> None:
        self._desk.connectivity.turn_came(self._link)
        if self._replay is None:
            return
        if self._replay.turn_s is None:
            self._replay.turn_s = self._heard_s
            self._replay.resumed = len(staging.reports)
        self._note_staged(staging)

    def _note_staged(self, staging: Staging) -> None:
        if self._replay is None:
            return
        self._replay.staged = self._replay.applied + len(staging.reports)
        self._desk.replays.changed(self._replay)
        self._desk.connectivity.staged(self._link, self._replay.staged)
