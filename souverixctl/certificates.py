"""Certificates that controllers know of: revoke them, and see what is revoked.

Owns how revocations are shown and asked for. Issues nothing: files of certificates are `pki`'s.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from souverix.trust.v1 import revocation_pb2
from souverix.trust.v1 import revocation_service_pb2 as service
from souverixctl import options
from souverixctl.errors import BadInput
from souverixctl.output import Cell
from souverixctl.pages import fetch_pages
from souverixctl.results import age, optional_time, present, present_write
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import parse_time, show_exact
from trust.certificates import MAX_PEM_BYTES, identity_of, parse_der, parse_pem, to_der
from trust.errors import TrustError
from trust.files import IDENTITY_FILE
from trust.identity import Kind

COLUMNS = ("DOMAIN", "REVOKED", "BY", "AGE", "UNTIL", "REASON")

group = Verbs(
    "certificate",
    help="Revoke certificates, and see which are revoked.\n\n"
    "A revocation holds wherever it is known, at once: calls are refused, and streams that stand end. It travels to"
    " the controllers above and below like any fact. Nothing takes it back: issue a new certificate.\n\n"
    "\b\n"
    'souverixctl certificate revoke node:edge-7 --domain edge-zone-a1 --reason "stolen from the mast"\n'
    "souverixctl certificate revocations --domain edge-zone-a1",
    short_help="Revoke certificates, and see which are revoked.",
)


def read_certificate(path: Path) -> tuple[bytes, str]:
    """A certificate as DER, and the domain of its issuer as far as it says so itself. Raises BadInput."""
    file = path / IDENTITY_FILE if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_PEM_BYTES)
        pem = b"-----BEGIN" in data
        certificate = parse_pem(data)[0] if pem else parse_der(data)
        identity = identity_of(certificate)
    except OSError as error:
        raise BadInput(
            f"{file} cannot be read: {error.strerror}", "name a certificate, or its directory"
        ) from error
    except TrustError as error:
        raise BadInput(
            f"{file}: {error}", "name a certificate in PEM or DER, or its directory"
        ) from error
    return to_der(certificate), "" if identity.kind is Kind.AUTHORITY else identity.domain


def what(revoked: revocation_pb2.RevokedCertificates) -> str:
    """What is revoked, in a word or two."""
    match revoked.WhichOneof("kind"):
        case "fingerprint":
            return f"sha256 {revoked.fingerprint}"
        case "serial_number":
            return f"serial {revoked.serial_number}"
        case _:
            before = show_exact(revoked.identity.issued_before)
            return f"{revoked.identity.principal} issued before {before}"


def row(revocation: revocation_pb2.Revocation, now: datetime) -> list[Cell]:
    """A revocation as a row of COLUMNS."""
    until = optional_time(revocation.spec, "expire_time")
    return [
        revocation.domain,
        what(revocation.spec.certificates),
        revocation.last_writer,
        age(revocation.spec, "revoke_time", now),
        show_exact(until) if until is not None else "",
        revocation.spec.reason,
    ]


@group.command("revoke", short_help="Revoke a certificate, or all that an identity has.")
@click.argument("identity", metavar="[KIND:NAME]", default="")
@click.option(
    "--domain",
    default="",
    metavar="DOMAIN",
    help="Domain whose authority issued it. Default: as the certificate says, else that of the controller asked.",
)
@click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="One certificate: its file, PEM or DER, or its directory.",
)
@click.option("--fingerprint", default="", metavar="HEX", help="One certificate, by its SHA-256.")
@click.option("--serial", default="", metavar="HEX", help="One certificate, by its serial number.")
@click.option(
    "--issued-before",
    default="",
    metavar="TIME",
    help="Of an identity, certificates issued before: 2026-02-27T03:45:00Z, or a DURATION ago. Default: now.",
)
@click.option(
    "--expires",
    default="",
    metavar="TIME",
    help="When the certificate of a --fingerprint or --serial expires: the revocation may go then. Default: never.",
)
@click.option("--reason", required=True, metavar="TEXT", help="Why, for people.")
@options.etag_option
@options.write_options
@pass_session
def revoke(
    session: Session,
    identity: str,
    domain: str,
    certificate: Path | None,
    fingerprint: str,
    serial: str,
    issued_before: str,
    expires: str,
    reason: str,
    etag: str,
    **given: Any,
) -> None:
    """Revoke all certificates that an identity has so far, or a single one. Nothing takes it back.

    KIND is controller, node, relay or user. The identity can be given new certificates at once.

    \b
    souverixctl certificate revoke node:edge-7 --domain edge-zone-a1 --reason "stolen from the mast"
    souverixctl certificate revoke --certificate alice/ --reason "laptop lost"
    souverixctl certificate revoke --fingerprint 5f2a… --domain region-a --reason "key was logged"
    """
    if sum(map(bool, (identity, certificate, fingerprint, serial))) != 1:
        raise BadInput(
            "one thing is revoked at a time",
            "give KIND:NAME, --certificate, --fingerprint or --serial",
        )
    if issued_before and not identity:
        raise BadInput("--issued-before goes with KIND:NAME", "leave it out")
    if expires and not (fingerprint or serial):
        raise BadInput("--expires goes with --fingerprint or --serial", "leave it out")
    write = options.read_write_options(given)
    request = service.RevokeCertificateRequest(
        reason=reason, etag=etag, domain=domain, **write.fields()
    )
    if certificate is not None:
        request.certificate, issuer = read_certificate(certificate)
        request.domain = domain or issuer
    elif fingerprint:
        request.fingerprint = fingerprint
    elif serial:
        request.serial_number = serial
    else:
        request.identity.principal = identity
        if issued_before:
            request.identity.issued_before.CopyFrom(parse_time(issued_before, session.output.now))
    if expires:
        request.certificate_expire_time.CopyFrom(parse_time(expires, session.output.now))
    reply = session.connection.call(request, service.RevokeCertificateResponse)
    revoked = reply.revocation
    present_write(
        session,
        reply,
        f"revoked in {revoked.domain}: {what(revoked.spec.certificates)}",
        revoked.etag,
    )


@group.command("revocations", short_help="List what is revoked.")
@options.scope_options
@click.option(
    "--of", "identity", default="", metavar="KIND:NAME", help="Only those of this identity."
)
@click.option(
    "--expired", "show_expired", is_flag=True, help="Those too of certificates that have expired."
)
@options.limit_option
@pass_session
def revocations(
    session: Session, domain: str, subtree: bool, identity: str, show_expired: bool, limit: int
) -> None:
    """List revocations in force; without --domain, of every domain you may see.

    \b
    souverixctl certificate revocations --domain region-a --subtree
    """
    request = service.ListRevocationsRequest(
        domain=domain, include_subtree=subtree, principal=identity, show_expired=show_expired
    )
    reply = fetch_pages(session, request, service.ListRevocationsResponse, "revocations", limit)
    rows = [row(each, session.output.now) for each in reply.revocations]
    present(session, reply, lambda: session.output.table(COLUMNS, rows, "nothing is revoked"))
