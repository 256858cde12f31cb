"""Records nodes' places on the connectivity spectrum. Owns the `link_state` events of this controller's nodes; what
evidence means is the spectrum's to say, and a heartbeat is no event.
"""

from __future__ import annotations

import asyncio
import time
from itertools import islice

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from controller.command.targets import delivered_domains
from controller.connectivity.measurements import Change, Gone
from controller.connectivity.spectrum import Mode
from controller.journal import Journal
from controller.nodelink.commits import MAX_SUBMISSION_FACTS, commit
from controller.nodelink.history import Transition, TransitionQueue
from controller.nodelink.link import Link
from controller.nodelink.links import Links
from controller.nodelink.rate import TokenBucket
from controller.replica import Replica
from controller.twin.facts import body_of, exists, home_of, timestamp
from controller.twin.marks import HAS_LINK, may_be
from federation.identifiers import Key
from federation.proposal import Proposal
from federation.scan import Scan
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import connectivity_pb2

#: Lease times that nodes get to come back after a change of master: one to leave the old stream, two to back off.
RETURN_LEASES = 3

#: Least time that nodes get to come back, however short the lease.
MIN_RETURN_S = 10.0

#: Nodes taken in at a time after a change of master: some ten milliseconds.
NODES_IN_A_SLICE = 1_000

_MODES: frozenset[int] = frozenset(Mode)

#: Commits of transitions made at once: the return of a node or two is recorded step by step.
COMMITS_BURST = 10

#: Commits of transitions a second in the long run: in a storm, all nodes that changed meanwhile share one, and one that
#: went through several modes is recorded in the last.
COMMITS_PER_S = 5.0

#: Between two sweeps: finer than any threshold means anything, and a small part of a core with a million nodes.
SWEEP_INTERVAL_S = 1.0


class ConnectivityRecorder:
    """The transitions of one replica while it is master."""

    def __init__(self, replica: Replica, links: Links) -> None:
        self._replica = replica
        self._links = links
        self._table = replica.connectivity
        self._queue = TransitionQueue()
        self._commits = TokenBucket(COMMITS_PER_S, COMMITS_BURST, time.monotonic())
        self._wake = asyncio.Event()

    def link_opened(self, link: Link) -> None:
        """A node came."""
        if link.node not in self._table:
            self._look_up(link.node, link.domain, 0.0)
        now_s = time.monotonic()
        change = self._table.linked(link.node, link.domain, link.backlog_reports, now_s)
        self._note(change if change is not None else self._new_path(link, now_s))

    def heard(self, link: Link) -> None:
        """A heartbeat came."""
        self._table.heard(link.node, link.rtt_s, link.backlog_reports, time.monotonic())

    def reports_durable(self, link: Link, reports: int) -> None:
        """So many more reports of a node are durable."""
        self._table.durable(link.node, reports, time.monotonic())

    def turn_came(self, link: Link) -> None:
        """A node begins to replay."""
        self._table.replay_begins(link.node, time.monotonic())

    def staged(self, link: Link, reports: int) -> None:
        """So many reports of a node's backlog have arrived."""
        self._note(self._table.arrived(link.node, reports, time.monotonic()))

    def reconciled(self, link: Link) -> None:
        """All that waited at a node is in effect."""
        self._note(self._table.reconciled(link.node, time.monotonic()))

    def link_closed(self, link: Link) -> None:
        """A node went, unless its link ended for a reason of this side's."""
        ended = link.end_reason
        if ended is None or not ended.is_news:
            return
        gone = Gone(ended.reason, ended.evidence)
        stopped = ended.reason == "agent_stopped"
        self._note(self._table.unlinked(link.node, gone, time.monotonic(), stopped=stopped))

    async def run(self, journal: Journal) -> None:
        """Records until cancelled. Nodes that an earlier master left linked get time to come back."""
        self._queue.clear()
        self._table.clear()
        try:
            await self._read_recorded(journal)
            for link in self._links:
                self.link_opened(link)
            while True:
                for change in self._table.sweep(time.monotonic()):
                    self._note(change)
                await self._record_until(journal, time.monotonic() + SWEEP_INTERVAL_S)
        finally:
            self._table.clear()

    async def _record_until(self, journal: Journal, end_s: float) -> None:
        while True:
            self._wake.clear()
            now_s = time.monotonic()
            while now_s < end_s and (due := self._queue.take_due(now_s, MAX_SUBMISSION_FACTS)):
                await commit(journal, lambda p, due=due: self._write(p, due))  # type: ignore[misc]
                # A rate is waited for, not an event.
                while not self._commits.take(now_s := time.monotonic()):  # noqa: ASYNC110
                    await asyncio.sleep(self._commits.wait_s(now_s))
            if now_s >= end_s:
                return
            turn_s = self._queue.wait_s(now_s)
            wait_s = end_s - now_s if turn_s is None else min(turn_s, end_s - now_s)
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _note(self, change: Change | None) -> None:
        if change is None:
            return
        now_s, wall_ms = time.monotonic(), _wall_ms()
        seen_s = change.last_seen_s
        self._queue.note(
            Transition(
                change.node,
                change.mode,
                change.reason,
                change.evidence,
                wall_ms - _ms(now_s - change.at_s),
                wall_ms - _ms(now_s - seen_s) if seen_s is not None else None,
                change.rtt_s,
                change.interval_s,
                change.backlog,
            ),
            now_s,
        )
        self._wake.set()

    def _new_path(self, link: Link, now_s: float) -> Change | None:
        """News of a node that is as connected as before, but by another path or another run than recorded."""
        recorded = body_of(
            self._replica.state, Key(link.domain, f"nodes/{link.node}", "link_state")
        )
        measured = self._table.measured(link.node, now_s)
        path = _relay_of(link)
        if recorded is None or measured is None:
            return None
        if recorded.relay != path:
            reason = "path_changed"
            words = f"comes through relay {path}" if path else "comes by itself"
        elif recorded.run != link.run:
            reason, words = "agent_restarted", "its agent runs anew"
        else:
            return None
        mode = measured.mode
        return Change(
            link.node, mode, mode, reason, words, now_s, now_s, None, None, measured.backlog
        )

    async def _read_recorded(self, journal: Journal) -> None:
        """Takes in all nodes as they are recorded: the store's column of links, then what is or has come into memory.
        Nodes that come meanwhile are further than any record.
        """
        state = self._replica.state
        lease_ttl_s = self._replica.config.log.lease_ttl_s
        patience_s = max(MIN_RETURN_S, RETURN_LEASES * lease_ttl_s)
        domains = delivered_domains(state.authority, journal.identity.controller)
        async for page in self._replica.store.links():
            for at in range(0, len(page), NODES_IN_A_SLICE):
                for domain, subject, raw in page[at : at + NODES_IN_A_SLICE]:
                    cold = state.table.mark(domain, subject) is not None
                    if raw is not None and cold and domain in domains:
                        self._take_in(
                            subject, domain, event_pb2.Event.FromString(raw).link_state, patience_s
                        )
                await asyncio.sleep(0)
        for domain in domains:
            subjects = state.subjects_of(domain, "nodes")
            while some := list(islice(subjects, NODES_IN_A_SLICE)):
                scan = Scan(state)
                for subject in some:
                    known = subject.partition("/")[2] in self._table
                    if not known and may_be(state, domain, subject, HAS_LINK):
                        recorded = body_of(scan, Key(domain, subject, "link_state"))
                        self._take_in(subject, domain, recorded, patience_s)
                await asyncio.sleep(0)

    def _look_up(self, node: str, domain: str, patience_s: float) -> None:
        """Has the table go on from what is recorded of a node."""
        subject = f"nodes/{node}"
        recorded = body_of(self._replica.state, Key(domain, subject, "link_state"))
        self._take_in(subject, domain, recorded, patience_s)

    def _take_in(
        self,
        subject: str,
        domain: str,
        recorded: connectivity_pb2.LinkState | None,
        patience_s: float,
    ) -> None:
        node = subject.partition("/")[2]
        if node in self._table or recorded is None or recorded.mode not in _MODES:
            return
        now_s = time.monotonic()
        seen = recorded.last_seen_time if recorded.HasField("last_seen_time") else recorded.since
        interval_s = None
        if recorded.HasField("sync_interval"):
            interval_s = recorded.sync_interval.ToMilliseconds() / 1000
        gone = Gone(
            "not_back_after_change_of_master",
            f"no link within {patience_s:g} s of the change of master",
        )
        self._table.known(
            node,
            domain,
            Mode(recorded.mode),
            now_s - _age_s(seen),
            interval_s,
            now_s + patience_s,
            gone,
        )

    def _write(self, proposal: Proposal, due: list[Transition]) -> None:
        table = proposal.state.authority
        domains = delivered_domains(table, proposal.identity.controller)
        for transition in due:
            subject = f"nodes/{transition.node}"
            home = home_of(proposal, subject)
            if (
                home is None
                or home.domain not in domains
                or not exists(proposal, home.domain, subject)
            ):
                self._table.forget(transition.node)
                continue
            recorded = body_of(proposal, Key(home.domain, subject, "link_state"))
            previous = (
                recorded.mode
                if recorded is not None
                else connectivity_pb2.CONNECTIVITY_MODE_UNSPECIFIED
            )
            before = (recorded.relay, recorded.run) if recorded is not None else ("", "")
            link = self._links.get(transition.node)
            relay, run = (_relay_of(link), link.run) if link is not None else before
            if previous == transition.mode and (relay, run) == before:
                continue
            message = _message(transition, previous)
            message.relay, message.run = relay, run
            proposal.write(
                home.domain,
                subject,
                "link_state",
                message,
                principal=f"controller:{proposal.identity.controller}",
            )


def _relay_of(link: Link) -> str:
    """The relay a node comes through; a relay does not come through itself."""
    return link.relay if link.relay != link.node else ""


def _message(
    transition: Transition, previous: connectivity_pb2.ConnectivityMode
) -> connectivity_pb2.LinkState:
    evidence = transition.evidence
    if transition.coalesced:
        evidence += f"; {transition.coalesced} changes before it were too quick to be recorded"
    message = connectivity_pb2.LinkState(
        mode=connectivity_pb2.ConnectivityMode.Name(transition.mode),
        previous_mode=previous,
        reason=transition.reason,
        evidence=evidence,
        since=timestamp(transition.since_ms),
        backlog_messages=transition.backlog_reports,
    )
    if transition.last_seen_ms is not None:
        message.last_seen_time.CopyFrom(timestamp(transition.last_seen_ms))
    if transition.rtt_s is not None:
        message.quality.rtt.CopyFrom(_span(transition.rtt_s))
    if transition.sync_interval_s is not None:
        message.sync_interval.CopyFrom(_span(transition.sync_interval_s))
    return message


def _span(seconds: float) -> Duration:
    span = Duration()
    span.FromMicroseconds(int(seconds * 1_000_000))
    return span


def _age_s(time_: Timestamp) -> float:
    return max(0.0, (_wall_ms() - time_.ToMilliseconds()) / 1000)


def _ms(seconds: float) -> int:
    return max(0, int(seconds * 1000))


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
