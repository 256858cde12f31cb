"""A made-up child controller for hostile-input tests: it holds a real key, makes real runs, and sends frames as it
likes. Owns one sync stream; sends nothing that a test did not ask for.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import grpc

from controller.signing import Ed25519Signer
from federation.proposal import Proposal
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import domain_pb2
from souverix.policy.v1 import policy_pb2
from souverix.sync.v1 import sync_pb2, sync_pb2_grpc
from tests.e2e.clients import DEADLINE_S
from tests.federation_fixture import MemoryController


class HostileChild:
    """One stream to `SyncService.Connect`, frame by frame."""

    def __init__(self, address: str, controller: str, domain: str) -> None:
        self.controller = controller
        self.domain = domain
        self._channel = grpc.insecure_channel(address)
        self._requests: queue.Queue[sync_pb2.ConnectRequest | None] = queue.Queue()
        stub = sync_pb2_grpc.SyncServiceStub(self._channel)
        self._call = stub.Connect(iter(self._requests.get, None), timeout=DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._channel.close()

    def send(self, **frame: Any) -> None:
        """Sends a frame of one kind."""
        self._requests.put(sync_pb2.ConnectRequest(frame=sync_pb2.Frame(**frame)))

    def frames(self) -> Iterator[sync_pb2.Frame]:
        """What comes back, to the end of the stream."""
        for response in self._call:
            yield response.frame

    def wait_for(self, kind: str) -> sync_pb2.Frame:
        """The next frame of a kind. Raises `AssertionError` when the stream ends, or is ended, before."""
        seen = []
        for frame in self.frames():
            seen.append(frame)
            if frame.WhichOneof("kind") == kind:
                return frame
        raise AssertionError(f"no {kind} came: {seen}")

    def greet(self, **fields: Any) -> None:
        """Sends a greeting that is right but for `fields`."""
        right: dict[str, Any] = {
            "versions": [1],
            "controller": self.controller,
            "replica": "r1",
            "domain": self.domain,
            "incarnation": 1,
            "clock": time.time_ns() // 1_000_000 << 16,
            "credit_bytes": 1 << 20,
        }
        self.send(hello=sync_pb2.Hello(**{**right, **fields}))

    def begin(self) -> None:
        """Greets and compares, as a child that holds nothing, up to where events flow."""
        self.greet()
        self.send(have_digests=sync_pb2.HaveDigests(last=True))
        self.send(have_positions=sync_pb2.HavePositions(last=True))
        self.wait_for("have_positions")

    def send_runs(self, *runs: event_pb2.Run) -> None:
        """Sends runs, each of a stream that was not named before in this session."""
        self.send(
            runs=sync_pb2.Runs(
                interns=[
                    sync_pb2.StreamIntern(index=index, stream=run.stream)
                    for index, run in enumerate(runs)
                ],
                runs=[
                    sync_pb2.InternedRun(
                        stream_index=index,
                        first_sequence=run.first_sequence,
                        events=run.events,
                        seal=run.seal,
                    )
                    for index, run in enumerate(runs)
                ],
            )
        )


class Forger:
    """Makes runs with a controller's real key, each of which creates a policy, in a stream that goes on from run to
    run.
    """

    def __init__(
        self, controller: str, domain: str, key: Ed25519Signer, incarnation: int = 1
    ) -> None:
        self._memory = MemoryController(controller, domain, key, incarnation)
        self._memory.signer = key
        self._memory.now_ms = time.time_ns() // 1_000_000

    def run(self, domain: str, policy: str, **claims: Any) -> event_pb2.Run:
        """The next run of this origin in a domain's control lane."""
        subject = f"policies/{policy}"
        spec = policy_pb2.PolicySpec(version="forged")

        def decide(proposal: Proposal) -> None:
            for aspect, body in (
                ("existence", domain_pb2.Existence(exists=True)),
                ("policy", spec),
            ):
                proposal.write(domain, subject, aspect, body, principal="user:forger", **claims)

        self._memory.submit(decide)
        return _copy(self._memory.commits[-1].runs[0])


def changed(run: event_pb2.Run, change: Callable[[event_pb2.Run], None]) -> event_pb2.Run:
    """A copy of a run with something wrong in it."""
    copy = _copy(run)
    change(copy)
    return copy


def _copy(run: event_pb2.Run) -> event_pb2.Run:
    copy = event_pb2.Run()
    copy.CopyFrom(run)
    return copy
