"""Reports that a relay kept for a node while its controller could not be reached. Owns their examination and their way
to the log, which is that of any report; the node is neither linked nor heard by it.

A relay is believed nothing: a batch takes effect when all of it is in order and the node's pinned key has signed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controller.journal import Journal
from controller.nodelink.agent_keys import is_vouched, pinned_key
from controller.nodelink.evidence import evidence_of
from controller.nodelink.greeting import NotWelcome, check_names, find_home
from controller.nodelink.incidents import Incident, is_held
from controller.nodelink.link import Link
from controller.nodelink.reception import Reception
from controller.nodelink.reports import (
    NodeMoved,
    ProtocolBroken,
    ReportIntake,
    chunks_of,
    highest_report,
)
from controller.nodelink.session import Session
from controller.nodelink.staging import Staging, Violation
from controller.twin.facts import Home, body_of
from controller.values import ValueStoreError
from federation.errors import InvalidWrite
from federation.identifiers import Key
from souverix.fleet.v1 import return_pb2
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2

#: Reports of one deposit: what an agent sends without an acknowledgement.
MAX_DEPOSITED_REPORTS = 64


class _Kept(Link):
    """Stands for the link over which the reports would have come, and notes what it would have been told."""

    def __init__(
        self, node: str, domain: str, source: str, now_s: float, may_speak: Callable[[], bool]
    ) -> None:
        super().__init__(
            node, domain, source, "", Session(b""), nodelink_pb2.Fence(), now_s, may_speak
        )
        self.acknowledged = 0
        self.told = asyncio.Event()

    def send(self, frame: nodelink_pb2.ConnectResponse) -> bool:
        """Notes an acknowledgement."""
        if frame.HasField("report_ack"):
            self.acknowledged = max(self.acknowledged, frame.report_ack.sequence)
            self.told.set()
        return True


class Deposits:
    """Takes deposits for one replica."""

    def __init__(self, desk: Reception, wall_ms: Callable[[], int]) -> None:
        self._desk = desk
        self._wall_ms = wall_ms

    async def take(
        self, relay: str, peer: str, journal: Journal, deposit: relay_pb2.Deposit, now_s: float
    ) -> relay_pb2.DepositAck:
        """What became of a deposit, once that is durable; `peer` is where the relay calls from.

        Raises `ProtocolBroken` for what no relay may send.
        """
        batch = deposit.batch
        if not deposit.reports and not 0 < len(batch.reports) <= MAX_DEPOSITED_REPORTS:
            raise ProtocolBroken(
                f"a deposit holds {len(batch.reports)} reports; 1 to {MAX_DEPOSITED_REPORTS} are allowed"
            )
        ack = relay_pb2.DepositAck(node=deposit.node, source=deposit.source)
        try:
            home = self._home(relay, deposit)
            key = self._key(home, deposit)
        except _NotTaken as refusal:
            ack.problem = str(refusal)
            return ack
        staging = Staging(deposit.node, deposit.source, batch.first_sequence)
        before = staging.staged
        try:
            staging.take(batch)
            staging.check_custody(
                batch.signature,
                lambda message, signature: self._desk.verifier.verify(key, message, signature),
            )
        except Violation as violation:
            ack.problem = str(violation)
            evidence = evidence_of(before, batch, key)
            await self._note((home.domain, deposit.node), relay, peer, violation, evidence, journal)
            return ack
        await self._commit(home, staging, journal, ack, now_s)
        return ack

    def _home(self, relay: str, deposit: relay_pb2.Deposit) -> Home:
        """Where the node lives that a deposit is of. Raises `_NotTaken`."""
        facts = self._desk.replica.state
        try:
            check_names(deposit.node, deposit.source)
            home = find_home(facts, self._desk.controller, deposit.node)
        except NotWelcome as refusal:
            raise _NotTaken(str(refusal)) from refusal
        if home is None:
            raise _NotTaken(f"{deposit.node} is not known here")
        if is_held(facts, home.domain, deposit.node):
            raise _NotTaken(
                f"{deposit.node} is isolated: no report of it is taken until it is released"
            )
        recorded = body_of(facts, Key(home.domain, f"nodes/{deposit.node}", "link_state"))
        if deposit.node != relay and (recorded is None or recorded.relay != relay):
            raise _NotTaken(f"{deposit.node} did not come through relay {relay} last")
        if deposit.reports:
            raise _NotTaken("its reports are not signed: the relay is of an earlier version")
        return home

    def _key(self, home: Home, deposit: relay_pb2.Deposit) -> bytes:
        """The key that must have signed a deposit. Raises `_NotTaken`."""
        facts = self._desk.replica.state
        key = pinned_key(facts, home.domain, deposit.node)
        if not key:
            raise _NotTaken(f"no key of {deposit.node} is pinned")
        if self._desk.bearers is not None and not is_vouched(
            facts, self._desk.replica.revocations, home.domain, deposit.node
        ):
            raise _NotTaken(
                f"no certificate has vouched for the key of {deposit.node} yet, or the one that did was revoked"
            )
        return key

    async def _commit(
        self,
        home: Home,
        staging: Staging,
        journal: Journal,
        ack: relay_pb2.DepositAck,
        now_s: float,
    ) -> None:
        """Puts what is new of a verified batch into effect, as far as its values are here."""
        desk, values = self._desk, self._desk.values
        highest = highest_report(desk.replica.state, home.domain, staging.node, staging.source)
        link = _Kept(staging.node, home.domain, staging.source, now_s, desk.replica.lease_valid)
        link.acknowledged = last = highest
        intake = ReportIntake(link, highest, values, self._wall_ms, lambda reports: None)
        try:
            for raw in staging.reports[max(0, highest + 1 - staging.first) :]:
                report = nodelink_pb2.Report.FromString(raw)
                named = chunks_of(report.inventory)
                if named and await values.missing(named):
                    ack.problem = (
                        f"report {report.sequence} names large values that only the node can bring"
                    )
                    break
                intake.offer(report)
                last = report.sequence
            await _settle(link, intake, journal, last)
        except (ProtocolBroken, NodeMoved, InvalidWrite, ValueStoreError, OSError) as error:
            ack.problem = str(error)
        ack.sequence = link.acknowledged

    async def _note(
        self,
        at: tuple[str, str],
        relay: str,
        peer: str,
        violation: Violation,
        evidence: return_pb2.BacklogEvidence,
        journal: Journal,
    ) -> None:
        domain, node = at
        incident = Incident(
            domain,
            node,
            return_pb2.INCIDENT_KIND_DEPOSIT_REFUSED,
            f"what relay {relay} kept is not what the agent signed: {violation.evidence}",
            peer,
            violation.reason,
            relay=relay,
            backlog=evidence,
        )
        await self._desk.note(incident, journal)


class _NotTaken(Exception):
    """A deposit that cannot be taken now, and is no violation."""


async def _settle(link: _Kept, intake: ReportIntake, journal: Journal, last: int) -> None:
    """Commits until all up to `last` is durable."""
    running = asyncio.create_task(intake.run(journal))
    try:
        while link.acknowledged < last:
            link.told.clear()
            told = asyncio.create_task(link.told.wait())
            await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            if running.done():
                running.result()
                return
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
