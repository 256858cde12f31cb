"""How fresh what is known of a domain is. Owns the rule; computed for one answer and then dropped.

A domain is known up to the last commit here that holds an event of its controller. What this controller serves itself
is known up to now.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from controller.twin.facts import timestamp
from federation.state import State


class Freshness:
    """As-of times for one answer. `now_ms` is milliseconds since the epoch."""

    __slots__ = ("_by_domain", "_heard", "_now_ms", "_own_domain", "_state")

    def __init__(self, state: State, own_domain: str, now_ms: int) -> None:
        self._state = state
        self._own_domain = own_domain
        self._now_ms = now_ms
        self._heard: dict[str, int] | None = None
        self._by_domain: dict[str, int | None] = {}

    @property
    def now_ms(self) -> int:
        """The time of the answer, in milliseconds since the epoch."""
        return self._now_ms

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

    def _compute(self, domain: str) -> int | None:
        controller = self._controller_of(domain)
        if domain == self._own_domain or controller == self._state.controller:
            return self._now_ms
        return self._last_heard().get(controller)

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
