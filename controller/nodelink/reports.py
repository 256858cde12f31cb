"""What agents report becomes events, each once. Owns the order of one link's reports, the wait for the chunks they
name, and their acknowledgement; knows nothing of streams.

Exactly once rests on two things: a link's reports are committed in the order of their dense numbers, and the commit
itself looks up the highest number that the node's facts carry. So a report that comes again (after a lost
acknowledgement, over another link, to another master) is acknowledged and not written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from controller.journal import Journal
from controller.nodelink.commits import MAX_SUBMISSION_BYTES, MAX_SUBMISSION_FACTS, commit
from controller.nodelink.link import Link
from controller.twin.facts import Facts, home_of, timestamp
from controller.values import DIGEST_PATTERN, ValueStore
from federation.identifiers import Key
from federation.proposal import MAX_EVENT_BYTES, Proposal
from souverix.fleet.v1 import observation_pb2
from souverix.nodelink.v1 import nodelink_pb2

#: Reports one link may have in flight. Agents keep 64; twice that is patience, more is a broken peer.
MAX_REPORTS_IN_FLIGHT = 128

#: Largest report; with what the event adds it must still be one.
MAX_REPORT_BYTES = MAX_EVENT_BYTES - 4 * 1024

#: Chunks asked for at a time, and of one report: as many as an agent will hear of, 256 MiB.
MAX_CHUNKS_WANTED = 1024

#: The aspects that reports write.
REPORTED_ASPECTS = ("actual_state", "inventory")


class ProtocolBroken(Exception):
    """The agent contradicts the contract; its link ends."""


class NodeMoved(Exception):
    """The node lives in another domain now; its link ends."""


@dataclass(slots=True)
class _Waiting:
    report: nodelink_pb2.Report
    aspect: str
    size: int
    #: Chunks that are not here yet; None: not looked up.
    missing: set[str] | None


class ReportIntake:
    """The reports of one link. `wall_ms` tells the time; `durable` is told how many reports more are durable."""

    def __init__(
        self,
        link: Link,
        highest: int,
        values: ValueStore,
        wall_ms: Callable[[], int],
        durable: Callable[[int], None],
    ) -> None:
        self._durable = durable
        self._link = link
        self._values = values
        self._wall_ms = wall_ms
        self._offered = highest
        self._waiting: deque[_Waiting] = deque()
        self._wanted: set[str] = set()
        self._wake = asyncio.Event()
        self._committed = asyncio.Event()

    @property
    def highest(self) -> int:
        """Number of the last report that was taken in."""
        return self._offered

    def offer(self, report: nodelink_pb2.Report) -> None:
        """Takes in a report in its order; one that is durable already is acknowledged. Raises `ProtocolBroken`."""
        if report.sequence != self._offered + 1:
            raise ProtocolBroken(
                f"report {report.sequence} came where {self._offered + 1} was expected"
            )
        size = report.ByteSize()
        body = check_report(report, size)
        if len(self._waiting) >= MAX_REPORTS_IN_FLIGHT:
            raise ProtocolBroken(f"more than {MAX_REPORTS_IN_FLIGHT} reports are in flight")
        names_chunks = body == "inventory" and bool(chunks_of(report.inventory))
        self._waiting.append(_Waiting(report, body, size, None if names_chunks else set()))
        self._offered += 1
        self._wake.set()

    async def replay(self, reports: Iterable[bytes]) -> None:
        """Puts verified reports of a backlog into effect, in order; returns when all are durable. `run` must run.

        Raises `ProtocolBroken`.
        """
        for raw in reports:
            if len(self._waiting) >= MAX_REPORTS_IN_FLIGHT:
                await self._all_durable()
            self.offer(nodelink_pb2.Report.FromString(raw))
        await self._all_durable()

    async def _all_durable(self) -> None:
        while self._waiting:
            self._committed.clear()
            await self._committed.wait()

    async def take_chunk(self, chunk: nodelink_pb2.ValueChunk) -> None:
        """Keeps a chunk that was asked for; any other is dropped. Raises `InvalidChunk`, `StoreFull`, `OSError`."""
        if chunk.digest not in self._wanted:
            return
        await self._values.put(chunk.digest, chunk.data)
        self._wanted.discard(chunk.digest)
        for waiting in self._waiting:
            if waiting.missing:
                waiting.missing.discard(chunk.digest)
        self._wake.set()

    async def run(self, journal: Journal) -> None:
        """Commits and acknowledges until cancelled. Raises `NodeMoved`, `OSError`."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._look_up_chunks()
            while batch := self._ready():
                await commit(journal, lambda p, batch=batch: self._write(p, batch))  # type: ignore[misc]
                for _ in batch:
                    self._waiting.popleft()
                last = batch[-1].report.sequence
                ack = nodelink_pb2.ReportAck(sequence=last)
                self._link.send(nodelink_pb2.ConnectResponse(report_ack=ack))
                self._durable(len(batch))
                self._committed.set()
                await self._look_up_chunks()

    async def _look_up_chunks(self) -> None:
        """Asks for the chunks that waiting reports name and that are not here, as far as the bound allows."""
        for waiting in list(self._waiting):
            if waiting.missing is not None:
                continue
            named = chunks_of(waiting.report.inventory)
            if len(self._wanted) + len(named) > MAX_CHUNKS_WANTED and self._wanted:
                return
            missing = await self._values.missing(named)
            waiting.missing = set(missing)
            fresh = [digest for digest in missing if digest not in self._wanted]
            if fresh:
                self._wanted.update(fresh)
                want = nodelink_pb2.WantValues(digests=fresh)
                self._link.send(nodelink_pb2.ConnectResponse(want_values=want))

    def _ready(self) -> list[_Waiting]:
        """The next reports that can be committed together."""
        batch: list[_Waiting] = []
        size = 0
        for waiting in self._waiting:
            size += waiting.size
            full = len(batch) >= MAX_SUBMISSION_FACTS or size > MAX_SUBMISSION_BYTES
            if waiting.missing is None or waiting.missing or (batch and full):
                break
            batch.append(waiting)
        return batch

    def _write(self, proposal: Proposal, batch: list[_Waiting]) -> None:
        link = self._link
        subject = f"nodes/{link.node}"
        home = home_of(proposal, subject)
        if home is None or home.domain != link.domain:
            raise NodeMoved(f"{link.node} left domain {link.domain}")
        highest = highest_report(proposal, link.domain, link.node, link.source)
        for waiting in batch:
            report = waiting.report
            if report.sequence <= highest:
                continue
            if waiting.aspect == "actual_state":
                report.actual_state.runtime.last_heartbeat_time.CopyFrom(timestamp(self._wall_ms()))
            proposal.write(
                link.domain,
                subject,
                waiting.aspect,
                getattr(report, waiting.aspect),
                principal=f"node:{link.node}",
                report=(link.source, report.sequence),
            )


def highest_report(facts: Facts, domain: str, node: str, source: str) -> int:
    """The highest number of a report of this source that the node's facts carry; 0 when there is none.

    Reports are whole values, and each is written after those before it: the last one is always among what stands.
    """
    highest = 0
    for aspect in REPORTED_ASPECTS:
        for write in facts.siblings(Key(domain, f"nodes/{node}", aspect)):
            event = write.event()
            if event.report_source == source:
                highest = max(highest, event.report_sequence)
    return highest


def chunks_of(inventory: observation_pb2.Inventory) -> list[str]:
    """Digests of all chunks that an inventory names."""
    found: dict[str, None] = {}
    for value in inventory.large_values:
        if value.chunks:
            found.update((chunk.digest, None) for chunk in value.chunks)
        elif value.size_bytes:
            found[value.digest] = None
    return list(found)


def check_report(report: nodelink_pb2.Report, size: int) -> str:
    """The aspect that a report of so many bytes writes. Raises `ProtocolBroken` for one that cannot be written."""
    body = report.WhichOneof("body")
    if body is None:
        raise ProtocolBroken(f"report {report.sequence} says nothing this version knows")
    if size > MAX_REPORT_BYTES:
        raise ProtocolBroken(
            f"report {report.sequence} is {size} bytes; at most {MAX_REPORT_BYTES} are allowed: keep large values "
            "outside (content-addressed)"
        )
    if body == "inventory":
        _check_chunks(report)
    return str(body)


def _check_chunks(report: nodelink_pb2.Report) -> None:
    named = chunks_of(report.inventory)
    if len(named) > MAX_CHUNKS_WANTED:
        raise ProtocolBroken(
            f"report {report.sequence} names {len(named)} chunks; at most {MAX_CHUNKS_WANTED} are allowed"
        )
    for digest in named:
        if not DIGEST_PATTERN.fullmatch(digest):
            raise ProtocolBroken(f"report {report.sequence} names {digest[:80]!r} as a digest")
