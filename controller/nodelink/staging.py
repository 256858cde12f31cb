"""A backlog on its way in: staged, checked, and without effect until its end is verified. Owns the checks and their
order; applies nothing.

Each chunk is checked as it comes: bounds, hash chain, order, form. What comes twice is the same or a violation. The
chain is over reports, not chunks: after a cut the agent goes on behind the last staged one, however it cuts then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from google.protobuf.message import DecodeError

from controller.nodelink.proof import chain_next, chain_start, custody_message, end_message
from controller.nodelink.reports import ProtocolBroken, check_report
from souverix.nodelink.v1 import nodelink_pb2

#: Reports of one replay: as many as an agent keeps. More follow in the next.
MAX_REPORTS = 4096

#: Bytes of one replay: some thousand reports with their configuration. With as many replays as run at once (64 unless
#: configured) it bounds what a storm can hold in memory.
MAX_BYTES = 4 * 1024 * 1024

#: Bytes of one chunk: the largest report and room for small ones.
MAX_CHUNK_BYTES = 512 * 1024

#: Bytes kept of replays that were cut, all together; the oldest goes first, and its node begins anew.
MAX_PARKED_BYTES = 64 * 1024 * 1024

#: How long a cut replay is kept: a link that breaks comes back within minutes, or the backlog has grown by then anyway.
PARKED_FOR_S = 600.0


class Violation(Exception):
    """The backlog is not what the agent recorded. `reason` is a stable word."""

    def __init__(self, reason: str, evidence: str) -> None:
        super().__init__(f"{reason}: {evidence}")
        self.reason = reason
        self.evidence = evidence


class Staged(NamedTuple):
    """How far a staging has come: so many reports of an agent (its source) from the one numbered `first`, and where
    their chain leads.
    """

    source: str
    first: int
    reports: int
    head: bytes


class Staging:
    """One replay of one node, from the report numbered `first`."""

    def __init__(self, node: str, source: str, first: int) -> None:
        self.node = node
        self.source = source
        self.first = first
        self.reports: list[bytes] = []
        self.head = chain_start(node, source, first)
        self.size = 0
        self._chunk_heads: list[bytes] = []

    @property
    def staged(self) -> Staged:
        """How far it has come."""
        return Staged(self.source, self.first, len(self.reports), self.head)

    @property
    def last(self) -> int:
        """Number of the last staged report; `first - 1` when none is."""
        return self.first + len(self.reports) - 1

    @property
    def next_chunk(self) -> int:
        """Number of the next chunk."""
        return len(self._chunk_heads) + 1

    def take(self, chunk: nodelink_pb2.ReplayChunk) -> bool:
        """Stages a chunk; False for one that was staged before. Raises `Violation`."""
        if chunk.number < self.next_chunk:
            if chunk.number and self._chunk_heads[chunk.number - 1] == chunk.chain_hash:
                return False
            raise Violation(
                "CHUNK_REPEATED", f"chunk {chunk.number} came again and is another than before"
            )
        if chunk.number > self.next_chunk:
            raise Violation(
                "CHUNK_MISSING", f"chunk {chunk.number} came where {self.next_chunk} was expected"
            )
        size = sum(map(len, chunk.reports))
        self._check_bounds(chunk, size)
        head = self.head
        for report in chunk.reports:
            head = chain_next(head, report)
        if head != chunk.chain_hash:
            raise Violation(
                "CHAIN_BROKEN",
                f"chunk {chunk.number} leads to {head.hex()[:16]}, and says {chunk.chain_hash.hex()[:16]}",
            )
        self._check_order(chunk)
        self.reports.extend(chunk.reports)
        self.size += size
        self.head = head
        self._chunk_heads.append(head)
        return True

    def check_end(
        self,
        chunk: nodelink_pb2.ReplayChunk,
        token: bytes,
        is_signed: Callable[[bytes, bytes], bool],
    ) -> None:
        """Checks the signature that ends the replay, over all that is staged. Raises `Violation`."""
        message = end_message(token, self.last, chunk.remaining_reports, self.head)
        if not is_signed(message, chunk.signature):
            raise Violation(
                "SIGNATURE_INVALID",
                f"the end at report {self.last} is not signed with the node's key over this session",
            )

    def check_custody(self, signature: bytes, is_signed: Callable[[bytes, bytes], bool]) -> None:
        """Checks the signature with which an agent handed this batch to a relay. Raises `Violation`."""
        if not is_signed(custody_message(self.last, self.head), signature):
            raise Violation(
                "SIGNATURE_INVALID",
                f"the batch of reports {self.first} to {self.last} is not signed with the node's key",
            )

    def _check_bounds(self, chunk: nodelink_pb2.ReplayChunk, size: int) -> None:
        if size > MAX_CHUNK_BYTES:
            raise Violation(
                "OVERSIZED",
                f"chunk {chunk.number} has {size} bytes; {MAX_CHUNK_BYTES} are allowed",
            )
        if (
            len(self.reports) + len(chunk.reports) > MAX_REPORTS
            or self.size + size > MAX_BYTES + MAX_CHUNK_BYTES
        ):
            raise Violation(
                "OVERSIZED",
                f"with chunk {chunk.number} the replay exceeds {MAX_REPORTS} reports or {MAX_BYTES} bytes",
            )
        if not chunk.reports and not chunk.signature:
            raise Violation("CHUNK_EMPTY", f"chunk {chunk.number} neither brings nor ends anything")

    def _check_order(self, chunk: nodelink_pb2.ReplayChunk) -> None:
        for expected, raw in enumerate(chunk.reports, self.last + 1):
            try:
                report = nodelink_pb2.Report.FromString(raw)
            except DecodeError as error:
                raise Violation(
                    "UNDECODABLE", f"report {expected} in chunk {chunk.number} is no report"
                ) from error
            if report.sequence != expected:
                raise Violation(
                    "SEQUENCE_BROKEN",
                    f"report {report.sequence} stands in chunk {chunk.number} where {expected} is expected",
                )
            try:
                check_report(report, len(raw))
            except ProtocolBroken as error:
                raise Violation("REPORT_INVALID", str(error)) from error


class Parked:
    """Replays that were cut, kept for the next link of their node. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[float, Staging]] = OrderedDict()
        self._size = 0

    def park(self, staging: Staging, now_s: float) -> None:
        """Keeps what is staged, if anything is."""
        self.take(staging.node)
        if staging.reports:
            self._held[staging.node] = (now_s, staging)
            self._size += staging.size
        while self._held and (self._size > MAX_PARKED_BYTES or self._oldest_s() < now_s):
            self._drop(next(iter(self._held)))

    def resume(self, node: str, source: str, first: int, now_s: float) -> Staging:
        """What was staged of this very replay, else a new one."""
        held = self._held.get(node)
        self.take(node)
        if held is not None and now_s - held[0] <= PARKED_FOR_S:
            staging = held[1]
            if (staging.source, staging.first) == (source, first):
                return staging
        return Staging(node, source, first)

    def take(self, node: str) -> None:
        """Forgets what is kept of a node."""
        if node in self._held:
            self._drop(node)

    def clear(self) -> None:
        """Forgets everything: another mastership begins anew."""
        self._held.clear()
        self._size = 0

    def _oldest_s(self) -> float:
        parked_s, _ = next(iter(self._held.values()))
        return parked_s + PARKED_FOR_S

    def _drop(self, node: str) -> None:
        _, staging = self._held.pop(node)
        self._size -= staging.size
