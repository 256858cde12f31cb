"""The log of one controller, as etcd would keep it. Owns what is durable, and the fence; survives every crash."""

from __future__ import annotations

from federation.codec import stream_from_message
from federation.identifiers import StreamId
from federation.proposal import Built
from souverix.event.v1 import event_pb2
from tests.simulation.world import InvariantViolated


class SimulatedLog:
    """Commits, the fencing token in force, and how far each stream is durable."""

    def __init__(self, controller: str) -> None:
        self.controller = controller
        self.commits: list[event_pb2.Commit] = []
        self.data: list[bytes] = []
        self.token = 0
        self.durable: dict[StreamId, int] = {}

    def elect(self) -> int:
        """Gives the mastership anew; every earlier token is fenced from here on."""
        self.token += 1
        return self.token

    def append(self, token: int, built: Built) -> bool:
        """Makes a commit durable where the token is the one in force and the head is where the writer saw it."""
        if self._is_fenced(token) or built.commit.offset != len(self.commits):
            return False
        if token < self.token:
            raise InvariantViolated(
                "I6", f"{self.controller}: a replica fenced at {token} appended under {self.token}"
            )
        self.commits.append(built.commit)
        self.data.append(built.data)
        for run in built.commit.runs:
            self.durable[stream_from_message(run.stream)] = run.seal.sequence
        return True

    def _is_fenced(self, token: int) -> bool:
        return token != self.token
