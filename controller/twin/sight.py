"""What a controller sees beside its log: the links of its nodes, and which controllers it can reach. Owns the port to
them; for one answer, and then dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from controller.connectivity.table import ConnectivityTable


class Reach(Protocol):
    """The links to other controllers."""

    def link_up(self, controller: str) -> bool:
        """Tells whether the next hop towards a controller has a session now."""

    def last_heard_ms(self, controller: str) -> int | None:
        """When the next hop towards a controller was last heard, since the epoch; None: never by this process."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen at one moment, in monotonic seconds."""

    table: ConnectivityTable
    reach: Reach
    now_s: float
