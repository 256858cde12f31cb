"""Makes the volumes of one bundle. Owns the temporary files and the walk over the log; what is selected is the core's,
the file's bytes are `airgap`'s.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from airgap.layout import ManifestSigner
from airgap.writer import BundleWriter
from controller.bundle.peers import BundlePeer
from controller.replica import Replica
from controller.sync.large_values import named_by
from controller.values import ValueStore, ValueStoreError
from federation.bundles import Selection, positions
from federation.codec import stream_to_message
from federation.identifiers import Lane, StreamId
from souverix.bundle.v1 import bundle_pb2
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2

#: Bytes of the log read at once, as for a session.
READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """What was asked for; times in milliseconds since the epoch."""

    peer: BundlePeer
    create_ms: int
    expire_ms: int
    volume_bytes: int | None
    recipient_public_key: bytes | None
    #: What the audience is known to hold.
    held: Mapping[StreamId, int]


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export; its files are gone when the block of `exporting` ends."""

    manifest: bundle_pb2.Manifest
    events: int
    volumes: list[Path]


class Exporter:
    """One export under way. `events` counts what was written; `events_total` is what there was at the beginning."""

    def __init__(
        self,
        replica: Replica,
        values: ValueStore,
        signer: ManifestSigner,
        order: ExportOrder,
        directory: Path,
    ) -> None:
        self._replica = replica
        self._values = values
        self._order = order
        self._directory = directory
        self._manifest = _head(replica, order)
        self._writer = BundleWriter(
            directory, self._manifest, signer, order.volume_bytes, order.recipient_public_key
        )
        self._told_values: set[str] = set()
        scope = order.peer.scope
        self.events_total = sum(
            max(0, held.received - order.held.get(stream, 0))
            for stream, held in replica.state.streams.items()
            if scope.is_sent(stream)
        )

    @property
    def events(self) -> int:
        """Events written so far."""
        return self._writer.events

    async def run(self) -> Exported:
        """Writes all volumes. Raises `LogError`, `OSError`, `BundleRefused` where they would break a limit."""
        selection = Selection(self._replica.state, self._order.peer.scope.is_sent, self._order.held)
        while (reading := selection.next_reading()) is not None:
            commits = await self._replica.read_commits(
                reading.first_offset, READ_BYTES, control_only=reading.control_only
            )
            selection.take(reading, commits)
            runs = list(selection.runs())
            await asyncio.to_thread(self._put, runs)
            await self._put_values(runs)
        volumes = await asyncio.to_thread(self._writer.finish)
        return Exported(self._manifest, self._writer.events, volumes)

    def _put(self, runs: Iterable[event_pb2.Run]) -> None:
        for run in runs:
            self._writer.put_run(run)

    async def _put_values(self, runs: Iterable[event_pb2.Run]) -> None:
        """Adds the large values that runs name, each once. One that is lost here is asked of others, later."""
        for run in runs:
            if run.stream.lane != int(Lane.TELEMETRY):
                continue
            for digest in (d for digests in named_by(run).values() for d in digests):
                if digest in self._told_values:
                    continue
                self._told_values.add(digest)
                try:
                    data = await self._values.get(digest)
                except (ValueStoreError, OSError):
                    continue
                chunk = sync_pb2.Chunk(digest=digest, data=data)
                await asyncio.to_thread(self._writer.put_value, chunk)


@asynccontextmanager
async def exporting(
    replica: Replica,
    values: ValueStore,
    signer: ManifestSigner,
    order: ExportOrder,
    directory: Path,
) -> AsyncIterator[Exporter]:
    """An export in a directory of its own below `directory`, which is removed with all that is in it."""
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    own = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="export-", dir=directory))
    try:
        yield Exporter(replica, values, signer, order, own)
    finally:
        await asyncio.to_thread(shutil.rmtree, own, ignore_errors=True)


def _head(replica: Replica, order: ExportOrder) -> bundle_pb2.Manifest:
    state, scope = replica.state, order.peer.scope
    own = replica.config.controller
    manifest = bundle_pb2.Manifest(
        set_id=uuid.uuid4().hex,
        exporter=own.id,
        exporter_domain=own.domain,
        audience=order.peer.controller,
        audience_domain=order.peer.domain,
        counter=state.next_offset,
        held=positions(state, scope.may_bring),
    )
    manifest.create_time.FromMilliseconds(order.create_ms)
    manifest.expire_time.FromMilliseconds(order.expire_ms)
    for domain, vector in sorted(replica.durability.vectors().items()):
        told = {
            stream: sequence
            for stream, sequence in vector.items()
            if state.authority.is_within(stream.domain, order.peer.domain)
        }
        if told:
            manifest.acknowledged_above.add(
                durable_at=domain,
                positions=[
                    sync_pb2.StreamPosition(stream=stream_to_message(s), sequence=n)
                    for s, n in sorted(told.items())
                ],
            )
    return manifest
