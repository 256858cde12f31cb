"""How fresh what is known of a domain is, and whether it can be known now. Owns the rules; computed for one answer and
then dropped.

A domain is known up to the last commit here that holds an event of its controller. What this controller serves itself
is known up to now. Whether a domain's controller can be reached is told, for the first hop towards it, by what this
replica sees; for each hop beyond, by what the controller at its nearer end recorded (`controller.twin.hops`).
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from controller.connectivity.measurements import Measured
from controller.twin.facts import timestamp
from controller.twin.hops import Hop, hops_between, recorded_down_since_ms
from controller.twin.sight import Sight
from federation.state import State


class Freshness:
    """As-of times for one answer. `now_ms` is milliseconds since the epoch.

    `sight` is what the replica sees beside its log at that time; None where it sees nothing. Of a past time (`is_past`)
    nobody remembers which controllers could be reached: what had been recorded by then is all there is.
    """

    __slots__ = (
        "_by_domain", "_heard", "_is_past", "_now_ms", "_own_domain", "_sight", "_state", "_unknown"
    )  # fmt: skip

    def __init__(
        self,
        state: State,
        own_domain: str,
        now_ms: int,
        sight: Sight | None = None,
        *,
        is_past: bool = False,
    ) -> None:
        self._is_past = is_past
        self._sight = sight
        self._unknown: dict[str, int | None] = {}
        self._state = state
        self._own_domain = own_domain
        self._now_ms = now_ms
        self._heard: dict[str, int] | None = None
        self._by_domain: dict[str, int | None] = {}

    @property
    def now_ms(self) -> int:
        """The time of the answer, in milliseconds since the epoch."""
        return self._now_ms

    @property
    def own_domain(self) -> str:
        """The domain of the controller that answers."""
        return self._own_domain

    def as_of_ms(self, domain: str) -> int | None:
        """Up to when the domain is known; None when nothing of its controller has arrived."""
        if domain not in self._by_domain:
            self._by_domain[domain] = self._compute(domain)
        return self._by_domain[domain]

    def as_of(self, domain: str) -> Timestamp | None:
        """As `as_of_ms`, as a message."""
        known = self.as_of_ms(domain)
        return timestamp(known) if known is not None else None

    def oldest(self, domains: Iterable[str]) -> Timestamp | None:
        """The oldest as-of time of several domains; None when one of them is not known at all."""
        times = [self.as_of_ms(domain) for domain in domains]
        known = [time for time in times if time is not None]
        return timestamp(min(known)) if known and len(known) == len(times) else None

    def unknown_since_ms(self, domain: str) -> int | None:
        """Since when nothing is known of what happens in a domain, because its controller cannot be reached; None
        while it can, or where that cannot be told.
        """
        if domain not in self._unknown:
            self._unknown[domain] = self._cut_off_since_ms(domain)
        return self._unknown[domain]

    def reachable(self, domain: str) -> bool | None:
        """Tells whether a domain's controller can be reached; None where it is this one, or that cannot be told."""
        if self.unknown_since_ms(domain) is not None:
            return False
        return True if self._sight is not None and self._way_to(domain) else None

    def measured(self, node: str) -> Measured | None:
        """What is measured of a node's link here; None where it has none here."""
        if self._sight is None:
            return None
        return self._sight.table.measured(node, self._sight.now_s)

    def wall_time(self, monotonic_s: float) -> Timestamp:
        """A measured time as a message."""
        now_s = self._sight.now_s if self._sight is not None else monotonic_s
        return timestamp(self._now_ms - max(0, int((now_s - monotonic_s) * 1000)))

    def link_down_since_ms(self, hop: Hop) -> int | None:
        """Since when one link between controllers is not known to stand; None while it does, or where nothing tells."""
        if self._sight is not None and hop.near == self._state.controller:
            return self._out_of_sight_since_ms(hop.far)
        return recorded_down_since_ms(self._state, hop)

    def _cut_off_since_ms(self, domain: str) -> int | None:
        """The earliest of the hops: beyond it nothing was heard any more, whatever the others do."""
        if self._is_past:
            return None
        found = [
            since_ms
            for hop in self._way_to(domain)
            if (since_ms := self.link_down_since_ms(hop)) is not None
        ]
        return min(found, default=None)

    def _out_of_sight_since_ms(self, controller: str) -> int | None:
        if self._sight is None or self._sight.reach.link_up(controller):
            return None
        heard_ms = self._sight.reach.last_heard_ms(controller) or 0
        return max(heard_ms, self._last_heard().get(controller, 0))

    def _way_to(self, domain: str) -> list[Hop]:
        """The hops to a domain's controller; the first alone where the tree between is not known here."""
        controller = self._controller_of(domain)
        if controller in ("", self._state.controller):
            return []
        hops = hops_between(self._state.authority, self._own_domain, domain)
        return hops or [Hop(self._state.controller, controller, domain)]

    def _compute(self, domain: str) -> int | None:
        controller = self._controller_of(domain)
        if domain == self._own_domain or controller == self._state.controller:
            return self._now_ms
        heard_ms = self._last_heard().get(controller)
        return min(heard_ms, self._now_ms) if self._is_past and heard_ms is not None else heard_ms

    def _controller_of(self, domain: str) -> str:
        """Who speaks for a domain: its own controller, else the one of the nearest domain above that has one."""
        records = self._state.authority.records
        for at in reversed(self._state.authority.path_of(domain) or (domain,)):
            record = records.get(at)
            if record is not None and record.controller:
                return record.controller
        record = records.get(domain)
        return record.master_of_record if record is not None else ""

    def _last_heard(self) -> dict[str, int]:
        if self._heard is None:
            heard: dict[str, int] = {}
            for stream, held in self._state.streams.items():
                time_ms = held.index.time_ms_of(held.received)
                if time_ms is not None and time_ms > heard.get(stream.origin.controller, 0):
                    heard[stream.origin.controller] = time_ms
            self._heard = heard
        return self._heard
