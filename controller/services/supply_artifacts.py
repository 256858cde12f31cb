"""Artifacts: their writes, lists and watches, and the upload of SBOMs. Owns what each write means; what an artifact is
worth is the judge's to say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, TypeVar

import grpc

from controller.errors import ServiceError
from controller.judge import Judge
from controller.replica import Replica
from controller.services.calls import caller_of
from controller.services.fleet_fields import MAX_WORD_BYTES, check_id, check_text
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_rules import VERSIONS, check_etag
from controller.services.fleet_watches import log_of
from controller.services.paging import cut, page_of
from controller.services.scopes import Scope
from controller.services.shown_writes import Shown, ShownWrites
from controller.services.supply_fields import (
    artifact_in_name,
    check_artifact_spec,
    check_envelope,
    check_envelopes,
)
from controller.services.watching import Watch, reply_of
from controller.supply.artifact import (
    ARTIFACT_ASPECTS,
    artifact_etag,
    artifact_name,
    compose_artifact,
    standing_verdict,
)
from controller.supply.documents import BadDocument
from controller.supply.sbom import MAX_SBOM_BYTES, MEDIA_TYPE, read_sbom
from controller.twin.facts import Facts, body_of, exists, timestamp
from controller.values import MAX_CHUNK_BYTES, StoreFull, ValueStore, digest_of
from controller.writes import Draft
from federation.errors import AlreadyExists, InvalidWrite, NotFound
from federation.identifiers import Key
from federation.state import Applied
from souverix.fleet.v1 import domain_pb2, observation_pb2
from souverix.supply.v1 import artifact_pb2 as artifacts
from souverix.supply.v1 import supply_service_pb2 as supply

R = TypeVar("R")

SERVICE = "/souverix.supply.v1.SupplyService/"

#: Uploads in progress: each holds one document in memory.
MAX_UPLOADS: Final = 8

#: Longest an upload may take: 8 MiB over a satellite link of 1 Mbit/s, twice.
UPLOAD_TIMEOUT_S: Final = 120.0

#: Bytes of one chunk of a document that is kept.
CHUNK_BYTES: Final = 128 * 1024


class ArtifactWrites:
    """The writes of artifacts."""

    def __init__(self, replica: Replica, judge: Judge) -> None:
        self._replica = replica
        self._judge = judge
        shown = Shown("artifact", artifact_name, required_artifact)
        self._writes = ShownWrites(replica, SERVICE, shown)

    async def create(self, request: Any, context: Any) -> supply.CreateArtifactResponse:
        """As `SupplyService.CreateArtifact`."""
        domain = check_id(request.domain, "domain")
        subject = f"artifacts/{check_id(request.artifact_id, 'artifact_id')}"
        check_artifact_spec(request.spec)

        def decide(draft: Draft) -> None:
            check_domain(draft.proposal, domain)
            if exists(draft.proposal, domain, subject):
                name = artifact_name(domain, subject)
                raise AlreadyExists(
                    f"{name} exists; attach to it, or choose another id", subject=name
                )
            now = timestamp(draft.proposal.wall_ms)
            draft.write(domain, subject, "existence", domain_pb2.Existence(exists=True, time=now))
            draft.write(domain, subject, "artifact", request.spec)

        return await self._write(
            "CreateArtifact",
            request,
            context,
            (domain, subject),
            decide,
            supply.CreateArtifactResponse,
        )

    async def attach(self, request: Any, context: Any) -> supply.AttachEnvelopeResponse:
        """As `SupplyService.AttachEnvelope`."""
        domain, subject = artifact_in_name(request.name)
        check_envelope(request.envelope, "envelope")

        def decide(draft: Draft) -> None:
            _check(draft.proposal, domain, subject, request.etag)
            spec = artifacts.ArtifactSpec()
            spec.CopyFrom(body_of(draft.proposal, Key(domain, subject, "artifact")))
            if any(held.document == request.envelope.document for held in spec.envelopes):
                raise AlreadyExists(
                    f"{request.name} has this envelope already", subject=request.name
                )
            spec.envelopes.append(request.envelope)
            check_envelopes(spec)
            draft.write(domain, subject, "artifact", spec)

        return await self._write(
            "AttachEnvelope",
            request,
            context,
            (domain, subject),
            decide,
            supply.AttachEnvelopeResponse,
        )

    async def delete(self, request: Any, context: Any) -> supply.DeleteArtifactResponse:
        """As `SupplyService.DeleteArtifact`."""
        domain, subject = artifact_in_name(request.name)

        def decide(draft: Draft) -> None:
            _check(draft.proposal, domain, subject, request.etag)
            now = timestamp(draft.proposal.wall_ms)
            draft.write(domain, subject, "existence", domain_pb2.Existence(exists=False, time=now))

        return await self._write(
            "DeleteArtifact",
            request,
            context,
            (domain, subject),
            decide,
            supply.DeleteArtifactResponse,
        )

    async def verify(self, request: Any) -> supply.VerifyArtifactResponse:
        """As `SupplyService.VerifyArtifact`."""
        domain, subject = artifact_in_name(request.name)
        state = self._replica.state
        artifact = required_artifact(state, domain, subject)
        believer = domain
        if request.for_domain:
            believer = check_id(request.for_domain, "for_domain")
            check_domain(state, believer)
            if not state.authority.is_within(believer, domain):
                raise InvalidWrite(
                    f"domain {believer} is not below {domain}: the artifact is not there for its nodes",
                    field="for_domain",
                )
        verdict = await self._judge.judged(domain, artifact.spec, _wall_ms(), believer)
        return supply.VerifyArtifactResponse(
            verdict=verdict, standing=standing_verdict(state, domain, subject, artifact.spec)
        )

    async def _write(
        self,
        method: str,
        request: Any,
        context: Any,
        at: tuple[str, str],
        decide: Callable[[Draft], None],
        response: type[R],
    ) -> R:
        """Executes a write of the artifact (domain, subject), has it judged, and makes its response."""

        async def settle(preview: artifacts.Artifact | None) -> None:
            if preview is None:
                await self._judge.judge_now(*at)
            else:
                verdict = await self._judge.judged(at[0], preview.spec, _wall_ms())
                preview.verdict.CopyFrom(verdict)

        return await self._writes.execute(
            method,
            request,
            caller_of(context),
            at,
            VERSIONS,
            decide,
            response,
            settle=settle,
        )


class ArtifactView:
    """The artifacts of a list or a watch; an item is an artifact's name. Raises `InvalidWrite`, `NotFound`."""

    def __init__(self, replica: Replica, request: Any) -> None:
        self._state = replica.state
        self._scope = Scope(self._state, request)

    def items(self) -> list[str]:
        """Names of all artifacts ever known in the scope, in order."""
        return sorted(
            artifact_name(domain, subject)
            for domain in self._scope.domains()
            for subject in self._state.subjects_of(domain, "artifacts")
        )

    def touched(self, applied: Applied) -> Iterator[str]:
        """Artifacts of which a commit wrote something."""
        for key in applied.keys:
            if key.subject.startswith("artifacts/") and self._scope.holds(key.domain):
                yield artifact_name(key.domain, key.subject)

    def keys(self, item: str) -> Iterator[Key]:
        """What the artifact is made of."""
        domain, subject = artifact_in_name(item)
        return (Key(domain, subject, aspect) for aspect in ARTIFACT_ASPECTS)

    def show(self, item: str) -> artifacts.Artifact | None:
        """The artifact; None when it does not exist."""
        return compose_artifact(self._state, *artifact_in_name(item), _wall_ms())


def list_artifacts(replica: Replica, request: Any) -> supply.ListArtifactsResponse:
    """As `SupplyService.ListArtifacts`."""
    page = page_of(request)
    view = ArtifactView(replica, request)
    for field in ("component", "version"):
        check_text(getattr(request, field), field, MAX_WORD_BYTES)
    states = frozenset(request.states)

    def fits(name: str) -> bool:
        found = view.show(name)
        return (
            found is not None
            and (not request.component or found.spec.component == request.component)
            and (not request.version or found.spec.version == request.version)
            and (not states or found.verdict.state in states)
        )

    names, token = cut((name for name in view.items() if fits(name)), page, str)
    shown = (view.show(name) for name in names)
    return supply.ListArtifactsResponse(
        artifacts=[each for each in shown if each is not None], next_page_token=token
    )


async def watch_artifacts(
    replica: Replica, request: Any
) -> AsyncIterator[supply.WatchArtifactsResponse]:
    """As `SupplyService.WatchArtifacts`."""
    view = ArtifactView(replica, request)
    watch = Watch(replica.state, replica.changes, view, request, log_of(replica))
    async for step in watch.steps(request.resume_token):
        yield reply_of(step, supply.WatchArtifactsResponse)


class SbomUploads:
    """The uploads in progress, and what becomes of the documents."""

    def __init__(self, values: ValueStore) -> None:
        self._values = values
        self._in_progress = 0

    async def take(self, requests: AsyncIterator[Any]) -> supply.UploadSbomResponse:
        """As `SupplyService.UploadSbom`. Raises `InvalidWrite`, `ServiceError`."""
        if self._in_progress >= MAX_UPLOADS:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "OVERLOADED",
                f"{MAX_UPLOADS} uploads are in progress, as many as are taken at once; retry later",
            )
        self._in_progress += 1
        try:
            async with asyncio.timeout(UPLOAD_TIMEOUT_S):
                return await self._take(requests)
        except TimeoutError as error:
            raise ServiceError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "UPLOAD_TOO_SLOW",
                f"the document did not arrive within {UPLOAD_TIMEOUT_S:g} s; nothing of it is kept",
            ) from error
        finally:
            self._in_progress -= 1

    async def _take(self, requests: AsyncIterator[Any]) -> supply.UploadSbomResponse:
        document = bytearray()
        async for request in requests:
            if len(request.data) > MAX_CHUNK_BYTES:
                raise InvalidWrite(
                    f"a piece is {len(request.data)} bytes; at most {MAX_CHUNK_BYTES} are allowed",
                    field="data",
                )
            document += request.data
            if len(document) > MAX_SBOM_BYTES:
                raise InvalidWrite(f"the SBOM is larger than {MAX_SBOM_BYTES} bytes", field="data")
        content = bytes(document)
        try:
            sbom = await asyncio.to_thread(read_sbom, content)
        except BadDocument as error:
            raise InvalidWrite(
                f"the SBOM is refused: {error}", field="data", document_reason=error.reason
            ) from error
        return supply.UploadSbomResponse(
            sbom=await self._keep(content),
            spec_version=sbom.spec_version,
            component_count=sbom.component_count,
            unidentified_count=sbom.unidentified_count,
        )

    async def _keep(self, content: bytes) -> observation_pb2.LargeValueRef:
        pieces = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
        reference = observation_pb2.LargeValueRef(
            name="sbom",
            media_type=MEDIA_TYPE,
            digest=digest_of(content),
            size_bytes=len(content),
        )
        for piece in pieces:
            digest = digest_of(piece)
            if len(pieces) > 1:
                reference.chunks.add(digest=digest, size_bytes=len(piece))
            try:
                await self._values.put(digest, piece)
            except StoreFull as error:
                raise ServiceError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "VALUES_FULL", str(error)
                ) from error
        return reference


def required_artifact(facts: Facts, domain: str, subject: str) -> artifacts.Artifact:
    """The artifact. Raises `NotFound`."""
    artifact = compose_artifact(facts, domain, subject, _wall_ms())
    if artifact is None:
        name = artifact_name(domain, subject)
        raise NotFound(f"{name} is deleted, or not known here", subject=name, domain=domain)
    return artifact


def _check(facts: Facts, domain: str, subject: str, etag: str) -> None:
    required_artifact(facts, domain, subject)
    check_etag(etag, artifact_etag(facts, domain, subject), artifact_name(domain, subject))


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
