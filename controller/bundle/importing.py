"""Takes in one volume of a bundle. Owns the order: all of it is judged before any of it is taken; what a run means is
judged by the core, as of a session's runs.

A volume is read twice. What was found good may change hands on disk in between, so the second reading holds all of it
to the hashes that were signed; the log's own receipt judges every run.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import grpc
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from airgap.errors import BundleRefused, Reason
from airgap.reader import BundleReader
from controller.bundle.ledger import Ledger
from controller.bundle.peers import BundlePeer, RingKeys, peer_of
from controller.errors import ServiceError
from controller.journal import Committed
from controller.replica import Replica
from controller.values import ValueStore, ValueStoreError
from federation.bundles import Follower, Missing, Reread, Standing, held_positions
from federation.clock import wall_ms_of
from federation.codec import stream_from_message
from federation.errors import InvalidWrite
from federation.proposal import Proposal
from federation.receipt import Receipt
from souverix.bundle.v1 import bundle_pb2
from souverix.event.v1 import event_pb2

#: Proposals on their way to the log at once: the next are examined while the log writes the last.
PROPOSALS_UNDER_WAY = 4

#: Bytes of events proposed at once: a quarter of a commit, so that other writes find room beside them.
PROPOSED_BYTES = 256 * 1024


class Phase(enum.Enum):
    """A part of the work."""

    VERIFYING = "VERIFYING"
    APPLYING = "APPLYING"


class Outcome(enum.Enum):
    """What became of a volume."""

    APPLIED = "APPLIED"
    ALREADY_APPLIED = "ALREADY_APPLIED"
    GAP = "GAP"
    GOOD = "GOOD"


@dataclass(slots=True)
class Imported:
    """What became of a volume, and the counts of events."""

    outcome: Outcome
    manifest: bundle_pb2.Manifest
    applied: int = 0
    repeated: int = 0
    quarantined_runs: int = 0
    acknowledged: int = 0
    missing: list[Missing] = field(default_factory=list)


_REFUSED = {
    Standing.ROLLBACK: (
        "BUNDLE_CHAIN_CONTRADICTED",
        "holds other events than this controller under the same numbers; one of the two logs was set back. Nothing "
        "was taken in; find out which one before any further exchange",
    ),
    Standing.FORGED: (
        "BUNDLE_SEAL_INVALID",
        "holds events that their origin did not seal. Nothing was taken in; the exporter's log is damaged, or the "
        "exporter is not to be trusted",
    ),
    Standing.OUT_OF_SCOPE: (
        "BUNDLE_OUT_OF_SCOPE",
        "holds events of a domain that its exporter does not speak for. Nothing was taken in",
    ),
}


class Importer:
    """One import under way; `phase`, `done` and `total` tell how far it is, in events.

    `private` is this controller's own key for encrypted bundles; None: it has none.
    """

    def __init__(
        self,
        replica: Replica,
        values: ValueStore,
        ledger: Ledger,
        private: X25519PrivateKey | None,
        now_ms: int,
    ) -> None:
        self.phase = Phase.VERIFYING
        self.done = 0
        self.total = 0
        self._replica = replica
        self._values = values
        self._ledger = ledger
        self._private = private
        self._now_ms = now_ms

    async def run(self, path: Path, *, check_only: bool) -> Imported:
        """Judges a volume and takes it in. Raises `BundleRefused`, `ServiceError`, `NotFound`, `JournalError`,
        `LogError`, `OSError`.
        """
        with await asyncio.to_thread(path.open, "rb") as file:
            reader = await asyncio.to_thread(self._open, file)
            manifest = reader.manifest
            peer = self._addressed(manifest)
            self.total = sum(segment.events for segment in manifest.segments)
            follower = Follower(self._replica.state, peer.scope.may_bring)
            result = await self._judge(reader, peer, follower)
            if check_only or result.outcome is Outcome.GAP:
                return result
            if result.outcome is Outcome.GOOD:
                self.phase, self.done = Phase.APPLYING, 0
                await self._take(reader, peer, follower.read_again(), result)
                result.outcome = Outcome.APPLIED
        await self._acknowledge(manifest, result)
        return result

    def _open(self, file: BinaryIO) -> BundleReader:
        keys = RingKeys(self._replica.state.keys, self._replica.config.parent)
        return BundleReader(file, keys)

    def _addressed(self, manifest: bundle_pb2.Manifest) -> BundlePeer:
        """Checks that the volume is for this controller, from a peer of it, and still in time."""
        own = self._replica.config.controller
        if manifest.audience != own.id:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "BUNDLE_WRONG_AUDIENCE",
                f"the bundle was made for {manifest.audience[:63]!r}; this is {own.id}",
            )
        peer = peer_of(self._replica.config, self._replica.state.authority, manifest.exporter)
        if peer.domain and manifest.exporter_domain != peer.domain:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "BUNDLE_WRONG_EXPORTER",
                f"{peer.controller} exported it for domain {manifest.exporter_domain[:63]!r} and serves "
                f"{peer.domain!r}",
            )
        expire_ms = manifest.expire_time.ToMilliseconds()
        now_ms = self._known_time_ms()
        if expire_ms <= now_ms:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "BUNDLE_EXPIRED",
                f"the bundle was to be taken in until {manifest.expire_time.ToJsonString()}; ask {peer.controller} "
                "for a new one, which will hold all of it again",
            )
        return peer

    def _known_time_ms(self) -> int:
        """The latest time that is known to have come: a clock that stands at 1970 makes nothing valid again."""
        own = self._replica.config.controller.domain
        state = self._replica.state
        stamps = [state.mastery_began.get(d, 0) for d in state.authority.path_of(own) or ()]
        return max(
            self._now_ms, self._ledger.newest_create_ms(), wall_ms_of(max(stamps, default=0))
        )

    async def _judge(self, reader: BundleReader, peer: BundlePeer, follower: Follower) -> Imported:
        """Reads all of a volume and holds it against the log, without a trace."""
        result = Imported(Outcome.ALREADY_APPLIED, reader.manifest)
        contents = reader.contents(self._private)
        while (content := await asyncio.to_thread(next, contents, None)) is not None:
            for run in content.runs:
                standing = _stand(follower, run)
                if standing in _REFUSED:
                    reason, said = _REFUSED[standing]
                    stream = f"{run.stream.domain}/{run.stream.controller}"
                    raise ServiceError(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        reason,
                        f"the bundle of {peer.controller} {said} ({stream}, events {run.first_sequence} to "
                        f"{run.seal.sequence})",
                    )
                self.done += len(run.events)
        result.missing = list(follower.missing.values())
        if result.missing:
            result.outcome = Outcome.GAP
        elif follower.new_events:
            result.outcome = Outcome.GOOD
        result.applied, result.repeated = 0, self.total - follower.new_events
        return result

    async def _take(
        self, reader: BundleReader, peer: BundlePeer, reread: Reread, result: Imported
    ) -> None:
        """Writes the events to the log, a few proposals under way at a time, in order."""
        under_way: deque[asyncio.Task[Committed[list[Receipt]]]] = deque()
        contents = reader.contents(self._private)
        try:
            while (content := await asyncio.to_thread(next, contents, None)) is not None:
                await self._keep_values(content)
                for runs in _portions(content.runs):
                    if len(under_way) >= PROPOSALS_UNDER_WAY:
                        self._settled(await under_way.popleft(), result)
                    propose = self._propose(peer, reread, runs)
                    under_way.append(asyncio.create_task(propose))
                    # Its turn comes now, so that proposals reach the journal in this order.
                    await asyncio.sleep(0)
                    self.done += sum(len(run.events) for run in runs)
            while under_way:
                self._settled(await under_way.popleft(), result)
        finally:
            for task in under_way:
                task.cancel()
        result.applied = self.total - result.repeated

    async def _propose(
        self, peer: BundlePeer, reread: Reread, runs: Sequence[event_pb2.Run]
    ) -> Committed[list[Receipt]]:
        """Has runs received as those of a session are; what is held already is left out."""
        state = self._replica.state
        findings = [
            (run, reread.examine(run))
            for run in runs
            if run.seal.sequence > state.received(stream_from_message(run.stream))
        ]

        def receive(proposal: Proposal) -> list[Receipt]:
            return [proposal.receive(peer.controller, run, found) for run, found in findings]

        return await self._replica.journal().submit(receive)

    def _settled(self, committed: Committed[list[Receipt]], result: Imported) -> None:
        """Takes note of what became of a proposal. Raises `ServiceError` where the log moved under it."""
        for receipt in committed.value:
            if receipt is Receipt.QUARANTINED:
                result.quarantined_runs += 1
            elif receipt in (Receipt.GAP, Receipt.NO_ROOM):
                raise ServiceError(
                    grpc.StatusCode.ABORTED,
                    "BUNDLE_INTERRUPTED",
                    "an event before the next one was refused; what was taken in until then stands. Look at the "
                    "quarantined runs, and import the volume again when they are dealt with",
                )

    async def _keep_values(self, content: bundle_pb2.Content) -> None:
        """Stores large values before the events that name them."""
        for chunk in content.values:
            try:
                await self._values.put(chunk.digest, chunk.data)
            except ValueStoreError as error:
                raise ServiceError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "BUNDLE_VALUE_REFUSED",
                    f"a large value of the bundle cannot be kept: {error}",
                ) from error

    async def _acknowledge(self, manifest: bundle_pb2.Manifest, result: Imported) -> None:
        """Takes in what the exporter and the levels above it hold."""
        state, durability = self._replica.state, self._replica.durability
        held = held_positions(manifest.held, state)
        own = {s: n for s, n in held.items() if s.origin.controller == state.controller}
        result.acknowledged = sum(own.values())
        await durability.advance(manifest.exporter_domain, held)
        for level in manifest.acknowledged_above:
            await durability.advance(level.durable_at, held_positions(level.positions, state))
        await asyncio.to_thread(self._ledger.imported, manifest, held, self._now_ms)


def _stand(follower: Follower, run: event_pb2.Run) -> Standing:
    try:
        return follower.stand(run)
    except InvalidWrite as error:
        raise BundleRefused(Reason.MALFORMED, str(error)) from error


def _portions(runs: Iterable[event_pb2.Run]) -> Iterator[list[event_pb2.Run]]:
    """Consecutive runs that are proposed together."""
    portion: list[event_pb2.Run] = []
    size = 0
    for run in runs:
        run_bytes = run.ByteSize()
        if portion and size + run_bytes > PROPOSED_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(run)
        size += run_bytes
    if portion:
        yield portion
