"""Reports that a relay kept for a node while its controller could not be reached. Owns their way to the log, which is
that of any report; the node is neither linked nor heard by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controller.journal import Journal
from controller.nodelink.greeting import NotWelcome, check_names, find_home
from controller.nodelink.incidents import is_held
from controller.nodelink.link import Link
from controller.nodelink.reports import (
    NodeMoved,
    ProtocolBroken,
    ReportIntake,
    chunks_of,
    highest_report,
)
from controller.nodelink.session import Session
from controller.replica import Replica
from controller.twin.facts import body_of
from controller.values import ValueStore, ValueStoreError
from federation.errors import InvalidWrite
from federation.identifiers import Key
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

    def __init__(self, replica: Replica, values: ValueStore, wall_ms: Callable[[], int]) -> None:
        self._replica = replica
        self._values = values
        self._wall_ms = wall_ms

    async def take(
        self, relay: str, journal: Journal, deposit: relay_pb2.Deposit, now_s: float
    ) -> relay_pb2.DepositAck:
        """What became of a deposit, once that is durable. Raises `ProtocolBroken` for what no relay may send."""
        if not deposit.reports or len(deposit.reports) > MAX_DEPOSITED_REPORTS:
            raise ProtocolBroken(
                f"a deposit holds {len(deposit.reports)} reports; 1 to {MAX_DEPOSITED_REPORTS} are allowed"
            )
        ack = relay_pb2.DepositAck(node=deposit.node, source=deposit.source)
        try:
            check_names(deposit.node, deposit.source)
            controller = self._replica.config.controller.id
            home = find_home(self._replica.state, controller, deposit.node)
        except NotWelcome as refusal:
            ack.problem = str(refusal)
            return ack
        if home is None:
            ack.problem = f"{deposit.node} is not known here"
            return ack
        if is_held(self._replica.state, home.domain, deposit.node):
            ack.problem = (
                f"{deposit.node} is isolated: no report of it is taken until it is released"
            )
            return ack
        key = Key(home.domain, f"nodes/{deposit.node}", "link_state")
        recorded = body_of(self._replica.state, key)
        if deposit.node != relay and (recorded is None or recorded.relay != relay):
            ack.problem = f"{deposit.node} did not come through relay {relay} last"
            return ack
        highest = highest_report(self._replica.state, home.domain, deposit.node, deposit.source)
        fresh = [report for report in deposit.reports if report.sequence > highest]
        link = _Kept(deposit.node, home.domain, deposit.source, now_s, self._replica.lease_valid)
        link.acknowledged = highest
        intake = ReportIntake(link, highest, self._values, self._wall_ms, lambda reports: None)
        try:
            last = highest
            for report in fresh:
                named = chunks_of(report.inventory)
                if named and await self._values.missing(named):
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
        return ack


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
