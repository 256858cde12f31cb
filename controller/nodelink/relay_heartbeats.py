"""Heartbeats of the nodes behind one relay, a batch at a time. Owns which index stands for which link and row; a batch
touches the table of connectivity once, and writes nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from controller.connectivity.table import ConnectivityTable
from controller.nodelink.link import Link
from controller.nodelink.reports import ProtocolBroken
from souverix.nodelink.v1 import relay_pb2

#: Largest number of waiting reports that is believed; the column holds signed numbers.
MAX_BACKLOG = 2**62

#: Indices at the beginning; the room doubles when it is full.
FIRST_INDICES = 64

_US_PER_S = 1e6


class RelayHeartbeats:
    """Heartbeats of one relay. Room grows with the highest index in use."""

    def __init__(self, table: ConnectivityTable) -> None:
        self._table = table
        self._layout = table.layout
        self._links: list[Link | None] = []
        self._used = np.zeros(0, np.bool_)
        self._linked = np.zeros(0, np.bool_)
        self._rows = np.zeros(0, np.int64)

    def greeted(self, index: int) -> None:
        """An index came into use."""
        if index >= len(self._links):
            more = max(FIRST_INDICES, index + 1, 2 * len(self._links)) - len(self._links)
            self._links += [None] * more
            self._used = np.concatenate([self._used, np.zeros(more, np.bool_)])
            self._linked = np.concatenate([self._linked, np.zeros(more, np.bool_)])
            self._rows = np.concatenate([self._rows, np.full(more, -1, np.int64)])
        self._used[index] = True

    def opened(self, index: int, link: Link) -> None:
        """The link of an index stands."""
        self._links[index] = link
        self._linked[index] = True
        self._rows[index] = self._table.rows_of([link.node])[0]

    def ended(self, index: int) -> None:
        """The link of an index is over; heartbeats that are on the way mean nothing."""
        self._links[index] = None
        self._linked[index] = False
        self._rows[index] = -1

    def freed(self, index: int) -> None:
        """An index is not in use any more."""
        self._used[index] = False

    def take(self, batch: relay_pb2.HeartbeatBatch, now_s: float) -> None:
        """Takes in a batch; of a node that is named twice the last entry counts. Raises `ProtocolBroken`."""
        count = len(batch.nodes)
        for name, length in (("rtts_us", len(batch.rtts_us)), ("backlogs", len(batch.backlogs))):
            if length not in (0, count):
                raise ProtocolBroken(f"{length} {name} came with {count} nodes")
        if not count:
            return
        nodes = np.fromiter(batch.nodes, np.int64, count)
        self._check(nodes)
        rtts_s = np.full(count, np.nan)
        if batch.rtts_us:
            measured_us = np.fromiter(batch.rtts_us, np.float64, count)
            rtts_s = np.where(measured_us > 0, measured_us / _US_PER_S, np.nan)
        waiting = np.zeros(count, np.int64)
        if batch.backlogs:
            told = np.fromiter(batch.backlogs, np.uint64, count)
            waiting = np.minimum(told, MAX_BACKLOG).astype(np.int64)
        if self._layout != self._table.layout:
            self._look_up()
        rows = self._rows[nodes]
        known = rows >= 0
        if not known.all():
            rows, rtts_s, waiting = rows[known], rtts_s[known], waiting[known]
        self._table.heard_all(rows, rtts_s, waiting, now_s)
        links = self._links
        for index in batch.nodes:
            link = links[index]
            if link is not None:
                link.heard_s = now_s

    def _check(self, nodes: npt.NDArray[np.int64]) -> None:
        inside = nodes < len(self._links)
        wrong = ~inside
        wrong[inside] = ~self._used[nodes[inside]]
        if wrong.any():
            index = int(nodes[np.argmax(wrong)])
            raise ProtocolBroken(f"a heartbeat came under index {index}, which no node has")

    def _look_up(self) -> None:
        """Rows may stand for other nodes since some were forgotten."""
        self._layout = self._table.layout
        linked = np.flatnonzero(self._linked)
        names = [link.node for link in self._links if link is not None]
        self._rows[linked] = self._table.rows_of(names)
