"""Cuts the backlog into chunks when the node's turn to replay has come.

Owns where chunks and replays end, and the chain over their reports. Sends nothing and forgets nothing: the backlog
gives up a report when the controller has acknowledged it.
"""

from __future__ import annotations

from nodeagent.backlog import Backlog
from nodeagent.errors import ReplayRefused
from nodeagent.identity import Identity
from nodeagent.proof import chain_next, chain_start, custody_message, end_message
from souverix.nodelink.v1 import nodelink_pb2

CHUNK_BYTES = 128 * 1024
"""Bytes of reports in a chunk: heartbeats go between two chunks, and a thin link carries one in a second or so."""

CHUNK_REPORTS = 256
"""Reports in a chunk: as many as the controller commits in one go."""


class Replay:
    """One replay: what waits at the node now, as far as the controller's bounds allow."""

    def __init__(
        self,
        backlog: Backlog,
        identity: Identity,
        token: bytes,
        turn: nodelink_pb2.ReplayTurn,
    ) -> None:
        """Raises ReplayRefused when the controller wants what is gone or never was; StateUnavailable."""
        self._backlog = backlog
        self._identity = identity
        self._token = token
        self._turn = turn
        if turn.first_sequence != backlog.acknowledged + 1:
            raise ReplayRefused(
                f"the controller wants reports from {turn.first_sequence}, the oldest that waits is "
                f"{backlog.acknowledged + 1}"
            )
        self._left = backlog.waiting
        self._sent = 0
        self._size = 0
        self._number = 1
        self._last = turn.first_sequence - 1
        self._head = chain_start(identity.node, identity.source, turn.first_sequence)
        self._skip_staged()

    def next_chunk(self) -> nodelink_pb2.ReplayChunk:
        """The next chunk; the one that is signed is the last. Raises StateUnavailable."""
        chunk = nodelink_pb2.ReplayChunk(number=self._number, first_sequence=self._last + 1)
        size = 0
        while len(chunk.reports) < CHUNK_REPORTS and size < CHUNK_BYTES and not self._is_full():
            raw = self._take()
            if raw is None:
                break
            chunk.reports.append(raw)
            size += len(raw)
        self._number += 1
        chunk.chain_hash = self._head
        if self._is_full() or not chunk.reports:
            chunk.remaining_reports = self._left
            chunk.signature = self._identity.sign(self._end())
        return chunk

    def _end(self) -> bytes:
        if self._turn.custody:
            return custody_message(self._last, self._head)
        return end_message(self._token, self._last, self._left, self._head)

    @property
    def last(self) -> int:
        """Number of the last report handed out."""
        return self._last

    def _skip_staged(self) -> None:
        """Goes on behind what the controller staged before a cut, if that is what we have; else begins anew."""
        turn = self._turn
        fresh = (self._left, self._sent, self._size, self._last, self._head)
        while self._last < turn.staged_sequence:
            if self._take() is None:
                break
        if self._last == turn.staged_sequence and self._head == turn.staged_hash:
            self._number = turn.next_chunk
        else:
            self._left, self._sent, self._size, self._last, self._head = fresh

    def _is_full(self) -> bool:
        bounds = self._turn
        return (
            not self._left
            or self._sent >= bounds.max_reports
            or (bool(bounds.max_bytes) and self._size >= bounds.max_bytes)
        )

    def _take(self) -> bytes | None:
        report = self._backlog.next_after(self._last)
        if report is None:
            self._left = 0
            return None
        raw = report.SerializeToString(deterministic=True)
        self._head = chain_next(self._head, raw)
        self._last = report.sequence
        self._left = max(0, self._left - 1)
        self._sent += 1
        self._size += len(raw)
        return raw
