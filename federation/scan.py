"""Committed state as it is read in passing, subject after subject. Owns that a read of every node leaves memory as it
was: what is cold stays cold.
"""

from __future__ import annotations

from federation.codec import Write
from federation.identifiers import Key
from federation.merge import Siblings, winner_of
from federation.state import State
from federation.table import Aspects


class Scan:
    """Reads as `State` does. The aspects of the cold subject read last are kept, since they are asked for one by one;
    hence a scan is good until others may have written: take a new one after every wait.
    """

    __slots__ = ("_aspects", "_domain", "_subject", "state")

    def __init__(self, state: State) -> None:
        self.state = state
        self._domain = self._subject = ""
        self._aspects: Aspects = {}

    def siblings(self, key: Key) -> Siblings:
        """As `State.siblings`."""
        domain, subject, aspect = key
        aspects = self.state.table.hot(domain, subject)
        if aspects is None:
            if subject != self._subject or domain != self._domain:
                self._aspects = self.state.table.glance(domain, subject)
                self._domain, self._subject = domain, subject
            aspects = self._aspects
        return aspects.get(aspect, ())

    def winner(self, key: Key) -> Write | None:
        """As `State.winner`."""
        held = self.siblings(key)
        return winner_of(key, held, self.state.rank) if held else None
