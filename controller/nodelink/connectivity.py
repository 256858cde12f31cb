"""Records when nodes came and went. Owns the `link_state` events of this controller's nodes; a heartbeat is none."""

from __future__ import annotations

import asyncio
import time

from google.protobuf.duration_pb2 import Duration

from controller.command.targets import delivered_domains
from controller.journal import Journal
from controller.nodelink.commits import MAX_SUBMISSION_FACTS, commit
from controller.nodelink.history import Transition, TransitionQueue
from controller.nodelink.link import Link
from controller.nodelink.links import Links
from controller.replica import Replica
from controller.twin.facts import body_of, exists, home_of, timestamp
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.fleet.v1 import connectivity_pb2

LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE
DISCONNECTED = connectivity_pb2.CONNECTIVITY_MODE_DISCONNECTED

#: Lease times that nodes get to come back after a change of master: one to leave the old stream, two to back off.
RETURN_LEASES = 3

#: Least time that nodes get to come back, however short the lease.
MIN_RETURN_S = 10.0


class ConnectivityRecorder:
    """The transitions of one replica while it is master."""

    def __init__(self, replica: Replica, links: Links) -> None:
        self._replica = replica
        self._links = links
        self._queue = TransitionQueue()
        self._wake = asyncio.Event()

    def link_opened(self, link: Link) -> None:
        """A node came."""
        self._note(
            Transition(
                link.node,
                LIVE,
                "link_opened",
                f"{link.backlog_reports} reports wait at the node",
                _wall_ms(),
                _wall_ms(),
                backlog_reports=link.backlog_reports,
            )
        )

    def link_closed(self, link: Link) -> None:
        """A node went, unless its link ended for a reason of this side's."""
        ended = link.end_reason
        if ended is None or not ended.is_news:
            return
        silent_ms = int((time.monotonic() - link.heard_s) * 1000)
        self._note(
            Transition(
                link.node,
                DISCONNECTED,
                ended.reason,
                ended.evidence,
                _wall_ms(),
                _wall_ms() - max(0, silent_ms),
                link.rtt_s,
            )
        )

    async def run(self, journal: Journal) -> None:
        """Records until cancelled. Nodes left LIVE by an earlier master that do not come back are disconnected."""
        self._queue.clear()
        self._expect_return(journal)
        for link in self._links:
            self.link_opened(link)
        while True:
            self._wake.clear()
            while due := self._queue.take_due(time.monotonic(), MAX_SUBMISSION_FACTS):
                await commit(journal, lambda p, due=due: self._write(p, due))  # type: ignore[misc]
            try:
                async with asyncio.timeout(self._queue.wait_s(time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _note(self, transition: Transition) -> None:
        self._queue.note(transition, time.monotonic())
        self._wake.set()

    def _expect_return(self, journal: Journal) -> None:
        state = self._replica.state
        lease_ttl_s = self._replica.config.log.lease_ttl_s
        patience_s = max(MIN_RETURN_S, RETURN_LEASES * lease_ttl_s)
        for domain in delivered_domains(state.authority, journal.identity.controller):
            for subject in state.subjects_of(domain, "nodes"):
                link_state = body_of(state, Key(domain, subject, "link_state"))
                if link_state is None or link_state.mode != LIVE:
                    continue
                self._queue.note(
                    Transition(
                        subject.partition("/")[2],
                        DISCONNECTED,
                        "not_back_after_change_of_master",
                        f"no link within {patience_s:g} s of the change of master",
                        _wall_ms(),
                    ),
                    time.monotonic(),
                    time.monotonic() + patience_s,
                )

    def _write(self, proposal: Proposal, due: list[Transition]) -> None:
        table = proposal.state.authority
        domains = delivered_domains(table, proposal.identity.controller)
        for transition in due:
            subject = f"nodes/{transition.node}"
            home = home_of(proposal, subject)
            if home is None or home.domain not in domains:
                continue
            key = Key(home.domain, subject, "link_state")
            recorded = body_of(proposal, key)
            previous = (
                recorded.mode
                if recorded is not None
                else connectivity_pb2.CONNECTIVITY_MODE_UNSPECIFIED
            )
            if previous == transition.mode or not exists(proposal, home.domain, subject):
                continue
            proposal.write(
                home.domain,
                subject,
                "link_state",
                _message(transition, previous),
                principal=f"controller:{proposal.identity.controller}",
            )


def _message(
    transition: Transition, previous: connectivity_pb2.ConnectivityMode
) -> connectivity_pb2.LinkState:
    evidence = transition.evidence
    if transition.coalesced:
        evidence += f"; {transition.coalesced} changes before it were too quick to be recorded"
    message = connectivity_pb2.LinkState(
        mode=transition.mode,
        previous_mode=previous,
        reason=transition.reason,
        evidence=evidence,
        since=timestamp(transition.since_ms),
        backlog_messages=transition.backlog_reports,
    )
    if transition.last_seen_ms is not None:
        message.last_seen_time.CopyFrom(timestamp(transition.last_seen_ms))
    if transition.rtt_s is not None:
        rtt = Duration()
        rtt.FromMicroseconds(int(transition.rtt_s * 1_000_000))
        message.quality.rtt.CopyFrom(rtt)
    return message


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
