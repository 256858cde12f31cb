"""Examination of runs ahead of the journal's turn, where earlier runs of the same stream are still on their way to the
log. Owns the chain heads of what is under way; decides nothing about a run.
"""

from __future__ import annotations

from federation.codec import stream_from_message
from federation.examination import Findings, examine
from federation.identifiers import StreamId
from federation.state import State
from souverix.event.v1 import event_pb2


class Examiner:
    """Examines the runs of one peer in the order in which they come."""

    def __init__(self, state: State) -> None:
        self._state = state
        #: Chain hash of the last run that came, of each stream.
        self._heads: dict[StreamId, bytes] = {}

    def examine(self, run: event_pb2.Run) -> Findings:
        """Does a receipt's work before the journal's turn. What precedes the run may be on its way to the log still."""
        stream = stream_from_message(run.stream)
        follows = self._heads.get(stream) or self._state.chain_hash(stream)
        self._heads[stream] = run.seal.chain_hash
        return examine(stream, run, follows, self._state.keys, self._state.decoder)
