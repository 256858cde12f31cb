"""Watches of the fleet graph: what is around a vertex, a bookmark, then what has changed. Owns their order, tokens and
ends; what is there is `graph_reads`'s.

Health follows from sessions and silence as well as from commits, so a watch looks anew instead of waiting for a commit.
A token names what was shown, not a place in a log: any replica of any controller that sees the same goes on from it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from typing import Any

import grpc

from controller.errors import ServiceError
from controller.services.graph_reads import GraphReads, Look
from controller.services.paging import decode_token, encode_token, query_digest
from controller.services.watching import BOOKMARK_INTERVAL_S, MAX_WATCH_AGE_S, TOKEN_VERSION
from federation.errors import InvalidWrite
from souverix.graph.v1 import graph_service_pb2 as graph

#: What is watched at once: as much as a screen can draw, and a look of 30 ms.
MAX_WATCHED_VERTICES = 1_000

#: Some for each vertex.
MAX_WATCHED_EDGES = 8_000

#: Between two looks, however fast things change: as of overviews.
LOOK_INTERVAL_S = 1.0

#: Between two looks where no commit came and no session began or ended: what time alone brings about.
IDLE_LOOK_INTERVAL_S = 5.0


class GraphWatch:
    """One watch. `reads` makes answers from what is known then; `sign` is another when something has happened."""

    def __init__(
        self, reads: Callable[[], GraphReads], sign: Callable[[], Hashable], request: Any
    ) -> None:
        self._reads = reads
        self._sign = sign
        self._request = request
        self._query = query_digest(request)

    async def steps(
        self, resume_token: str, max_age_s: float = MAX_WATCH_AGE_S
    ) -> AsyncIterator[graph.WatchGraphResponse]:
        """All steps, until the stream's age ends it. Raises `InvalidWrite`, `NotFound`, `ServiceError`."""
        seen_then = self._digest_in(resume_token) if resume_token else ""
        sign, shown = self._sign(), self._look()
        if _digest(shown) != seen_then:
            for step in _changes(Look({}, {}, shown.bookmark), shown):
                yield step
        yield self._bookmark(shown)
        now = asyncio.get_running_loop().time
        end, bookmark = now() + max_age_s, now() + BOOKMARK_INTERVAL_S
        looked = now()
        while now() < end:
            await asyncio.sleep(min(LOOK_INTERVAL_S, end - now()))
            before = shown
            if self._sign() != sign or now() >= looked + IDLE_LOOK_INTERVAL_S:
                looked, sign, shown = now(), self._sign(), self._look()
            changes = list(_changes(before, shown))
            for step in changes:
                yield step
            if changes or now() >= min(bookmark, end):
                bookmark = now() + BOOKMARK_INTERVAL_S
                yield self._bookmark(shown)

    def _look(self) -> Look:
        return self._reads().look(self._request, MAX_WATCHED_VERTICES, MAX_WATCHED_EDGES)

    def _bookmark(self, shown: Look) -> graph.WatchGraphResponse:
        step = graph.WatchGraphResponse(bookmark=shown.bookmark)
        step.bookmark.resume_token = encode_token([TOKEN_VERSION, self._query, _digest(shown)])
        return step

    def _digest_in(self, token: str) -> str:
        parts = decode_token(token, "resume_token")
        if len(parts) != 3 or parts[0] != TOKEN_VERSION or not isinstance(parts[2], str):
            raise InvalidWrite(
                "resume_token is not one this service made; begin anew without it",
                field="resume_token",
            )
        if parts[1] != self._query:
            raise ServiceError(
                grpc.StatusCode.OUT_OF_RANGE,
                "RESUME_TOKEN_EXPIRED",
                "resume_token belongs to a watch with other fields; begin anew without it",
            )
        digest: str = parts[2]
        return digest


def _changes(before: Look, after: Look) -> Iterator[graph.WatchGraphResponse]:
    """What leads from one look to the next: edges go before their vertices, and come after them."""
    for edge, drawn in before.edges.items():
        if edge not in after.edges:
            drawn.ClearField("health")
            yield graph.WatchGraphResponse(removed_edge=drawn)
    for vertex in before.vertices:
        if vertex not in after.vertices:
            yield graph.WatchGraphResponse(removed_vertex=vertex)
    for vertex, message in after.vertices.items():
        if before.vertices.get(vertex) != message:
            yield graph.WatchGraphResponse(vertex=message)
    for edge, drawn in after.edges.items():
        if before.edges.get(edge) != drawn:
            yield graph.WatchGraphResponse(edge=drawn)


def _digest(look: Look) -> str:
    """Of all that was shown, in its order."""
    told = hashlib.sha256(b"1" if look.bookmark.truncated else b"0")
    for message in (*look.vertices.values(), *look.edges.values()):
        told.update(message.SerializeToString(deterministic=True))
    return told.hexdigest()[:32]
