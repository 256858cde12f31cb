"""Who is let into a domain: one-time tokens for machines, and the queue of those that wait for approval.

Owns how tokens and enrolments are shown and written. A token is named DOMAIN/ID, an enrolment DOMAIN/NODE.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click

from souverix.trust.v1 import enrolment_pb2
from souverix.trust.v1 import enrolment_service_pb2 as service
from souverixctl import options
from souverixctl.errors import BadInput
from souverixctl.output import Cell
from souverixctl.pages import fetch_pages
from souverixctl.results import age, present_details, present_rows, present_write, word
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import parse_duration, seconds_of

KINDS = {
    "node": enrolment_pb2.ENROLMENT_KIND_NODE,
    "relay": enrolment_pb2.ENROLMENT_KIND_RELAY,
}
KIND_LABELS = {number: label for label, number in KINDS.items()}
TOKEN_COLUMNS = ("TOKEN", "FOR", "APPROVAL", "STATE", "EXPIRES", "MADE BY", "USED BY", "REASON")
ENROLMENT_COLUMNS = ("ENROLMENT", "KIND", "STAGE", "FROM", "AGE", "KEY", "DECIDED BY", "REASON")

#: Digits of a key's fingerprint that a table shows; `-o json` has all.
KEY_DIGITS = 16


def token_row(token: enrolment_pb2.EnrolmentToken, now: datetime) -> list[Cell]:
    """A token as a row of TOKEN_COLUMNS."""
    kind = KIND_LABELS.get(token.spec.kind, "")
    return [
        f"{token.domain}/{token.id}",
        f"{kind} {token.spec.node}" if token.spec.node else f"any {kind}",
        "needed" if token.spec.needs_approval else "",
        word(token, "state"),
        age(token.spec, "expire_time", now),
        token.creator,
        token.used_by,
        token.spec.reason,
    ]


def enrolment_row(enrolment: enrolment_pb2.Enrolment, now: datetime) -> list[Cell]:
    """An enrolment as a row of ENROLMENT_COLUMNS."""
    return [
        f"{enrolment.domain}/{enrolment.node}",
        KIND_LABELS.get(enrolment.kind, ""),
        word(enrolment, "stage"),
        enrolment.source,
        age(enrolment, "request_time", now),
        enrolment.key_fingerprint[:KEY_DIGITS],
        enrolment.decided_by,
        enrolment.reason,
    ]


def full_name(text: str, collection: str) -> str:
    """The resource name of what is written DOMAIN/ID. Raises BadInput."""
    parts = text.split("/")
    if len(parts) == 4 and parts[0] == "domains" and parts[2] == collection:
        parts = [parts[1], parts[3]]
    if len(parts) != 2 or not all(parts):
        raise BadInput(f"{text!r} names nothing there", "write DOMAIN/ID, as the list shows it")
    return f"domains/{parts[0]}/{collection}/{parts[1]}"


group = Verbs(
    "enrolment",
    help="Let machines into a domain: make one-time tokens, and decide about machines that wait.\n\n"
    "A machine shows its token once to the domain's controller, which must hold the domain's certificate authority, and"
    " is given a certificate that it renews by itself from then on. With --needs-approval it waits until somebody has"
    " compared its key and approves.\n\n"
    "\b\n"
    "souverixctl enrolment token create edge-zone-a1 --node edge-7\n"
    "souverixctl enrolment list --pending\n"
    "souverixctl enrolment approve edge-zone-a1/edge-7",
    short_help="Let machines into a domain.",
)
token_group = Verbs(
    "token",
    help="One-time tokens: each lets one machine in, until it expires or is taken back.\n\n"
    "\b\nsouverixctl enrolment token create edge-zone-a1 --node edge-7\n"
    "souverixctl enrolment token list --open",
    short_help="One-time tokens.",
)
group.add_command(token_group)


@token_group.command("create", short_help="Make a token.")
@click.argument("domain", default="")
@click.option(
    "--node", default="", metavar="ID", help="The one node it is for. Default: any new one."
)
@click.option("--relay", is_flag=True, help="It is for a relay. Default: for a node.")
@click.option(
    "--needs-approval", is_flag=True, help="Somebody must approve the machine that comes."
)
@click.option(
    "--valid-for",
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="How long it can be used, at most 30d.",
)
@options.reason_option
@options.write_options
@pass_session
def create(
    session: Session,
    domain: str,
    node: str,
    relay: bool,
    needs_approval: bool,
    valid_for: str,
    reason: str,
    **given: Any,
) -> None:
    """Make a token for one machine, and show its secret, once: nobody can show it again.

    Without DOMAIN it is for the domain of the controller that is asked. Give the machine's installer both lines, the
    fingerprint by another way than the token where you can.

    \b
    souverixctl enrolment token create edge-zone-a1 --node edge-7 --valid-for 2h
    """
    write = options.read_write_options(given)
    spec = enrolment_pb2.EnrolmentTokenSpec(
        kind=KINDS["relay" if relay else "node"],
        node=node,
        needs_approval=needs_approval,
        reason=reason,
    )
    life = timedelta(seconds=seconds_of(parse_duration(valid_for)))
    spec.expire_time.FromDatetime(session.output.now + life)
    request = service.CreateEnrolmentTokenRequest(domain=domain, spec=spec, **write.fields())
    reply = session.connection.call(request, service.CreateEnrolmentTokenResponse)
    made = f"token {reply.token.domain}/{reply.token.id} made"
    present_write(session, reply, made, reply.token.etag)
    if session.output.is_table and reply.secret:
        session.output.line(f"token:            {reply.secret}")
        session.output.line(f"root fingerprint: {reply.root_fingerprint}")
        session.output.note(
            "the token is not kept anywhere: whoever has it can be that machine once"
        )


@token_group.command("list", short_help="List tokens.")
@options.scope_options
@click.option("--open", "open_only", is_flag=True, help="Only those that can still be used.")
@options.limit_option
@pass_session
def list_tokens(session: Session, domain: str, subtree: bool, open_only: bool, limit: int) -> None:
    """List tokens, without their secrets, which nobody has.

    \b
    souverixctl enrolment token list --domain edge-zone-a1 --open
    """
    request = service.ListEnrolmentTokensRequest(
        domain=domain, include_subtree=subtree, open_only=open_only
    )
    reply = fetch_pages(session, request, service.ListEnrolmentTokensResponse, "tokens", limit)
    present_rows(session, reply, TOKEN_COLUMNS, token_row, reply.tokens, "no tokens")


@token_group.command("revoke", short_help="Take a token back.")
@click.argument("name", metavar="DOMAIN/ID")
@options.etag_option
@options.write_options
@pass_session
def revoke(session: Session, name: str, etag: str, **given: Any) -> None:
    """Take a token back that was not used. A machine that was let in by it before stays in.

    \b
    souverixctl enrolment token revoke edge-zone-a1/3f9a01c2de
    """
    write = options.read_write_options(given)
    request = service.RevokeEnrolmentTokenRequest(
        name=full_name(name, "enrolment-tokens"), etag=etag, **write.fields()
    )
    reply = session.connection.call(request, service.RevokeEnrolmentTokenResponse)
    present_write(session, reply, f"token {name} revoked", reply.token.etag)


@group.command("list", short_help="List enrolments, and who waits.")
@options.scope_options
@click.option("--pending", "pending_only", is_flag=True, help="Only those that wait for approval.")
@options.limit_option
@pass_session
def list_(session: Session, domain: str, subtree: bool, pending_only: bool, limit: int) -> None:
    """List the machines that came with a token. KEY begins as what the machine itself shows while it waits.

    \b
    souverixctl enrolment list --pending
    """
    request = service.ListEnrolmentsRequest(
        domain=domain, include_subtree=subtree, pending_only=pending_only
    )
    reply = fetch_pages(session, request, service.ListEnrolmentsResponse, "enrolments", limit)
    present_rows(
        session, reply, ENROLMENT_COLUMNS, enrolment_row, reply.enrolments, "no enrolments"
    )


@group.command("show", short_help="Show one enrolment.")
@click.argument("name", metavar="DOMAIN/NODE")
@pass_session
def show(session: Session, name: str) -> None:
    """Show one enrolment, with the whole fingerprint of the machine's key.

    \b
    souverixctl enrolment show edge-zone-a1/edge-7
    """
    request = service.GetEnrolmentRequest(name=full_name(name, "enrolments"))
    reply = session.connection.call(request, service.GetEnrolmentResponse)
    present_details(session, reply, reply.enrolment)


@group.command("approve", short_help="Let a waiting machine in.")
@click.argument("name", metavar="DOMAIN/NODE")
@options.reason_option
@options.etag_option
@options.write_options
@pass_session
def approve(session: Session, name: str, reason: str, etag: str, **given: Any) -> None:
    """Let a waiting machine have its certificate. Compare its key with what the machine shows first.

    \b
    souverixctl enrolment approve edge-zone-a1/edge-7 --reason "rack 12, seen by Alice"
    """
    write = options.read_write_options(given)
    request = service.ApproveEnrolmentRequest(
        name=full_name(name, "enrolments"), etag=etag, reason=reason, **write.fields()
    )
    reply = session.connection.call(request, service.ApproveEnrolmentResponse)
    present_write(session, reply, f"enrolment {name} approved", reply.enrolment.etag)


@group.command("reject", short_help="Refuse a waiting machine.")
@click.argument("name", metavar="DOMAIN/NODE")
@click.option("--reason", required=True, metavar="TEXT", help="Why; the machine shows it, too.")
@options.etag_option
@options.write_options
@pass_session
def reject(session: Session, name: str, reason: str, etag: str, **given: Any) -> None:
    """Refuse a machine that waits. Its token is used up.

    \b
    souverixctl enrolment reject edge-zone-a1/edge-7 --reason "not one of ours"
    """
    write = options.read_write_options(given)
    request = service.RejectEnrolmentRequest(
        name=full_name(name, "enrolments"), etag=etag, reason=reason, **write.fields()
    )
    reply = session.connection.call(request, service.RejectEnrolmentResponse)
    present_write(session, reply, f"enrolment {name} rejected", reply.enrolment.etag)
