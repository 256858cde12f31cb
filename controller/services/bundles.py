"""BundleService: bundles over gRPC. Owns the calls, the transfer of bytes, progress and audit; never looks into a
file.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import grpc
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from airgap.layout import AUDITORS, ManifestSigner
from airgap.writer import MIN_VOLUME_BYTES
from controller.bundle.exporting import Exporter, ExportOrder, exporting
from controller.bundle.importing import Imported, Importer, Outcome, Phase
from controller.bundle.ledger import Ledger
from controller.bundle.peers import AUDITING, peer_of
from controller.errors import ServiceError
from controller.replica import Replica
from controller.services.calls import caller_of
from controller.sync.links import Links
from controller.tasks import end
from controller.values import ValueStore
from controller.writes import Caller, write_audit
from federation.backlog import debt_of
from federation.codec import stream_to_message
from federation.errors import InvalidWrite
from federation.identifiers import StreamId
from souverix.audit.v1 import audit_pb2
from souverix.bundle.v1 import bundle_pb2, bundle_service_pb2_grpc
from souverix.bundle.v1 import bundle_service_pb2 as service

DEFAULT_VALIDITY_S = 30 * 86_400.0

#: Longest validity: a zone that is visited once a year is served by a file made the year before.
MAX_VALIDITY_S = 366 * 86_400.0

#: Largest volume that is taken in: it lies on the controller's disk while it is judged.
MAX_VOLUME_BYTES = 16 * 1024 * 1024 * 1024

#: Bytes of a file in one message, either way: a quarter of the largest message.
DATA_BYTES = 1024 * 1024

#: How often progress is told while nothing else is.
PROGRESS_S = 0.25

X25519_BYTES = 32

#: Gaps told of one volume: whoever reads them needs an earlier volume, not a list of a thousand streams.
MAX_MISSING = 100

_OUTCOMES = {
    Outcome.APPLIED: service.IMPORT_OUTCOME_APPLIED,
    Outcome.ALREADY_APPLIED: service.IMPORT_OUTCOME_ALREADY_APPLIED,
    Outcome.GAP: service.IMPORT_OUTCOME_GAP,
    Outcome.GOOD: service.IMPORT_OUTCOME_GOOD,
}

_PHASES = {
    Phase.VERIFYING: service.IMPORT_PHASE_VERIFYING,
    Phase.APPLYING: service.IMPORT_PHASE_APPLYING,
}


class BundleService(bundle_service_pb2_grpc.BundleServiceServicer):
    """The service of one replica. `private` is the key that encrypted bundles are made for; None: there is none."""

    def __init__(
        self,
        replica: Replica,
        links: Links,
        values: ValueStore,
        signer: ManifestSigner,
        directory: Path,
        private: X25519PrivateKey | None,
    ) -> None:
        self._replica = replica
        self._links = links
        self._values = values
        self._signer = signer
        self._directory = directory
        self._private = private
        self._ledger = Ledger(directory)
        #: One of each at a time: either fills a CPU, and the disk with a file.
        self._exporting = asyncio.Lock()
        self._importing = asyncio.Lock()

    async def ExportBundle(  # noqa: N802 named by the contract
        self, request: service.ExportBundleRequest, context: Any
    ) -> AsyncIterator[service.ExportBundleResponse]:
        """Makes a bundle and sends its volumes."""
        self._replica.journal()
        caller = caller_of(context)
        order = self._order(request)
        async with _alone(self._exporting, "export"):
            export = exporting(self._replica, self._values, self._signer, order, self._directory)
            async with export as exporter:
                running = asyncio.create_task(exporter.run())
                try:
                    while not (await asyncio.wait({running}, timeout=PROGRESS_S))[0]:
                        yield service.ExportBundleResponse(progress=_export_progress(exporter))
                    exported = running.result()
                finally:
                    await end(running)
                yield service.ExportBundleResponse(progress=_export_progress(exporter))
                manifest = exported.manifest
                # Before it is sent: who has all of it may hang up then.
                await self._audit(
                    caller,
                    "ExportBundle",
                    f"bundles/{manifest.set_id}",
                    f"{exported.events} events for {manifest.audience}, {len(exported.volumes)} volumes",
                )
                for number, path in enumerate(exported.volumes, 1):
                    size = (await asyncio.to_thread(path.stat)).st_size
                    begin = service.VolumeBegin(
                        volume=number,
                        volumes=len(exported.volumes),
                        size=size,
                        suggested_name=_name(manifest, number, len(exported.volumes)),
                    )
                    yield service.ExportBundleResponse(volume=begin)
                    with await asyncio.to_thread(path.open, "rb") as file:
                        while data := await asyncio.to_thread(file.read, DATA_BYTES):
                            yield service.ExportBundleResponse(data=data)
                if not request.for_auditors:
                    await asyncio.to_thread(
                        self._ledger.exported, manifest.audience, order.create_ms
                    )
                summary = service.ExportSummary(
                    set_id=manifest.set_id,
                    events=exported.events,
                    volumes=len(exported.volumes),
                    expire_time=manifest.expire_time,
                    counter=manifest.counter,
                )
                yield service.ExportBundleResponse(summary=summary)

    async def ImportBundle(  # noqa: N802
        self, request_iterator: AsyncIterator[service.ImportBundleRequest], context: Any
    ) -> AsyncIterator[service.ImportBundleResponse]:
        """Takes in one volume."""
        self._replica.journal()
        caller = caller_of(context)
        async with _alone(self._importing, "import"):
            await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._directory, prefix="import-") as file:
                check_only = False
                async for received in _received(request_iterator, file):
                    check_only = received.check_only
                    yield service.ImportBundleResponse(progress=received.progress)
                await asyncio.to_thread(file.flush)
                importer = Importer(
                    self._replica, self._values, self._ledger, self._private, _now_ms()
                )
                running = asyncio.create_task(importer.run(Path(file.name), check_only=check_only))
                try:
                    while not (await asyncio.wait({running}, timeout=PROGRESS_S))[0]:
                        yield service.ImportBundleResponse(progress=_import_progress(importer))
                    imported = running.result()
                finally:
                    await end(running)
            if not check_only:
                manifest = imported.manifest
                await self._audit(
                    caller,
                    "ImportBundle",
                    f"bundles/{manifest.set_id}",
                    f"volume {manifest.volume} of {manifest.volumes} of {manifest.exporter}: "
                    f"{imported.outcome.value}, {imported.applied} events applied",
                )
            yield service.ImportBundleResponse(result=_result(imported))

    async def ListBundlePeers(  # noqa: N802
        self, request: service.ListBundlePeersRequest, context: Any
    ) -> service.ListBundlePeersResponse:
        """What this replica remembers of bundles."""
        state, now_ms = self._replica.state, _now_ms()
        response = service.ListBundlePeersResponse()
        for held in await asyncio.to_thread(self._ledger.peers):
            peer = peer_of(self._replica.config, state.authority, held.controller)
            debt = debt_of(
                state.streams, self._held(peer.controller), peer.scope.is_sent, 0.0, now_ms
            )
            listed = response.peers.add(
                controller=held.controller,
                imported_counter=held.imported_counter,
                events_unacknowledged=debt.events,
            )
            for name in ("imported_create_time", "import_time", "export_time"):
                if held.HasField(name):
                    getattr(listed, name).CopyFrom(getattr(held, name))
        return response

    def _order(self, request: service.ExportBundleRequest) -> ExportOrder:
        """What a request asks for. Raises `InvalidWrite`, `NotFound`."""
        if request.for_auditors and (
            request.audience or request.volume_bytes or request.recipient_public_key
        ):
            raise InvalidWrite(
                "an export for auditors is one file that everybody can verify: leave audience, volume_bytes and "
                "recipient_public_key out",
                field="for_auditors",
            )
        validity_s = DEFAULT_VALIDITY_S
        if request.HasField("validity"):
            validity_s = request.validity.ToTimedelta().total_seconds()
        if not 0 < validity_s <= MAX_VALIDITY_S:
            raise InvalidWrite("validity is out of range: more than nothing, at most 366 days")
        if request.volume_bytes and request.volume_bytes < MIN_VOLUME_BYTES:
            raise InvalidWrite(
                f"volume_bytes {request.volume_bytes} is too small; at least {MIN_VOLUME_BYTES} are needed"
            )
        recipient = request.recipient_public_key or None
        if recipient is not None and len(recipient) != X25519_BYTES:
            raise InvalidWrite(
                f"recipient_public_key has {len(recipient)} bytes; an X25519 key has {X25519_BYTES}"
            )
        if request.for_auditors:
            peer = AUDITING
        else:
            peer = peer_of(self._replica.config, self._replica.state.authority, request.audience)
        now_ms = _now_ms()
        return ExportOrder(
            peer,
            now_ms,
            now_ms + int(validity_s * 1000),
            request.volume_bytes or None,
            recipient,
            {} if request.full or request.for_auditors else self._held(peer.controller),
        )

    def _held(self, controller: str) -> dict[StreamId, int]:
        """What a peer is known to hold, by its bundles and its sessions."""
        held = self._ledger.held(controller, self._replica.state)
        for stream, sequence in self._links.acknowledged_by(controller).items():
            held[stream] = max(sequence, held.get(stream, 0))
        return held

    async def _audit(self, caller: Caller, method: str, resource: str, message: str) -> None:
        record = audit_pb2.AuditRecord(
            principal=caller.principal,
            action=f"souverix.bundle.v1.BundleService/{method}",
            resource=resource,
            source=caller.source,
            issued_by=caller.issued_by,
            outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
            message=message,
        )
        domain = self._replica.config.controller.domain
        await self._replica.journal().submit(lambda p: write_audit(p, record, domain=domain))


class _Received(NamedTuple):
    """How much of a volume has come."""

    check_only: bool
    progress: service.ImportProgress


async def _received(
    requests: AsyncIterator[service.ImportBundleRequest], file: IO[bytes]
) -> AsyncGenerator[_Received, None]:
    """Writes a volume's bytes to `file`; tells of each mebibyte. Raises `ServiceError` for what does not fit."""
    first = await anext(aiter(requests), None)
    if first is None or first.WhichOneof("kind") != "begin":
        raise _out_of_order("an import begins with the volume's size")
    size, check_only = first.begin.size, first.begin.check_only
    if not 0 < size <= MAX_VOLUME_BYTES:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "BUNDLE_TOO_LARGE",
            f"a volume of {size} bytes; at most {MAX_VOLUME_BYTES} are taken: export smaller volumes",
        )
    done = 0
    async for request in requests:
        data = request.data
        if request.WhichOneof("kind") != "data" or not 0 < len(data) <= DATA_BYTES:
            raise _out_of_order(
                f"after its beginning an import is pieces of at most {DATA_BYTES} bytes"
            )
        done += len(data)
        if done > size:
            raise _out_of_order(f"more bytes came than the {size} announced")
        await asyncio.to_thread(file.write, data)
        yield _Received(
            check_only,
            service.ImportProgress(phase=service.IMPORT_PHASE_RECEIVING, done=done, total=size),
        )
    if done != size:
        raise _out_of_order(f"{done} bytes came of the {size} announced")


def _out_of_order(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "BUNDLE_TRANSFER_BROKEN", message)


@contextlib.asynccontextmanager
async def _alone(lock: asyncio.Lock, work: str) -> AsyncGenerator[None, None]:
    """Runs its block alone; what fails on the disk is said so."""
    if lock.locked():
        raise ServiceError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "BUNDLE_BUSY",
            f"another {work} runs on this controller; try again when it is over",
            retry_after_ms=5_000,
        )
    async with lock:
        try:
            yield
        except OSError as error:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "BUNDLE_STORAGE_FAILED",
                f"the {work} failed on this controller's disk ({error.strerror or error}); it needs room for the "
                "whole bundle below data_dir",
            ) from error


def _export_progress(exporter: Exporter) -> service.ExportProgress:
    return service.ExportProgress(events=exporter.events, events_total=exporter.events_total)


def _import_progress(importer: Importer) -> service.ImportProgress:
    return service.ImportProgress(
        phase=_PHASES[importer.phase], done=importer.done, total=importer.total
    )


def _result(imported: Imported) -> service.ImportResult:
    manifest = imported.manifest
    return service.ImportResult(
        outcome=_OUTCOMES[imported.outcome],
        exporter=manifest.exporter,
        set_id=manifest.set_id,
        volume=manifest.volume,
        volumes=manifest.volumes,
        events_applied=imported.applied,
        events_repeated=imported.repeated,
        runs_quarantined=imported.quarantined_runs,
        missing=[
            service.MissingEvents(
                stream=stream_to_message(gap.stream),
                first_sequence=gap.first_sequence,
                last_sequence=gap.last_sequence,
            )
            for gap in imported.missing[:MAX_MISSING]
        ],
        events_acknowledged=imported.acknowledged,
    )


def _name(manifest: bundle_pb2.Manifest, volume: int, volumes: int) -> str:
    """A file's name that tells people from whom, for whom and which of how many it is."""
    part = f".{volume}-of-{volumes}" if volumes > 1 else ""
    what = "audit" if manifest.audience == AUDITORS else f"to-{manifest.audience}"
    return f"{manifest.exporter}-{what}-{manifest.counter}{part}.svxb"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
