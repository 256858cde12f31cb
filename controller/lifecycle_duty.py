"""Moves nodes on in their lives by evidence: a duty of the domain's master-of-record. Owns when it looks, and how many
nodes one commit moves; what evidence speaks for is `controller.lifecycle.evidence`'s to say.

A commit only leaves notes of the nodes it touched; they are looked at soon after, many at once. When the mastership
begins all nodes are looked at, in slices. Every move is decided anew within its commit, so that an operator who was
quicker wins. How long health has lasted is counted from when its report arrived here; a new master counts from the
arrival of the last one.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from controller.journal import Journal
from controller.lifecycle.evidence import Automation, Leaning, NodeFacts, leaning, moves_at_once
from controller.lifecycle.stages import Stage, Transition, stage_of
from controller.lifecycle.transitions import Asked, transit
from controller.nodelink.commits import MAX_SUBMISSION_FACTS, commit
from controller.replica import Replica
from controller.twin.facts import (
    Facts,
    body_of,
    conflicted,
    effective_ms,
    exists,
    home_of,
    state_of,
)
from federation.identifiers import Key
from federation.proposal import Proposal
from federation.scan import Scan
from federation.state import Applied

#: Between two looks at what commits touched: a rack that is switched on is moved in a few commits, and nobody waits.
PAUSE_S = 0.25

#: Work without a break: shorter than a call notices.
SLICE_S = 0.004

#: The break after a slice of a look at all nodes, so that it takes a fifth of the loop at most.
SCAN_PAUSE_S = 0.016

#: Nodes moved by one commit; each may bring two facts.
MAX_NODES_A_COMMIT = MAX_SUBMISSION_FACTS // 2

#: Longest sleep: nothing is due before it that is not known of.
LONGEST_WAIT_S = 3600.0

#: The aspects of a node that speak for a move.
TELLING_ASPECTS = frozenset({"lifecycle", "link_state", "actual_state"})

#: Stages out of which evidence leads.
MOVED_STAGES = frozenset({Stage.PROVISIONING, Stage.ENROLLED, Stage.ACTIVE, Stage.DEGRADED})


class _Lasting(NamedTuple):
    """A move that health speaks for, and since when, by the monotonic clock."""

    transition: Transition
    since_s: float


class LifecycleMoves:
    """The nodes of the domains that this controller is master-of-record of."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._state = replica.state
        self._for_all: Automation = replica.config.lifecycle.of_all()
        self._for_domains: dict[str, Automation] = replica.config.lifecycle.of_domains()
        self._domains: frozenset[str] = frozenset()
        self._touched: dict[str, None] = {}
        self._scans: deque[Iterator[str]] = deque()
        self._lasting: dict[str, _Lasting] = {}
        self._due: list[tuple[float, str]] = []
        #: Nodes to be moved by the next commit.
        self._moving: dict[str, None] = {}
        self._wake = asyncio.Event()

    async def run(self, journal: Journal) -> None:
        """Moves nodes on, until cancelled."""
        self._domains = frozenset()
        for noted in (self._touched, self._scans, self._lasting, self._due, self._moving):
            noted.clear()
        with self._replica.changes.listen(self._take_note):
            self._look_at_domains()
            next_commit_s = 0.0
            while True:
                self._wake.clear()
                self._look()
                gathered = not self._touched and time.monotonic() >= next_commit_s
                if self._is_full() or (self._moving and gathered):
                    moving, self._moving = list(self._moving), {}
                    await commit(journal, lambda p, moving=moving: self._write(p, moving))  # type: ignore[misc]
                    next_commit_s = time.monotonic() + PAUSE_S
                if self._touched:
                    await asyncio.sleep(0)
                elif self._scans:
                    await asyncio.sleep(SCAN_PAUSE_S)
                elif self._moving:
                    await asyncio.sleep(PAUSE_S)
                else:
                    await self._wait()

    async def _wait(self) -> None:
        wait_s = LONGEST_WAIT_S
        if self._due:
            wait_s = min(wait_s, max(0.0, self._due[0][0] - time.monotonic()))
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(PAUSE_S)

    # Taking note, in the way of commits: nothing is read here.

    def _take_note(self, applied: Applied) -> None:
        if applied.authority_changed:
            self._look_at_domains()
        for key in applied.keys:
            if (
                key.aspect in TELLING_ASPECTS
                and key.domain in self._domains
                and key.subject.startswith("nodes/")
            ):
                self._touched[key.subject] = None
                self._wake.set()

    def _look_at_domains(self) -> None:
        """Takes in which domains are this controller's to decide for; all nodes of a new one are looked at. Where one
        left, what was counted of its nodes means nothing any more, and all are looked at anew.
        """
        me = self._replica.config.controller.id
        before = self._domains
        self._domains = frozenset(
            domain
            for domain, record in self._state.authority.records.items()
            if record.master_of_record == me and record.next_master in ("", me)
        )
        if before - self._domains:
            self._lasting.clear()
            self._due.clear()
            self._scans.clear()
            before = frozenset()
        for domain in self._domains - before:
            self._scans.append(self._state.subjects_of(domain, "nodes"))
            self._wake.set()

    # Looking.

    def _look(self) -> None:
        """Looks at what is due, at what was touched and on through all nodes, for one slice."""
        now_s = time.monotonic()
        end_s = now_s + SLICE_S
        while self._due and self._due[0][0] <= now_s:
            self._touched[heapq.heappop(self._due)[1]] = None
        facts = Scan(self._state)
        while self._touched and not self._is_full() and time.monotonic() < end_s:
            subject = next(iter(self._touched))
            del self._touched[subject]
            self._look_at(facts, subject, arrived_now=True)
        while self._scans and not self._is_full() and time.monotonic() < end_s:
            scanned = next(self._scans[0], None)
            if scanned is None:
                self._scans.popleft()
            else:
                self._look_at(facts, scanned, arrived_now=False)

    def _is_full(self) -> bool:
        return len(self._moving) >= MAX_NODES_A_COMMIT

    def _look_at(self, facts: Facts, subject: str, *, arrived_now: bool) -> None:
        domain = self._deciding_domain(facts, subject)
        known = self._facts_of(facts, domain, subject) if domain else None
        if domain is None or known is None:
            self._lasting.pop(subject, None)
            return
        automation = self._automation(domain)
        if moves_at_once(known, automation):
            self._moving[subject] = None
            return
        towards = leaning(known, automation)
        if towards is None:
            self._lasting.pop(subject, None)
            return
        since_s = self._since_s(facts, domain, subject, towards, arrived_now=arrived_now)
        if since_s + towards.after_s <= time.monotonic():
            self._moving[subject] = None

    def _since_s(
        self, facts: Facts, domain: str, subject: str, towards: Leaning, *, arrived_now: bool
    ) -> float:
        """Since when the node's health has spoken for the move."""
        held = self._lasting.get(subject)
        if held is not None and held.transition is towards.transition:
            return held.since_s
        since_s = time.monotonic()
        key = Key(domain, subject, "actual_state")
        report = facts.winner(key)
        if not arrived_now and report is not None:
            age_ms = time.time_ns() // 1_000_000 - effective_ms(facts, key, report)
            since_s -= max(0, age_ms) / 1000
        self._lasting[subject] = _Lasting(towards.transition, since_s)
        heapq.heappush(self._due, (since_s + towards.after_s, subject))
        return since_s

    def _deciding_domain(self, facts: Facts, subject: str) -> str | None:
        """Where the node lives, if this controller decides for it there and nobody disagrees about its stage."""
        home = home_of(facts, subject)
        if home is None or home.domain not in self._domains:
            return None
        if not exists(facts, home.domain, subject):
            return None
        key = Key(home.domain, subject, "lifecycle")
        return None if conflicted(facts, [(key, facts.siblings(key))]) else home.domain

    def _automation(self, domain: str) -> Automation:
        return self._for_domains.get(domain, self._for_all)

    def _facts_of(self, facts: Facts, domain: str, subject: str) -> NodeFacts | None:
        """What is known of the node; None where evidence leads nowhere."""
        rank = state_of(facts).rank
        found: dict[str, tuple[Any, int]] = {}
        for aspect in TELLING_ASPECTS:
            key = Key(domain, subject, aspect)
            write = facts.winner(key)
            found[aspect] = (write.body(), rank(key, write)[1]) if write is not None else (None, 0)
        stage = stage_of(found["lifecycle"][0])
        if stage not in MOVED_STAGES:
            return None
        recorded, recorded_stamp = found["lifecycle"]
        link, link_stamp = found["link_state"]
        report, report_stamp = found["actual_state"]
        known = NodeFacts(recorded, recorded_stamp, 0, link, link_stamp, report, report_stamp)
        if stage is Stage.ENROLLED and known.report is not None:
            return replace(known, provisioned_stamp=self._provisioned_stamp(subject))
        return known

    def _provisioned_stamp(self, subject: str) -> int:
        writes = self._replica.histories.of(subject, "lifecycle")
        return max((w.stamp for w in writes if stage_of(w.body()) is Stage.PROVISIONING), default=0)

    # Moving.

    def _write(self, proposal: Proposal, moving: list[str]) -> None:
        principal = f"controller:{proposal.identity.controller}"
        for subject in moving:
            domain = self._deciding_domain(proposal, subject)
            known = self._facts_of(proposal, domain, subject) if domain else None
            if domain is None or known is None:
                continue
            key = Key(domain, subject, "lifecycle")
            for asked in self._moves(subject, known, self._automation(domain)):
                entered = transit(
                    body_of(proposal, key),
                    replace(asked, decided_by=principal),
                    proposal.wall_ms,
                )
                proposal.write(*key, entered, principal=principal)

    def _moves(self, subject: str, known: NodeFacts, automation: Automation) -> list[Asked]:
        moves = moves_at_once(known, automation)
        if moves:
            return moves
        towards, held = leaning(known, automation), self._lasting.get(subject)
        if towards is None or held is None or held.transition is not towards.transition:
            return []
        if time.monotonic() < held.since_s + towards.after_s:
            return []
        return [Asked(towards.transition, towards.reason)]
