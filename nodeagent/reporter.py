"""Makes reports: what the node is, and what its host holds.

Owns when a report is made and what goes in. Puts it in the backlog; never sends. Works the same with and without
a link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nodeagent.backlog import Backlog
from nodeagent.canonical_json import struct_of
from nodeagent.clock import Clock, duration, timestamp
from nodeagent.configuration import Configuration, ConfigurationStore
from nodeagent.errors import StateUnavailable
from nodeagent.identity import Identity
from nodeagent.inventory import Host, Observed, change_digest, judge_health, observe
from nodeagent.logs import EventLog
from nodeagent.waiting import first_set
from souverix.fleet.v1 import node_pb2, observation_pb2
from souverix.nodelink.v1 import nodelink_pb2

DEFAULT_INTERVAL_S = 300.0
"""Seconds between reports: a twin is never older than this while the link stands."""

INTERVAL_JITTER = 0.1
"""Part by which an interval varies, so that a fleet started together does not report together."""


class Reporter:
    """Makes one node's reports. `made` is called after each; `describe` adds to the state what else runs there."""

    def __init__(
        self,
        host: Host,
        identity: Identity,
        backlog: Backlog,
        configuration: ConfigurationStore,
        *,
        software_version: str,
        clock: Clock,
        chance: Callable[[], float],
        made: Callable[[], None],
        describe: Callable[[node_pb2.ActualState], None] = lambda state: None,
    ) -> None:
        self._host = host
        self._identity = identity
        self._backlog = backlog
        self._configuration = configuration
        self._software_version = software_version
        self._clock = clock
        self._chance = chance
        self._made = made
        self._describe = describe
        self._log = EventLog(identity.node)
        self._health = (node_pb2.RUNTIME_HEALTH_UNSPECIFIED, "")
        self._asked = asyncio.Event()
        self._always = False

    async def run(self, stop: asyncio.Event, interval_s: float) -> None:
        """Report at the start, then after each interval, and whenever asked, until `stop` is set."""
        while not stop.is_set():
            always, self._always = self._always, False
            self._asked.clear()
            try:
                await self.report_inventory(always=always)
                self.report_actual_state()
            except StateUnavailable as error:
                self._log.error("report_not_kept", cause=error)
            pause_s = interval_s * (1 + INTERVAL_JITTER * (2 * self._chance() - 1))
            await first_set(stop, self._asked, timeout_s=pause_s)

    def ask_for_all(self) -> None:
        """Have everything reported soon, changed or not."""
        self._always = True
        self._asked.set()

    async def report_inventory(self, *, always: bool) -> Observed:
        """Look at the host; report what was seen if it changed since the last report, or `always`.

        Raises StateUnavailable.
        """
        observed = await asyncio.to_thread(observe, self._host, self._clock.wall_us())
        self._health = judge_health(observed.inventory)
        digest = change_digest(observed.inventory)
        if always or digest != self._identity.reported_inventory():
            chunks = {
                digest: data for value in observed.values for digest, data in value.chunks.items()
            }
            self._append(observed.inventory, chunks)
            self._identity.keep_reported_inventory(digest)
        return observed

    def report_actual_state(self) -> None:
        """Report what the node runs and how. Raises StateUnavailable."""
        health, reason = self._health
        in_force: Configuration | None = None
        try:
            in_force = self._configuration.in_force()
        except StateUnavailable as error:
            health, reason = node_pb2.RUNTIME_HEALTH_DEGRADED, str(error)
            self._log.error("configuration_unreadable", cause=error)
        state = node_pb2.ActualState(
            reported_version=self._software_version,
            runtime=node_pb2.RuntimeState(health=health, health_reason=reason),
            report_time=timestamp(self._clock.wall_us()),
        )
        uptime_s = self._host.uptime_s()
        if uptime_s is not None:
            state.runtime.uptime.CopyFrom(duration(uptime_s))
        if in_force is not None:
            state.configuration.CopyFrom(struct_of(in_force.document))
            state.config_name = in_force.name
            state.config_hash = in_force.digest
        policy, applied_us = self._configuration.policy(), self._configuration.applied_us()
        if policy is not None:
            state.policy_bundle, state.policy_version = policy.bundle, policy.version
        if applied_us is not None:
            state.last_applied_time.CopyFrom(timestamp(applied_us))
        self._describe(state)
        self._append(state, {})

    def _append(
        self, body: node_pb2.ActualState | observation_pb2.Inventory, chunks: dict[str, bytes]
    ) -> None:
        report = nodelink_pb2.Report(time=timestamp(self._clock.wall_us()))
        if isinstance(body, node_pb2.ActualState):
            report.actual_state.CopyFrom(body)
        else:
            report.inventory.CopyFrom(body)
        superseded = self._backlog.superseded
        self._backlog.append(report, chunks)
        if self._backlog.superseded > superseded:
            dropped = self._backlog.superseded - superseded
            self._log.warning("backlog_full", superseded=dropped, waiting=self._backlog.waiting)
        self._made()
