"""What is gauged of a replica, at intervals. Owns the looks: they are taken on the event loop, so that exporters, which
have threads of their own, read only what was noted and never the state itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from controller.journal import JournalClosed
from controller.replica import Replica
from controller.sync.links import Links
from controller.telemetry import catalogue
from federation.session_phases import Phase
from souverix.fleet.v1 import connectivity_pb2, drift_pb2
from telemetry.instruments import Meter, Metric, Reading

#: Between two looks at whether the event loop keeps its time.
LAG_STEP_S = 0.1

#: Longest time between two looks at everything else, however seldom it is exported: a scrape finds what is fresh.
MAX_LOOK_S = 5.0

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Gauges:
    """All gauges of one replica. `run` is their life."""

    def __init__(
        self,
        meter: Meter,
        replica: Replica,
        links: Links,
        node_links: Callable[[], int],
        interval_s: float,
    ) -> None:
        self._replica = replica
        self._links = links
        self._node_links = node_links
        self._look_s = min(interval_s, MAX_LOOK_S)
        self._worst_lag_s = 0.0
        self._readings: dict[str, list[Reading]] = {}
        for metric in catalogue.METRICS:
            if metric.kind == "gauge":
                meter.gauge(metric, self._reader(metric))

    def _reader(self, metric: Metric) -> Callable[[], Iterable[Reading]]:
        return lambda: self._readings.get(metric.name, [])

    async def run(self) -> None:
        """Looks, until cancelled."""
        loop = asyncio.get_running_loop()
        look_at_s = loop.time()
        while True:
            due_s = loop.time() + LAG_STEP_S
            await asyncio.sleep(LAG_STEP_S)
            now_s = loop.time()
            self._worst_lag_s = max(self._worst_lag_s, now_s - due_s)
            if now_s >= look_at_s:
                self._readings = {m.name: readings for m, readings in self._look().items()}
                self._worst_lag_s = 0.0
                look_at_s = now_s + self._look_s

    def _look(self) -> dict[Metric, list[Reading]]:
        state = self._replica.state
        try:
            journal = self._replica.journal()
            waiting, token = journal.waiting, journal.fencing_token
        except JournalClosed:
            waiting, token = 0, 0
        return {
            catalogue.LOG_COMMITS: [(state.next_offset, {})],
            catalogue.QUEUE_DEPTH: [(waiting, {})],
            catalogue.STREAMS: [(len(state.streams), {})],
            catalogue.NODE_LINKS: [(self._node_links(), {})],
            catalogue.CONFLICTS_OPEN: [(len(state.conflicts.open_keys), {})],
            catalogue.MASTERSHIP: [(int(self._replica.is_master), {})],
            catalogue.FENCING_TOKEN: [(token, {})],
            catalogue.LOOP_LAG: [(self._worst_lag_s, {})],
            catalogue.MEMORY: [(_resident_bytes(), {})],
            **self._look_at_storage(),
            **self._look_at_peers(),
            **self._look_at_nodes(),
        }

    def _look_at_storage(self) -> dict[Metric, list[Reading]]:
        storage = self._replica.log_storage
        if storage is None:
            return {}
        free_bytes = storage.store.free_bytes
        return {
            catalogue.LOG_STORE_SIZE: [
                (storage.store.file_bytes - free_bytes, {"souverix.log.store.state": "used"}),
                (free_bytes, {"souverix.log.store.state": "free"}),
            ],
            catalogue.LOG_ARCHIVE_SIZE: [(storage.archive_bytes, {})],
            catalogue.LOG_UNARCHIVED: [
                (max(0, self._replica.state.next_offset - storage.archived_to), {})
            ],
        }

    def _look_at_peers(self) -> dict[Metric, list[Reading]]:
        sessions: list[Reading] = []
        debts: list[Reading] = []
        backlogs: list[Reading] = []
        for peer in self._links.peers():
            named = {"souverix.peer": peer.controller}
            sessions.append((int(peer.phase is Phase.SYNCING), named))
            if peer.debt is not None:
                debts.append((peer.debt.behind_ms / 1000, named))
                for kind, count in peer.debt.by_kind.items():
                    backlogs.append((count, {**named, "souverix.backlog.kind": kind}))
        return {
            catalogue.SYNC_SESSIONS: sessions,
            catalogue.SYNC_DEBT: debts,
            catalogue.SYNC_BACKLOG: backlogs,
        }

    def _look_at_nodes(self) -> dict[Metric, list[Reading]]:
        """From the sums that follow the log: as many looks as domains, however many nodes."""
        modes: list[Reading] = []
        drifts: list[Reading] = []
        columns = self._replica.nodes.columns
        for domain in self._replica.state.authority.records:
            code = columns.values["domain"].known(domain)
            sums = columns.totals.of([code]) if code is not None else None
            if sums is None or not sums.nodes:
                continue
            named = {"souverix.domain": domain}
            for number, count in enumerate(sums.by("mode")):
                word = _word(connectivity_pb2.ConnectivityMode, "CONNECTIVITY_MODE_", number)
                modes.append((count, {**named, "souverix.connectivity.mode": word}))
            for number, count in enumerate(sums.by("drift_state")):
                word = _word(drift_pb2.DriftState, "DRIFT_STATE_", number)
                drifts.append((count, {**named, "souverix.drift.state": word}))
        return {catalogue.NODE_MODES: modes, catalogue.NODE_DRIFT: drifts}


def _word(enum: EnumTypeWrapper, prefix: str, number: int) -> str:
    value = enum.DESCRIPTOR.values_by_number.get(number)
    return value.name.removeprefix(prefix).lower() if value is not None else "unspecified"


def _resident_bytes() -> int:
    """Resident memory; 0 where the system does not tell it that way."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
