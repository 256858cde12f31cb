"""The core's state, watched while it takes effect. Owns the checks that are made at every event (I4, I5, I9); changes
nothing.
"""

from __future__ import annotations

from federation.bounds import Foreknown
from federation.chain import Verifier
from federation.codec import Write
from federation.identifiers import StreamId
from federation.state import Applied, State
from tests.simulation.history import History
from tests.simulation.world import InvariantViolated


class ObservedState(State):
    """A `State` that checks the order and the grounds of each effect."""

    def __init__(
        self,
        controller: str,
        verifier: Verifier,
        root_key: bytes,
        history: History,
        foreknown: Foreknown | None = None,
    ) -> None:
        super().__init__(controller, verifier, root_key, foreknown)
        self._history = history
        self._effects: dict[StreamId, int] = {}
        self._granted: set[str] = set()

    def _merge(self, stream: StreamId, write: Write, offset: int, applied: Applied) -> None:
        expected = self._effects.get(stream, 0) + 1
        if write.sequence < expected:
            raise InvariantViolated(
                "I9", f"{self.controller} applies {stream} {write.sequence} again"
            )
        if write.sequence > expected:
            raise InvariantViolated(
                "I4", f"{self.controller} applies {stream} {write.sequence} before {expected}"
            )
        self._effects[stream] = write.sequence
        genuine = self._history.writes.get((stream, write.sequence))
        if genuine is None or genuine.raw != write.raw:
            raise InvariantViolated(
                "I10",
                f"{self.controller} applies {stream} {write.sequence}, which {stream.origin.controller} never wrote",
            )
        writer = stream.origin.controller
        if write.aspect in ("key_grant", "genesis", "authority"):
            self._grant(stream, write)
        if writer != self.controller:
            self._check_grounds(stream, write, writer)
        super()._merge(stream, write, offset, applied)

    def _grant(self, stream: StreamId, write: Write) -> None:
        body = write.body()
        if write.aspect == "key_grant":
            self._granted.add(body.controller)
            return
        record = body.authority if write.aspect == "genesis" else body
        if write.aspect == "genesis":
            self._granted.add(body.key.controller)
        known = self._history.masters.setdefault(
            (stream.domain, tuple(record.since)), record.master_of_record
        )
        if known != record.master_of_record:
            raise InvariantViolated(
                "I5",
                f"{stream.domain} has two masters since {tuple(record.since)}: {known} and {record.master_of_record}",
            )

    def _check_grounds(self, stream: StreamId, write: Write, writer: str) -> None:
        if writer not in self._granted:
            raise InvariantViolated(
                "I4", f"{self.controller} applies {stream} {write.sequence} before its writer's key"
            )
        term = self.authority.term_of(stream.domain)
        if not term and write.aspect not in ("authority", "genesis"):
            raise InvariantViolated(
                "I4", f"{self.controller} applies {stream} {write.sequence} before its domain"
            )
        if write.term > term:
            raise InvariantViolated(
                "I4",
                f"{self.controller} applies {stream} {write.sequence} of term {write.term} under {term}",
            )
