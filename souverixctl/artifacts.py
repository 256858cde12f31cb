"""Artifacts: what nodes may run, and what proves it.

Owns how they are shown and written, and how SBOMs and signed envelopes are sent. Verifies nothing itself: a controller
does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from souverix.fleet.v1 import supply_chain_pb2
from souverix.supply.v1 import artifact_pb2 as artifact
from souverix.supply.v1 import supply_service_pb2 as service
from souverixctl import options
from souverixctl.describe import enum_word, field_word
from souverixctl.errors import BadInput
from souverixctl.follow import follow
from souverixctl.output import Cell
from souverixctl.pages import fetch_pages
from souverixctl.results import age, coloured, present, present_details, present_write
from souverixctl.session import Session, Verbs, pass_session

COLUMNS = (
    "ARTIFACT",
    "KIND",
    "COMPONENT",
    "VERSION",
    "STATE",
    "PROVED",
    "SIGNED BY",
    "AGE",
    "MARKS",
)
FINDING_COLUMNS = ("EVIDENCE", "HOLDS", "REASON", "SIGNER", "PROVES", "MESSAGE")

# Bytes of one message of an upload.
PIECE_BYTES = 128 * 1024
# The largest file that is read: a payload to be hashed is read in pieces.
MAX_FILE_BYTES = 16 * 1024 * 1024

_KINDS = [name.removeprefix("ARTIFACT_KIND_") for name in supply_chain_pb2.ArtifactKind.keys()[1:]]

group = Verbs(
    "artifact",
    help="Artifacts: versions of components that nodes may run, and what proves where they come from.\n\n"
    "An artifact is declared in a domain for the nodes of its subtree, by its component, version and the digest of"
    " its payload. What is signed about it (DSSE envelopes with in-toto statements: SLSA provenance, SBOMs,"
    " verification summaries) is judged by whom the domain believes: its supply policy. The policy's gate says"
    " whether nodes may be told to run what is not verified.\n\n"
    "\b\n"
    "souverixctl artifact list --domain region-a --subtree\n"
    "souverixctl artifact verify region-a/rempart-1-4-7",
)


def split_name(text: str) -> tuple[str, str]:
    """Domain and id of "DOMAIN/ID" or "domains/DOMAIN/artifacts/ID". Raises BadInput."""
    return options.scoped_name("artifacts", text, "artifact list")


def full_name(text: str) -> str:
    """The resource name of an artifact. Raises BadInput."""
    return options.scoped_resource_name("artifacts", text, "artifact list")


def row(held: artifact.Artifact, now: datetime) -> list[Cell]:
    """An artifact as a row of COLUMNS."""
    verdict = held.verdict
    proved = [enum_word(artifact.Requirement.DESCRIPTOR, each) for each in verdict.fulfilled]
    signers = dict.fromkeys(f.signer for f in verdict.findings if f.holds and f.signer)
    marks = ["to be judged anew"] if held.verdict_stale else []
    if held.sibling_count > 1:
        marks.append(f"conflict: {held.sibling_count} siblings")
    return [
        f"{held.domain}/{held.id}",
        field_word(held.spec, "kind"),
        held.spec.component,
        held.spec.version,
        coloured(field_word(verdict, "state") or "not judged"),
        ", ".join(proved)
        + (f" (SLSA {verdict.slsa_build_level})" if verdict.slsa_build_level else ""),
        ", ".join(signers),
        age(held, "update_time", now),
        ", ".join(marks),
    ]


@group.command("list", short_help="List artifacts.")
@options.scope_options
@click.option("--component", default="", metavar="NAME", help="Only of this component.")
@click.option("--version", default="", metavar="VERSION", help="Only of this version.")
@options.limit_option
@pass_session
def list_artifacts(
    session: Session, domain: str, subtree: bool, component: str, version: str, limit: int
) -> None:
    """List artifacts with what was judged of them; without --domain, of every domain the controller knows.

    \b
    souverixctl artifact list --domain region-a --subtree --component souverix-rempart
    """
    request = service.ListArtifactsRequest(
        domain=domain, include_subtree=subtree, component=component, version=version
    )
    reply = fetch_pages(session, request, service.ListArtifactsResponse, "artifacts", limit)
    rows = [row(each, session.output.now) for each in reply.artifacts]
    present(session, reply, lambda: session.output.table(COLUMNS, rows, "no artifacts"))


@group.command("get", short_help="Show everything known of one artifact.")
@click.argument("name", metavar="DOMAIN/ID")
@pass_session
def get_artifact(session: Session, name: str) -> None:
    """Show everything known of an artifact.

    \b
    souverixctl artifact get region-a/rempart-1-4-7
    """
    request = service.GetArtifactRequest(name=full_name(name))
    reply = session.connection.call(request, service.GetArtifactResponse)
    present_details(session, reply, reply.artifact)


@group.command("watch", short_help="Follow artifacts.")
@options.scope_options
@pass_session
def watch_artifacts(session: Session, domain: str, subtree: bool) -> None:
    """Show artifacts, then every change and verdict, until interrupted.

    \b
    souverixctl artifact watch --domain region-a --subtree
    """
    replies = follow(
        session,
        lambda token: service.WatchArtifactsRequest(
            domain=domain, include_subtree=subtree, resume_token=token
        ),
        service.WatchArtifactsResponse,
        lambda reply: reply.resume_token,
        "the artifacts are shown again from the beginning",
    )
    for reply in replies:
        if not session.output.is_table:
            session.output.step(reply)
        elif reply.WhichOneof("step") == "changed":
            name, _, component, version, state, *_ = row(reply.changed, session.output.now)
            session.output.line(f"{name:32}", component, version, state)
        elif reply.WhichOneof("step") == "deleted":
            session.output.line(f"{reply.deleted:32}", "deleted")


@group.command("create", short_help="Declare an artifact.")
@click.argument("name", metavar="DOMAIN/ID")
@click.option(
    "--kind",
    type=click.Choice([kind.lower().replace("_", "-") for kind in _KINDS]),
    required=True,
    help="What it is.",
)
@click.option(
    "--component",
    required=True,
    metavar="NAME",
    help="Component it is a version of, such as souverix-rempart; for firmware the device's model.",
)
@click.option("--version", required=True, metavar="VERSION", help="As desired versions name it.")
@click.option("--digest", metavar="DIGEST", help="SHA-256 of the payload, sha256:HEX.")
@click.option("--payload", metavar="FILE", help="The payload, to be hashed here; it is not sent.")
@click.option("--purl", default="", metavar="PURL", help="Package URL of the payload.")
@click.option("--payload-uri", default="", metavar="URI", help="Where the payload can be had.")
@click.option("--sbom", metavar="FILE", help="Its SBOM, CycloneDX JSON: uploaded, then named.")
@click.option(
    "--envelope",
    "envelopes",
    multiple=True,
    metavar="FILE",
    help="A DSSE envelope in JSON. Repeatable.",
)
@click.option(
    "--payload-signature",
    metavar="FILE",
    help="The maker's signature of the payload, raw or base64, such as `openssl dgst -sha256 -sign` writes it.",
)
@click.option(
    "--certificates",
    metavar="FILE",
    help="Certificates in PEM that vouch for --payload-signature, the signer's first.",
)
@options.write_options
@pass_session
def create_artifact(
    session: Session,
    name: str,
    kind: str,
    digest: str | None,
    payload: str | None,
    sbom: str | None,
    envelopes: Sequence[str],
    payload_signature: str | None,
    certificates: str | None,
    **given: Any,
) -> None:
    """Declare an artifact, with what proves it; the reply says what that is worth.

    \b
    souverixctl artifact create region-a/r-147 --kind package --component rempart --version 1.4.7 --payload r.deb
    """
    write = options.read_write_options(given)
    domain, id = split_name(name)
    if (digest is None) == (payload is None):
        raise BadInput("the payload's digest is needed", "give either --digest or --payload")
    spec = artifact.ArtifactSpec(
        kind=_value(
            supply_chain_pb2.ArtifactKind, f"ARTIFACT_KIND_{kind.upper().replace('-', '_')}"
        ),
        digest=digest or _hash_of(str(payload)),
        envelopes=[artifact.SignedEnvelope(document=_read(path)) for path in envelopes],
        **given,
    )
    if payload_signature:
        spec.payload_signature.signature = _signature(_read(payload_signature))
        spec.payload_signature.certificates.extend(_certificates(certificates))
    elif certificates:
        raise BadInput("--certificates vouch for a signature", "give --payload-signature too")
    if sbom:
        spec.sbom.CopyFrom(upload(session, sbom).sbom)
    request = service.CreateArtifactRequest(
        domain=domain,
        artifact_id=id,
        spec=spec,
        **write.fields(),
    )
    reply = session.connection.call(request, service.CreateArtifactResponse)
    _present_judged(session, reply, f"artifact {domain}/{id} created")


@group.command("attach", short_help="Add a signed envelope to an artifact.")
@click.argument("name", metavar="DOMAIN/ID")
@click.argument("envelope", metavar="FILE")
@click.option("--certificates", metavar="FILE", help="Certificates in PEM, the signer's first.")
@options.etag_option
@options.write_options
@pass_session
def attach_envelope(
    session: Session, name: str, envelope: str, certificates: str | None, etag: str, **given: Any
) -> None:
    """Add a DSSE envelope to an artifact: provenance, a statement on its SBOM, a verification summary.

    \b
    souverixctl artifact attach edge-zone-b1/rempart-1-4-7 summary.json
    """
    write = options.read_write_options(given)
    signed = artifact.SignedEnvelope(
        document=_read(envelope), certificates=_certificates(certificates)
    )
    request = service.AttachEnvelopeRequest(
        name=full_name(name),
        envelope=signed,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.AttachEnvelopeResponse)
    _present_judged(session, reply, f"artifact {'/'.join(split_name(name))} changed")


@group.command("verify", short_help="Judge an artifact now.")
@click.argument("name", metavar="DOMAIN/ID")
@click.option(
    "--for-domain", default="", metavar="DOMAIN", help="By whom this domain below believes."
)
@pass_session
def verify_artifact(session: Session, name: str, for_domain: str) -> None:
    """Judge an artifact now, piece by piece; nothing is written.

    \b
    souverixctl artifact verify region-a/rempart-1-4-7 --for-domain edge-zone-a1
    """
    request = service.VerifyArtifactRequest(name=full_name(name), for_domain=for_domain)
    reply = session.connection.call(request, service.VerifyArtifactResponse)
    present(session, reply, lambda: _show_verdict(session, reply.verdict))


@group.command("unverified", short_help="List nodes that run what is not verified.")
@options.scope_options
@options.limit_option
@pass_session
def list_unverified(session: Session, domain: str, subtree: bool, limit: int) -> None:
    """List nodes that run a version no verified artifact stands for; without --domain, all the controller's own.

    \b
    souverixctl artifact unverified --domain region-a --subtree
    """
    request = service.ListUnverifiedNodesRequest(
        domain=domain, include_subtree=subtree or not domain
    )
    reply = fetch_pages(session, request, service.ListUnverifiedNodesResponse, "nodes", limit)
    rows: list[Sequence[Cell]] = [
        [
            each.node,
            each.domain,
            each.version,
            coloured(field_word(each, "state") or "not judged"),
            each.reason,
        ]
        for each in reply.nodes
    ]
    columns = ("NODE", "DOMAIN", "VERSION", "STATE", "WHY")
    present(session, reply, lambda: session.output.table(columns, rows, "no node is known to"))
    if session.output.is_table:
        session.output.line(
            f"{reply.unverified_count} of {reply.node_count} nodes run what is not verified,"
            f" {reply.verified_count} what is; of {reply.unknown_count} it is not known"
        )


@group.command("summary", short_help="Write the signed verification summary of an artifact.")
@click.argument("name", metavar="DOMAIN/ID")
@click.option("--to", "path", default="-", metavar="FILE", help="Where to write. Default: stdout.")
@pass_session
def write_summary(session: Session, name: str, path: str) -> None:
    """Write the verification summary that the artifact's controller signed: a SLSA VSA in a DSSE envelope.

    It is enough for zones below that have neither the SBOM nor the build's attestations: `artifact attach`.

    \b
    souverixctl artifact summary region-a/rempart-1-4-7 --to summary.json
    """
    request = service.GetArtifactRequest(name=full_name(name))
    held = session.connection.call(request, service.GetArtifactResponse).artifact
    if not held.verdict.summary or held.verdict_stale:
        state = field_word(held.verdict, "state") or "not judged"
        raise BadInput(
            f"{name} has no summary that counts: it is {state}",
            f"souverixctl artifact verify {name} says why",
        )
    if path == "-":
        click.echo(held.verdict.summary.decode())
    else:
        Path(path).write_bytes(held.verdict.summary)
        session.output.note(f"signed by {held.verdict.verifier}, written to {path}")


@group.command("delete", short_help="Delete an artifact.")
@click.argument("name", metavar="DOMAIN/ID")
@options.etag_option
@options.write_options
@pass_session
def delete_artifact(session: Session, name: str, etag: str, **given: Any) -> None:
    """Delete an artifact; nodes that run it go on.

    \b
    souverixctl artifact delete region-a/rempart-1-4-6
    """
    write = options.read_write_options(given)
    request = service.DeleteArtifactRequest(
        name=full_name(name),
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.DeleteArtifactResponse)
    present_write(session, reply, f"artifact {'/'.join(split_name(name))} deleted")


def upload(session: Session, path: str) -> service.UploadSbomResponse:
    """Sends an SBOM to the controller, which validates it. Raises Refused."""
    content = _read(path)

    def pieces() -> Iterator[service.UploadSbomRequest]:
        for at in range(0, len(content), PIECE_BYTES):
            yield service.UploadSbomRequest(data=content[at : at + PIECE_BYTES])

    return session.connection.upload(
        pieces, service.UploadSbomRequest.DESCRIPTOR, service.UploadSbomResponse
    )


def _value(enum: Any, name: str) -> Any:
    return enum.Value(name)


def _present_judged(session: Session, reply: Any, done: str) -> None:
    present_write(session, reply, done, reply.artifact.etag)
    if session.output.is_table:
        _show_verdict(session, reply.artifact.verdict)


def _show_verdict(session: Session, verdict: artifact.ArtifactVerdict) -> None:
    session.output.line(
        coloured(field_word(verdict, "state") or "not judged"),
        f"by {verdict.verifier or 'nobody yet'}",
    )
    rows: list[Sequence[Cell]] = [
        [
            each.evidence,
            "yes" if each.holds else "no",
            each.reason,
            each.signer,
            ", ".join(enum_word(artifact.Requirement.DESCRIPTOR, p) for p in each.proves),
            each.message,
        ]
        for each in verdict.findings
    ]
    session.output.table(FINDING_COLUMNS, rows, "there is no evidence")


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise BadInput(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return content


def _hash_of(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error


def _signature(data: bytes) -> bytes:
    """A signature as it is, or in base64 text."""
    try:
        return base64.b64decode(data.strip(), validate=True)
    except (binascii.Error, ValueError):
        return data


def _certificates(path: str | None) -> list[bytes]:
    """The certificates of a PEM file in DER. Raises BadInput."""
    if path is None:
        return []
    found = []
    for part in _read(path).split(b"-----BEGIN CERTIFICATE-----")[1:]:
        body = part.partition(b"-----END CERTIFICATE-----")[0]
        try:
            found.append(base64.b64decode(b"".join(body.split()), validate=True))
        except binascii.Error as error:
            raise BadInput(f"{path} holds no certificates in PEM: {error}") from error
    if not found:
        raise BadInput(f"{path} holds no certificates in PEM")
    return found
