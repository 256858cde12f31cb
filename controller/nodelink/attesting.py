"""Has linked nodes attest: challenges them when they come, again and again, and on demand. Owns when that is done, and
that statements are judged a few at a time; what they are worth is `controller.attestation`'s to say.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import secrets
import time
from collections import deque
from typing import NamedTuple

import numpy as np

from controller.attestation.challenges import Challenge, Challenges
from controller.attestation.decision import Given, decide, open_demand_ms
from controller.attestation.policy import ASPECT, expected_in
from controller.attestation.statement import (
    DIGEST_BYTES,
    Speaker,
    StatementRefused,
    Verifier,
    read_statement,
)
from controller.attestation.states import Evidence, Integrity
from controller.command.targets import delivered_domains
from controller.journal import Journal
from controller.nodelink.attested import Refusals, draft_decision, draft_refusals
from controller.nodelink.commits import commit
from controller.nodelink.link import Link
from controller.nodelink.links import Links
from controller.replica import Replica
from controller.twin.facts import home_of
from federation.applied import Applied
from federation.proposal import Proposal
from souverix.nodelink.v1 import nodelink_pb2

_log = logging.getLogger(__name__)

#: Nodes challenged, and statements judged, before others have their turn: some ten milliseconds.
AT_ONCE = 16

#: Part of an interval by which a challenge may come early, so that nodes that came together drift apart.
JITTER = 0.1

#: Between two looks for verifications that have run out: what is shown does not wait for them.
SWEEP_S = 5.0


class _Answer(NamedTuple):
    """A statement with the challenge it answers. `source` is where its node calls from."""

    challenge: Challenge
    domain: str
    statement: nodelink_pb2.AttestationStatement
    source: str


class Attesting:
    """The attestations of one replica's links while it is master."""

    def __init__(self, replica: Replica, links: Links, verifier: Verifier) -> None:
        self._replica = replica
        self._links = links
        self._verifier = verifier
        self._challenges = Challenges()
        self._refusals = Refusals(time.monotonic())
        #: At most one a node, for each uses up its challenge.
        self._answers: deque[_Answer] = deque()
        #: When linked nodes are to be challenged, by node, and in order; an entry that is not in both is void.
        self._due_at: dict[str, float] = {}
        self._due: list[tuple[float, str]] = []
        self._wake = asyncio.Event()

    # What the links tell.

    def link_opened(self, link: Link) -> None:
        """A node can be challenged, or its lock was released; told of a locked one, it waits for that."""
        if link.session.is_unlocked:
            self._put_due(link.node, time.monotonic())

    def link_closed(self, link: Link) -> None:
        """A node cannot be challenged any more."""
        self._challenges.drop(link.node)
        self._due_at.pop(link.node, None)

    def answered(
        self, link: Link, statement: nodelink_pb2.AttestationStatement, source: str
    ) -> None:
        """A node sent a statement. One that answers no challenge of its link is not looked at."""
        nonce, now_s = statement.nonce, time.monotonic()
        try:
            challenge = self._challenges.take(link.node, link.session.token, nonce, now_s)
        except StatementRefused as refused:
            self._refuse(link.node, link.domain, refused, source)
            return
        self._answers.append(_Answer(challenge, link.domain, statement, source))
        self._wake.set()

    # Its life.

    async def run(self, journal: Journal) -> None:
        """Has nodes attest until cancelled."""
        self._challenges.clear()
        for noted in (self._answers, self._due_at, self._due):
            noted.clear()
        with self._replica.changes.listen(self._note):
            for link in self._links:
                self.link_opened(link)
            next_sweep_s = time.monotonic() + SWEEP_S
            while True:
                self._wake.clear()
                now_s = time.monotonic()
                self._challenge_due(now_s)
                given = self._silent(now_s) + self._take_answers()
                if now_s >= next_sweep_s:
                    next_sweep_s = now_s + SWEEP_S
                    given += self._run_out()
                await self._write(journal, given)
                if refusals := self._refusals.take():
                    await commit(journal, lambda p, told=refusals: draft_refusals(p, told))  # type: ignore[misc]
                # A wait for what is there already lets nobody else work.
                await asyncio.sleep(0)
                await self._wait(next_sweep_s)

    async def _wait(self, until_s: float) -> None:
        if self._answers:
            return
        if self._due and not self._challenges.is_full:
            until_s = min(until_s, self._due[0][0])
        ends_s = self._challenges.ends_s()
        if ends_s is not None:
            until_s = min(until_s, ends_s)
        try:
            async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            return

    def _note(self, applied: Applied) -> None:
        """What is expected changed somewhere, or a statement is demanded of a node."""
        everywhere = applied.authority_changed
        for key in applied.keys:
            everywhere |= key.aspect == ASPECT
            if key.aspect == "attestation_demand":
                link = self._links.get(key.subject.partition("/")[2])
                if link is not None:
                    self.link_opened(link)
        if everywhere:
            for link in self._links:
                self.link_opened(link)

    # Challenges.

    def _put_due(self, node: str, at_s: float) -> None:
        self._due_at[node] = at_s
        heapq.heappush(self._due, (at_s, node))
        self._wake.set()

    def _challenge_due(self, now_s: float) -> None:
        for _ in range(AT_ONCE):
            if not self._due or self._due[0][0] > now_s or self._challenges.is_full:
                return
            at_s, node = heapq.heappop(self._due)
            if self._due_at.get(node) != at_s:
                continue
            del self._due_at[node]
            link = self._links.get(node)
            if link is not None and link.is_open and link.session.is_unlocked:
                self._challenge(link, now_s)
        self._wake.set()

    def _challenge(self, link: Link, now_s: float) -> None:
        state = self._replica.state
        demand_ms = open_demand_ms(state, link.domain, f"nodes/{link.node}")
        if demand_ms is None and not expected_in(state, link.domain).is_anything:
            return
        nonce = secrets.token_bytes(DIGEST_BYTES)
        controller = self._replica.config.controller.id
        speaker = Speaker(controller, link.node, link.source, link.run)
        token = link.session.token
        self._challenges.make(Challenge(nonce, speaker, token, now_s, demand_ms))
        frame = nodelink_pb2.AttestationChallenge(nonce=nonce)
        link.send(nodelink_pb2.ConnectResponse(attestation_challenge=frame))

    def _challenge_again(self, node: str, domain: str) -> None:
        expected = expected_in(self._replica.state, domain)
        if expected.is_anything and self._links.get(node) is not None and node not in self._due_at:
            # Chance keeps nodes apart; nothing secret rests on it.
            early = 1 - JITTER * random.random()  # noqa: S311
            self._put_due(node, time.monotonic() + expected.interval_ms / 1000 * early)

    # Evidence.

    def _silent(self, now_s: float) -> list[Given]:
        """Nodes that have not answered in time."""
        given = []
        for node in self._challenges.unanswered(now_s):
            link = self._links.get(node)
            if link is not None:
                self._challenge_again(node, link.domain)
                given.append(Given(node, link.domain, Evidence.SILENT))
        return given

    def _take_answers(self) -> list[Given]:
        """Some of the statements that came, read; those that cannot be are refused."""
        given = []
        for _ in range(min(AT_ONCE, len(self._answers))):
            challenge, domain, statement, source = self._answers.popleft()
            node = challenge.speaker.node
            self._challenge_again(node, domain)
            try:
                said = read_statement(statement, challenge.speaker, self._verifier)
            except StatementRefused as refused:
                self._refuse(node, domain, refused, source)
                continue
            given.append(Given(node, domain, said, challenge.demand_ms))
        return given

    def _run_out(self) -> list[Given]:
        """Nodes whose verification does not count any more, as the columns of the read model tell."""
        columns, state = self._replica.nodes.columns, self._replica.state
        mine = delivered_domains(state.authority, self._replica.config.controller.id)
        # Of others' nodes, as many as there may be, nothing is looked at one by one: while their controller is away,
        # nobody records that they have run out.
        rows = np.flatnonzero(
            columns.in_domains(set(mine))
            & (columns.column("integrity") == Integrity.VERIFIED)
            & (columns.column("attested_until_ms") <= _wall_ms())
        )
        given = []
        for row in rows.tolist():
            node = columns.ids.id_of(row)
            home = home_of(state, f"nodes/{node}")
            if home is not None and home.domain in mine:
                given.append(Given(node, home.domain, Evidence.AGED))
            if len(given) >= AT_ONCE:
                break
        return given

    async def _write(self, journal: Journal, given: list[Given]) -> None:
        """Writes what is worth an event: most statements say what is known."""
        state, now_ms = self._replica.state, _wall_ms()
        me = self._replica.config.controller.id
        news = [each for each in given if decide(state, each, now_ms, me) is not None]

        def draft(proposal: Proposal) -> None:
            for each in news:
                decision = decide(proposal, each, proposal.wall_ms, me)
                if decision is not None:
                    draft_decision(proposal, each, decision)

        if news:
            await commit(journal, draft)

    def _refuse(self, node: str, domain: str, refused: StatementRefused, source: str) -> None:
        if self._refusals.note(node, domain, refused, source, time.monotonic()):
            _log.warning("a statement was refused", extra={"node": node, "cause": refused.message})
            self._wake.set()


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
