"""Instruments as the rest of the code uses them, and what stands in for them while nothing is measured. Owns the port;
where measurements go is `exporting`'s, what is measured each program's catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from telemetry.spans import Attributes


class Metric(NamedTuple):
    """One metric of a catalogue."""

    name: str
    #: "counter", "histogram" or "gauge".
    kind: str
    #: As UCUM has it: "s", "By", "{event}".
    unit: str
    description: str
    #: Attributes it is told apart by; each has few values (a method, a domain, a peer), never a node.
    attributes: tuple[str, ...] = ()
    #: Upper bounds of a histogram's buckets.
    buckets: tuple[float, ...] = ()


Reading = tuple[float, Attributes]


class Instrument:
    """Takes measurements. This one drops them."""

    def record(self, value: float, attributes: Attributes | None = None) -> None:
        """One measurement; of a counter, what is to be added."""


NO_INSTRUMENT = Instrument()


class Meter:
    """Makes instruments. This one makes none."""

    is_on = False

    def instrument(self, metric: Metric) -> Instrument:
        """A counter or a histogram."""
        return NO_INSTRUMENT

    def gauge(self, metric: Metric, read: Callable[[], Iterable[Reading]]) -> None:
        """Has a gauge read when it is told or scraped, by another thread: `read` must bear that."""
