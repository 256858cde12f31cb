"""Who may call what: roles given, taken back, listed, and asked about.

Owns how role bindings are shown and written. A binding is named DOMAIN/ID.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import click

from souverix.trust.v1 import access_service_pb2 as service
from souverix.trust.v1 import role_binding_pb2
from souverixctl import options
from souverixctl.errors import BadInput
from souverixctl.output import Cell
from souverixctl.pages import fetch_pages
from souverixctl.results import age, present, present_write
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import show_exact

ROLES = {
    "viewer": role_binding_pb2.ROLE_VIEWER,
    "operator": role_binding_pb2.ROLE_OPERATOR,
    "domain-admin": role_binding_pb2.ROLE_DOMAIN_ADMIN,
    "fleet-admin": role_binding_pb2.ROLE_FLEET_ADMIN,
}
LABELS = {number: label for label, number in ROLES.items()}
COLUMNS = ("BINDING", "ROLE", "MEMBERS", "WRITTEN BY", "AGE", "REASON")

#: Hexadecimal digits of an id made of what a binding says.
MADE_ID_DIGITS = 10


def row(binding: role_binding_pb2.RoleBinding, now: datetime) -> list[Cell]:
    """A binding as a row of COLUMNS."""
    return [
        f"{binding.domain}/{binding.id}",
        LABELS.get(binding.spec.role, ""),
        ", ".join(binding.spec.members),
        binding.last_writer,
        age(binding, "update_time", now),
        binding.spec.reason,
    ]


def full_name(text: str) -> str:
    """The resource name of a binding. Raises BadInput."""
    parts = text.split("/")
    if len(parts) == 4 and parts[0] == "domains" and parts[2] == "bindings":
        parts = [parts[1], parts[3]]
    if len(parts) != 2 or not all(parts):
        raise BadInput(
            f"{text!r} does not name a binding", "write DOMAIN/ID, as `access list` shows it"
        )
    return f"domains/{parts[0]}/bindings/{parts[1]}"


group = Verbs(
    "access",
    help="Who may call what, and where: give roles, take them back, and ask what they allow.\n\n"
    "Roles, each with what those before it may: viewer, operator, domain-admin, fleet-admin. A role"
    " holds over the domain it is given in and all below.\n\n"
    "\b\nsouverixctl access whoami\nsouverixctl access grant region-a operator user:alice",
    short_help="Who may call what, and where.",
)


@group.command("grant", short_help="Give a role.")
@click.argument("domain")
@click.argument("role", type=click.Choice(list(ROLES)))
@click.argument("members", nargs=-1, required=True, metavar="MEMBER...")
@click.option(
    "--id",
    "binding_id",
    default="",
    metavar="ID",
    help="Id of the binding. Default: made of the rest.",
)
@click.option("--reason", default="", metavar="TEXT", help="Why, for people.")
@options.write_options
@pass_session
def grant(
    session: Session,
    domain: str,
    role: str,
    members: tuple[str, ...],
    binding_id: str,
    reason: str,
    **given: Any,
) -> None:
    """Give a role over a domain and all below to users and groups.

    \b
    souverixctl access grant region-a operator user:alice group:noc --reason "on call"
    """
    write = options.read_write_options(given)
    told = "\0".join((role, *sorted(members))).encode()
    made = f"{role}-{hashlib.sha256(told).hexdigest()[:MADE_ID_DIGITS]}"
    request = service.CreateRoleBindingRequest(
        domain=domain,
        binding_id=binding_id or made,
        spec=role_binding_pb2.RoleBindingSpec(role=ROLES[role], members=members, reason=reason),
        request_id=write.request_id,
        validate_only=write.validate_only,
        durable_at=write.durable_at,
    )
    reply = session.connection.call(request, service.CreateRoleBindingResponse)
    name = f"{domain}/{request.binding_id}"
    present_write(session, reply, f"role binding {name} created", reply.binding.etag)


@group.command("revoke", short_help="Take a role back.")
@click.argument("name", metavar="DOMAIN/ID")
@options.etag_option
@options.write_options
@pass_session
def revoke(session: Session, name: str, etag: str, **given: Any) -> None:
    """Take a binding back, from all of its members.

    \b
    souverixctl access revoke region-a/operator-52f7a1c09b
    """
    write = options.read_write_options(given)
    request = service.DeleteRoleBindingRequest(
        name=full_name(name),
        etag=etag,
        request_id=write.request_id,
        validate_only=write.validate_only,
        durable_at=write.durable_at,
    )
    reply = session.connection.call(request, service.DeleteRoleBindingResponse)
    present_write(session, reply, f"role binding {name} deleted")


@group.command("list", short_help="List role bindings.")
@options.scope_options
@click.option(
    "--member",
    default="",
    metavar="MEMBER",
    help="Only bindings of this member, such as user:alice.",
)
@options.limit_option
@pass_session
def list_(session: Session, domain: str, subtree: bool, member: str, limit: int) -> None:
    """List role bindings; without --domain, of every domain you may see.

    \b
    souverixctl access list --domain region-a --subtree --member user:alice
    """
    request = service.ListRoleBindingsRequest(domain=domain, include_subtree=subtree, member=member)
    reply = fetch_pages(session, request, service.ListRoleBindingsResponse, "bindings", limit)
    rows = [row(each, session.output.now) for each in reply.bindings]
    present(session, reply, lambda: session.output.table(COLUMNS, rows, "no role bindings"))


@group.command("whoami", short_help="Show who you are, and your roles.")
@pass_session
def whoami(session: Session) -> None:
    """Show whom the controller takes you for, and which roles you have there.

    \b
    souverixctl access whoami
    """
    reply = session.connection.call(service.WhoAmIRequest(), service.WhoAmIResponse)

    def show() -> None:
        output = session.output
        output.line(f"{reply.principal}{_proof(reply)}")
        if reply.groups:
            output.line(f"in {', '.join(reply.groups)}")
        if not reply.enforced:
            output.line("this controller does not enforce roles: everybody may call everything")
        rows: list[list[Cell]] = [
            [LABELS.get(each.role, ""), each.domain, each.binding or "configuration"]
            for each in reply.grants
        ]
        output.table(("ROLE", "DOMAIN", "BY"), rows, "no roles")

    present(session, reply, show)


def _proof(reply: service.WhoAmIResponse) -> str:
    """What proves the caller, in words; empty where nothing does."""
    if not reply.issued_by:
        return ""
    until = f", good until {show_exact(reply.expire_time)}" if reply.HasField("expire_time") else ""
    if reply.token_issuer:
        return f", by a token of {reply.token_issuer}, taken in domain {reply.issued_by}{until}"
    return f", certificate issued by {reply.issued_by}{until}"


@group.command("check", short_help="Ask whether a call is allowed.")
@click.argument("method")
@click.option(
    "--domain",
    default="",
    metavar="DOMAIN",
    help="Domain it is about. Default: the controller's own.",
)
@click.option(
    "--of",
    "principal",
    default="",
    metavar="PRINCIPAL",
    help="Ask about another, such as user:bob.",
)
@pass_session
def check(session: Session, method: str, domain: str, principal: str) -> None:
    """Ask whether a method may be called for a domain. Nothing is called.

    \b
    souverixctl access check souverix.fleet.v1.FleetService/SetDesiredState --domain edge-zone-a1
    """
    request = service.CheckAccessRequest(method=method, domain=domain, principal=principal)
    reply = session.connection.call(request, service.CheckAccessResponse)
    present(
        session,
        reply,
        lambda: session.output.line("allowed" if reply.allowed else f"denied: {reply.reason}"),
    )
