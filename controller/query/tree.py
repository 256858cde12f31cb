"""The tree of domains as lists and counts need it. Owns what is remembered of it; the tree itself is the state's."""

from __future__ import annotations

from controller.twin.domain import live_subtree
from federation.state import State


class DomainTree:
    """Domains that are not deleted, remembered until the tree changes."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._below: dict[str, list[str]] = {}

    def forget(self) -> None:
        """The tree has changed."""
        self._below.clear()

    def subtree(self, domain: str) -> list[str]:
        """The domain and those below it, parents first."""
        found = self._below.get(domain)
        if found is None:
            found = self._below[domain] = live_subtree(self._state, domain)
        return found
