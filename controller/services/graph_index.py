"""The declared edges of one replica, kept up to date commit by commit. Owns when they are read anew."""

from __future__ import annotations

import contextlib

from controller.graph.declared import (
    RELATIONSHIPS,
    DeclaredEdges,
    declared_edge,
    read_all,
    relationship_name,
)
from controller.replica import Replica
from federation.state import Applied

_PREFIX = f"{RELATIONSHIPS}/"


class GraphIndex:
    """The adjacency. It is read at the first question; from then on only what changed is read again."""

    def __init__(self, replica: Replica) -> None:
        self._state = replica.state
        self._edges: DeclaredEdges | None = None
        self._changed: set[tuple[str, str]] = set()
        self._listening = contextlib.ExitStack()
        self._listening.enter_context(replica.changes.listen(self._take_note))

    def edges(self) -> DeclaredEdges:
        """The declared edges as they are now."""
        if self._edges is None:
            self._edges = DeclaredEdges()
            read_all(self._state, self._edges)
        for domain, subject in self._changed:
            edge = declared_edge(self._state, domain, subject)
            self._edges.put(relationship_name(domain, subject), edge)
        self._changed.clear()
        return self._edges

    def _take_note(self, applied: Applied) -> None:
        if self._edges is not None:
            self._changed.update(
                (key.domain, key.subject) for key in applied.keys if key.subject.startswith(_PREFIX)
            )
