"""A node's certificate that is shown here although another controller delivers to the node. Owns when that means that
it is used from two places at once; decides nothing else, and writes nothing.

An agent may dial here by mistake, or while its own controller does not answer. But when its controller has another run
of the agent linked, without a break from before this one was first seen here until it is seen again much later, there
are two. Times are monotonic seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from controller.twin.facts import Facts
from federation.identifiers import Key
from souverix.fleet.v1 import connectivity_pb2

#: How long apart: by then a controller that had lost the node has noticed (three heartbeats), and this one has heard.
APART_S = 60.0

#: Nodes remembered: more that stray at once are a fleet that was set up wrongly, which is seen otherwise.
MAX_REMEMBERED = 10_000

_LINKED = (connectivity_pb2.CONNECTIVITY_MODE_LIVE, connectivity_pb2.CONNECTIVITY_MODE_DELAYED)


class _Sighting(NamedTuple):
    at_s: float
    run: str
    #: Stamp of the fact by which its own controller has another run linked.
    stamp: int


class Elsewhere:
    """What was seen here of nodes that live elsewhere."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, _Sighting] = OrderedDict()

    def is_at_two_places(
        self, facts: Facts, domain: str, node: str, run: str, now_s: float
    ) -> bool:
        """Takes note of a run of a node's agent that greets here; tells whether another is linked at its controller.

        That controller must be in reach, so that what is known of the link holds.
        """
        write = facts.winner(Key(domain, f"nodes/{node}", "link_state"))
        if write is None or not _has_another(write.body(), run):
            self._seen.pop(node, None)
            return False
        first = self._seen.get(node)
        if first is None or (first.run, first.stamp) != (run, write.stamp):
            self._seen[node] = _Sighting(now_s, run, write.stamp)
            while len(self._seen) > MAX_REMEMBERED:
                self._seen.popitem(last=False)
            return False
        return now_s - first.at_s >= APART_S


def _has_another(link: connectivity_pb2.LinkState, run: str) -> bool:
    return link.mode in _LINKED and link.run not in ("", run)
