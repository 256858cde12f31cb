"""Verifies a log: its own hash chain, each stream's chain, and every seal. Owns what is checked and how a fault is
worded; reads nothing itself and trusts nothing it is given but the keys.

It holds one small record a stream, however long the log is. A fault does not end it: what follows is checked too, and
the first fault of each stream is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from controller.log.port import EMPTY_HASH, hash_after
from controller.signing import Ed25519Verifier
from controller.signing_keys import SigningKeys
from federation.chain import chain_start, extend, seal_message
from federation.codec import stream_from_message
from federation.errors import InvalidWrite
from federation.identifiers import StreamId
from federation.state import State
from souverix.audit.v1 import audit_service_pb2
from souverix.event.v1 import event_pb2

#: Lane named in the verdict on the log's own chain.
LOG_LANE = "log"


@dataclass(slots=True)
class _Check:
    """How far one stream is verified, and what the state says it must come to."""

    received: int
    final_hash: bytes
    chain_hash: bytes
    sequence: int = 0
    events: int = 0
    seals: int = 0
    fault: str = ""

    def blame(self, fault: str) -> None:
        """Takes note of a fault; the first one counts."""
        self.fault = self.fault or fault


class Verification:
    """One pass over the log, from its beginning to where the state stood when it began."""

    def __init__(
        self,
        state: State,
        signer: SigningKeys,
        verifier: Ed25519Verifier,
        is_wanted: Callable[[StreamId], bool],
    ) -> None:
        self.end = state.next_offset
        self.next_offset = 0
        self.log_hash = EMPTY_HASH
        self.log_fault = ""
        self._state = state
        self._signer = signer
        self._verifier = verifier
        self._is_wanted = is_wanted
        self._checks = {
            stream: _Check(held.received, held.chain_hash, chain_start(stream))
            for stream, held in state.streams.items()
            if is_wanted(stream)
        }

    def joins(self, hash_before: bytes) -> None:
        """Checks the hash that is stored before the next commit against what was read so far."""
        if hash_before != self.log_hash:
            self.blame(
                f"the hash kept before offset {self.next_offset} is not that of the commits before it: one was changed"
            )
            self.log_hash = hash_before

    def blame(self, fault: str) -> None:
        """Takes note of a fault of the log itself; the first one counts."""
        self.log_fault = self.log_fault or fault

    def take(self, offset: int, data: bytes) -> Iterator[None]:
        """Checks the next commit, a run a step, so that the caller can let others go on in between."""
        self.log_hash = hash_after(self.log_hash, data)
        self.next_offset = offset + 1
        try:
            commit = event_pb2.Commit.FromString(data)
        except DecodeError:
            self.blame(f"commit {offset} is not readable")
            return
        if commit.offset != offset:
            self.blame(f"commit {offset} says that it is commit {commit.offset}")
        for run in commit.runs:
            try:
                stream = stream_from_message(run.stream)
            except InvalidWrite as error:
                self.blame(f"commit {offset} holds a run of no stream: {error}")
                continue
            check = self._checks.get(stream)
            if check is not None:
                self._check_run(stream, check, run, offset)
                yield
            elif self._is_wanted(stream):
                self.blame(
                    f"commit {offset} holds a run of {_named(stream)}, which was never taken in"
                )

    def verdicts(self) -> list[audit_service_pb2.StreamVerdict]:
        """The verdicts on all streams, in order."""
        found = []
        for stream, check in sorted(self._checks.items()):
            if check.sequence < check.received:
                check.blame(
                    f"events {check.sequence + 1} to {check.received} could not be read from the log"
                )
            elif check.chain_hash != check.final_hash:
                check.blame("the log holds another history than the one this controller took in")
            found.append(
                audit_service_pb2.StreamVerdict(
                    domain=stream.domain,
                    controller=stream.origin.controller,
                    incarnation=stream.origin.incarnation,
                    lane=stream.lane.name.lower(),
                    events=check.events,
                    seals=check.seals,
                    intact=not check.fault,
                    fault=check.fault,
                )
            )
        return found

    def _check_run(self, stream: StreamId, check: _Check, run: event_pb2.Run, offset: int) -> None:
        last = run.first_sequence + len(run.events) - 1
        where = f"events {run.first_sequence} to {last} (commit {offset})"
        if run.first_sequence != check.sequence + 1:
            check.blame(f"{where} follow event {check.sequence}: the numbers are not dense")
        if run.seal.sequence != last:
            check.blame(f"{where}: the seal is of event {run.seal.sequence}")
        if extend(check.chain_hash, run.events) != run.seal.chain_hash:
            check.blame(f"{where}: the chain hash is not the sealed one; an event was changed")
        fault = self._seal_fault(stream, run.seal)
        if fault:
            check.blame(f"{where}: {fault}")
        # What follows is judged by the seal, so that one changed event is not blamed on all after it.
        check.chain_hash = run.seal.chain_hash
        check.sequence = last
        check.events += len(run.events)
        check.seals += 1

    def _seal_fault(self, stream: StreamId, seal: event_pb2.Seal) -> str:
        controller = stream.origin.controller
        key = self._state.keys.public_key(controller, seal.key_id)
        if controller == self._state.controller and seal.key_id == self._signer.key_id:
            # A controller knows its own key before its parent's grant of it has arrived.
            key = self._signer.public_key
        if key is None:
            return f"key {seal.key_id} of {controller}, which sealed them, is not known here"
        message = seal_message(stream, seal.sequence, seal.chain_hash)
        if not self._verifier.verify(key, message, seal.signature):
            return f"the seal is not good under key {seal.key_id} of {controller}"
        return ""


def _named(stream: StreamId) -> str:
    origin = stream.origin
    return (
        f"{stream.domain} by {origin.controller}#{origin.incarnation}, {stream.lane.name.lower()}"
    )
