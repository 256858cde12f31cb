"""Domains: get, describe, create, set, delete.

Owns how domains are shown and written. Authority over them is authority.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
from google.protobuf.field_mask_pb2 import FieldMask

from souverix.fleet.v1 import domain_pb2 as domain
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverixctl import options, verbs
from souverixctl.describe import field_word
from souverixctl.documents import parse_into, read_resource
from souverixctl.errors import BadInput
from souverixctl.output import Cell
from souverixctl.pages import fetch_pages
from souverixctl.results import (
    age,
    marks,
    note_freshness,
    present_details,
    present_rows,
    present_write,
    term_path,
)
from souverixctl.session import Session, pass_session
from souverixctl.specs import change_spec, spec_from_flags

COLUMNS = ("ID", "PARENT", "KIND", "NODES", "SUBTREE", "LEVEL", "MASTER", "TERM", "AS OF", "MARKS")
_KINDS = [name.removeprefix("DOMAIN_KIND_") for name in domain.DomainKind.keys()[1:]]


def row(scope: domain.Domain, now: datetime) -> list[Cell]:
    """A domain as a row of COLUMNS."""
    return [
        scope.id,
        scope.parent,
        field_word(scope.spec, "kind"),
        str(scope.node_count),
        str(scope.subtree_node_count),
        field_word(scope.authority, "level"),
        scope.authority.master_of_record,
        term_path(scope.authority.term),
        age(scope, "as_of_time", now),
        marks(optimistic=scope.optimistic, conflicts=scope.conflicted_aspects),
    ]


@verbs.get.command("domains", short_help="List domains.")
@click.option("--domain", default="", metavar="DOMAIN", help="Where to begin. Default: the root.")
@click.option("--children-only", is_flag=True, help="The domain and its children, nothing deeper.")
@options.with_tags_option
@options.limit_option
@pass_session
def get_domains(
    session: Session, domain: str, children_only: bool, tags: Sequence[str], limit: int
) -> None:
    """List the domains, parents before children. `federation status` draws the tree.

    \b
    souverixctl get domains --domain region-a
    """
    request = fleet.ListDomainsRequest(domain=domain, include_subtree=not children_only, tags=tags)
    reply = fetch_pages(session, request, fleet.ListDomainsResponse, "domains", limit)
    present_rows(session, reply, COLUMNS, row, reply.domains, "no domains")
    note_freshness(session, reply)


def _fetch(session: Session, id: str) -> fleet.GetDomainResponse:
    request = fleet.GetDomainRequest(name=options.resource_name("domains", id))
    return session.connection.call(request, fleet.GetDomainResponse)


@verbs.get.command("domain", short_help="Show one domain.")
@click.argument("id", metavar="DOMAIN")
@pass_session
def get_domain(session: Session, id: str) -> None:
    """Show one domain in a line, or whole with -o json or -o yaml.

    \b
    souverixctl get domain edge-zone-a1 -o yaml
    """
    reply = _fetch(session, id)
    present_rows(session, reply, COLUMNS, row, [reply.domain])


@verbs.describe.command("domain", short_help="Describe one domain.")
@click.argument("id", metavar="DOMAIN")
@pass_session
def describe_domain(session: Session, id: str) -> None:
    """Show everything known of a domain: declared, its authority, its nodes summed up.

    \b
    souverixctl describe domain edge-zone-a1
    """
    reply = _fetch(session, id)
    present_details(session, reply, reply.domain)


def _spec_options(function: options.Function) -> options.Function:
    for decorate in (
        options.own_labels_option,
        options.own_tags_option,
        click.option("--display-name", metavar="NAME", help="Name for people."),
        click.option(
            "--kind",
            type=click.Choice(_KINDS, case_sensitive=False),
            help="What kind of domain it is.",
        ),
    ):
        function = decorate(function)
    return function


@verbs.create.command("domain", short_help="Create a domain.")
@click.argument("id", metavar="[DOMAIN]", default="")
@click.option("--parent", metavar="DOMAIN", help="The domain above it.")
@options.file_option("The domain's spec, or a whole domain, in YAML or JSON; - is stdin.")
@_spec_options
@options.write_options
@pass_session
def create_domain(
    session: Session, id: str, parent: str | None, file: str | None, **given: Any
) -> None:
    """Create a domain below an existing one. The master of the parent domain decides.

    \b
    souverixctl create domain edge-zone-a3 --parent region-a --kind edge_zone
    """
    write = options.read_write_options(given)
    resource = read_resource(file, "domain") if file else {}
    flags, named = spec_from_flags(domain.DomainSpec, given)
    spec = domain.DomainSpec()
    parse_into(resource.get("spec", {}), spec, str(file))
    FieldMask(paths=named).MergeMessage(flags, spec, replace_repeated_field=True)
    spec.parent = parent or spec.parent
    domain_id = id or resource.get("id", "")
    if not domain_id or not spec.parent:
        missing = "id" if not domain_id else "parent"
        raise BadInput(
            f"the new domain has no {missing}",
            "souverixctl create domain edge-zone-a3 --parent region-a",
        )
    request = fleet.CreateDomainRequest(
        domain_id=domain_id,
        spec=spec,
        **write.fields(),
    )
    reply = session.connection.call(request, fleet.CreateDomainResponse)
    done = f"domain {reply.domain.id} created below {spec.parent}"
    present_write(session, reply, done, reply.domain.etag)


@verbs.set_.command("domain", short_help="Change a domain's description.")
@click.argument("id", metavar="DOMAIN")
@options.file_option("The whole spec, or a whole domain, in YAML or JSON; - is stdin.")
@_spec_options
@options.etag_option
@options.write_options
@pass_session
def set_domain(session: Session, id: str, file: str | None, **given: Any) -> None:
    """Change what is declared of a domain. Flags change the fields they name; a file replaces all.

    \b
    souverixctl set domain edge-zone-a3 --display-name "Zone A3" --tag lab
    """
    change_spec(
        session, "domain", id, fleet.UpdateDomainRequest, fleet.UpdateDomainResponse, file, given
    )


@verbs.delete.command("domain", short_help="Delete a domain.")
@click.argument("id", metavar="DOMAIN")
@options.reason_option
@options.etag_option
@options.write_options
@pass_session
def delete_domain(session: Session, id: str, reason: str, etag: str, **given: Any) -> None:
    """Delete a domain that has no nodes and no domains below it; else exit code 4.

    \b
    souverixctl delete domain edge-zone-a3 --reason "merged into a2"
    """
    write = options.read_write_options(given)
    request = fleet.DeleteDomainRequest(
        name=options.resource_name("domains", id),
        etag=etag,
        reason=reason,
        **write.fields(),
    )
    reply = session.connection.call(request, fleet.DeleteDomainResponse)
    present_write(session, reply, f"domain {id} deleted")
