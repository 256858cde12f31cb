"""Scopes: the domains that a list or a watch asks for. Owns what `domain` and `include_subtree` of a request mean where
no domain means every one known here; knows no resource.
"""

from __future__ import annotations

from typing import Any

from controller.services.fleet_fields import check_id
from controller.services.fleet_nodes import check_domain
from controller.twin.domain import live_subtree
from federation.state import State


class Scope:
    """The domains one request asks for. Raises `InvalidWrite`, `NotFound` for what no scope may be."""

    def __init__(self, state: State, request: Any) -> None:
        self._state = state
        self._domain: str = request.domain
        self._include_subtree: bool = request.include_subtree
        if self._domain:
            check_domain(state, check_id(self._domain, "domain"))

    def domains(self) -> list[str]:
        """The domains asked for."""
        if not self._domain:
            return list(self._state.authority.records)
        if self._include_subtree:
            return live_subtree(self._state, self._domain)
        return [self._domain]

    def holds(self, domain: str) -> bool:
        """Tells whether what is in this domain is asked for."""
        if not self._domain or domain == self._domain:
            return True
        return self._include_subtree and self._state.authority.is_within(domain, self._domain)
