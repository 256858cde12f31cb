"""Relationships, the declared edges of the fleet graph: get, describe, watch, create, set, delete.

Owns how they are shown and written. A relationship is named DOMAIN/ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
from google.protobuf.field_mask_pb2 import FieldMask

from souverix.fleet.v1 import node_pb2 as node
from souverix.graph.v1 import graph_pb2 as graph
from souverix.graph.v1 import graph_service_pb2 as service
from souverixctl import options, verbs
from souverixctl.describe import field_word
from souverixctl.errors import BadInput
from souverixctl.follow import follow
from souverixctl.output import Cell, styled
from souverixctl.pages import fetch_pages
from souverixctl.results import (
    age,
    coloured,
    marks,
    present_details,
    present_rows,
    present_write,
)
from souverixctl.session import Session, pass_session

COLUMNS = ("RELATIONSHIP", "FROM", "TO", "TYPE", "HEALTH", "WHY", "AGE", "MARKS")

_TYPES = [name.removeprefix("RELATIONSHIP_TYPE_") for name in node.RelationshipType.keys()[1:]]
_WHERE = "An end is a node, or domains/DOMAIN."


def row(edge: graph.Relationship, now: datetime) -> list[Cell]:
    """A relationship as a row of COLUMNS."""
    spec = edge.spec
    return [
        f"{edge.domain}/{edge.id}",
        spec.from_node or f"domains/{spec.from_domain}",
        spec.to_node or f"domains/{spec.to_domain}",
        field_word(spec, "type"),
        coloured(field_word(edge.health, "state")),
        edge.health.reason,
        age(edge, "update_time", now),
        marks(optimistic=edge.optimistic, conflicts=edge.conflicted_aspects),
    ]


def full_name(text: str) -> str:
    """The resource name of a relationship. Raises BadInput."""
    return options.scoped_resource_name("relationships", text)


def _type_of(word: str) -> Any:
    return node.RelationshipType.Value(f"RELATIONSHIP_TYPE_{word.upper()}")


def _filters(function: options.Function) -> options.Function:
    for decorate in (
        options.with_tags_option,
        click.option(
            "--type",
            "types",
            multiple=True,
            type=click.Choice(_TYPES, case_sensitive=False),
            help="Only of this type. Repeatable: any of them.",
        ),
        click.option(
            "--at", "vertex", default="", metavar="VERTEX", help=f"Only with this end. {_WHERE}"
        ),
        options.scope_options,
    ):
        function = decorate(function)
    return function


def _vertex(text: str) -> str:
    return text if not text or text.startswith("domains/") else options.resource_name("nodes", text)


@verbs.get.command("relationships", short_help="List declared relationships.")
@_filters
@options.limit_option
@pass_session
def get_relationships(
    session: Session,
    domain: str,
    subtree: bool,
    vertex: str,
    types: Sequence[str],
    tags: Sequence[str],
    limit: int,
) -> None:
    """List declared relationships with their health; without --domain, of every domain known.

    \b
    souverixctl get relationships --domain region-a --subtree
    souverixctl get relationships --at a1-gw-1 --type signaling
    """
    request = service.ListRelationshipsRequest(
        domain=domain,
        include_subtree=subtree,
        vertex=_vertex(vertex),
        types=map(_type_of, types),
        tags=tags,
    )
    reply = fetch_pages(session, request, service.ListRelationshipsResponse, "relationships", limit)
    present_rows(session, reply, COLUMNS, row, reply.relationships, "no relationships")


def _fetch(session: Session, name: str) -> service.GetRelationshipResponse:
    request = service.GetRelationshipRequest(name=full_name(name))
    return session.connection.call(request, service.GetRelationshipResponse)


@verbs.get.command("relationship", short_help="Show one relationship.")
@click.argument("name", metavar="DOMAIN/ID")
@pass_session
def get_relationship(session: Session, name: str) -> None:
    """Show one relationship in a line, or whole with -o json or -o yaml.

    \b
    souverixctl get relationship edge-zone-a1/gw-to-core
    """
    reply = _fetch(session, name)
    present_rows(session, reply, COLUMNS, row, [reply.relationship])


@verbs.describe.command("relationship", short_help="Describe one relationship.")
@click.argument("name", metavar="DOMAIN/ID")
@pass_session
def describe_relationship(session: Session, name: str) -> None:
    """Show everything known of a relationship.

    \b
    souverixctl describe relationship edge-zone-a1/gw-to-core
    """
    reply = _fetch(session, name)
    present_details(session, reply, reply.relationship)


@verbs.watch.command("relationships", short_help="Follow declared relationships.")
@_filters
@pass_session
def watch_relationships(
    session: Session,
    domain: str,
    subtree: bool,
    vertex: str,
    types: Sequence[str],
    tags: Sequence[str],
) -> None:
    """Show relationships, then every change of what is declared, until interrupted.

    \b
    souverixctl watch relationships --domain region-a --subtree
    """
    replies = follow(
        session,
        lambda token: service.WatchRelationshipsRequest(
            domain=domain,
            include_subtree=subtree,
            vertex=_vertex(vertex),
            types=map(_type_of, types),
            tags=tags,
            resume_token=token,
        ),
        service.WatchRelationshipsResponse,
        lambda reply: reply.resume_token,
        "the relationships are shown again from the beginning",
    )
    for reply in replies:
        if not session.output.is_table:
            session.output.step(reply)
        elif reply.WhichOneof("step") == "changed":
            name, start, end, kind, state, _, _, mark = row(reply.changed, session.output.now)
            session.output.line(f"{name:32}", f"{start} → {end}", kind, state, mark)
        elif reply.WhichOneof("step") == "deleted":
            session.output.line(styled(f"{reply.deleted:32}"), "deleted")


def _spec_options(function: options.Function) -> options.Function:
    for decorate in (
        options.own_tags_option,
        click.option("--description", metavar="TEXT", help="What it is for, for people."),
    ):
        function = decorate(function)
    return function


@verbs.create.command("relationship", short_help="Declare a relationship.")
@click.argument("start", metavar="FROM")
@click.argument("end", metavar="TO")
@click.option(
    "--type",
    "kind",
    required=True,
    type=click.Choice(_TYPES, case_sensitive=False),
    help="What FROM relies on TO for; member: FROM belongs to the cluster TO.",
)
@click.option(
    "--id", "plain", default="", metavar="ID", help="Its id. Default: made of ends and type."
)
@click.option(
    "--domain",
    default="",
    metavar="DOMAIN",
    help="The domain to hold it. Default: the nearest one that holds both ends.",
)
@_spec_options
@options.write_options
@pass_session
def create_relationship(
    session: Session, start: str, end: str, kind: str, plain: str, domain: str, **given: Any
) -> None:
    """Declare that one node or domain relies on another. An end is a node, or domains/DOMAIN.

    \b
    souverixctl create relationship a1-gw-1 a1-core-1 --type signaling
    souverixctl create relationship a1-gw-1 domains/ibcf-cluster --type member
    """
    write = options.read_write_options(given)
    spec = node.Relationship(
        type=_type_of(kind), description=given["description"] or "", tags=given["tags"]
    )
    for field, text in (("from", start), ("to", end)):
        if text.startswith("domains/"):
            setattr(spec, f"{field}_domain", text.removeprefix("domains/"))
        else:
            setattr(spec, f"{field}_node", text.removeprefix("nodes/"))
    request = service.CreateRelationshipRequest(
        domain=domain,
        relationship_id=plain,
        spec=spec,
        **write.fields(),
    )
    reply = session.connection.call(request, service.CreateRelationshipResponse)
    made = reply.relationship
    done = f"relationship {made.domain}/{made.id} created"
    present_write(session, reply, done, made.etag)


@verbs.set_.command("relationship", short_help="Change a relationship.")
@click.argument("name", metavar="DOMAIN/ID")
@click.option(
    "--type",
    "kind",
    type=click.Choice(_TYPES, case_sensitive=False),
    help="What its start relies on its end for.",
)
@_spec_options
@options.etag_option
@options.write_options
@pass_session
def set_relationship(
    session: Session, name: str, kind: str | None, etag: str, **given: Any
) -> None:
    """Change type, description or tags; what is not named stays. The ends never change.

    \b
    souverixctl set relationship edge-zone-a1/gw-to-core --description "primary path"
    """
    write = options.read_write_options(given)
    spec, mask = node.Relationship(), FieldMask()
    if kind is not None:
        spec.type = _type_of(kind)
        mask.paths.append("type")
    if given["description"] is not None:
        spec.description = given["description"]
        mask.paths.append("description")
    if given["tags"]:
        spec.tags.extend(given["tags"])
        mask.paths.append("tags")
    if not mask.paths:
        raise BadInput("nothing is to be changed", "give --type, --description or --tag")
    request = service.UpdateRelationshipRequest(
        name=full_name(name),
        spec=spec,
        update_mask=mask,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.UpdateRelationshipResponse)
    present_write(session, reply, f"relationship {name} changed", reply.relationship.etag)


@verbs.delete.command("relationship", short_help="Delete a relationship.")
@click.argument("name", metavar="DOMAIN/ID")
@options.reason_option
@options.etag_option
@options.write_options
@pass_session
def delete_relationship(session: Session, name: str, reason: str, etag: str, **given: Any) -> None:
    """Take a relationship away. Its id may be used again.

    \b
    souverixctl delete relationship edge-zone-a1/gw-to-core --reason "rewired"
    """
    write = options.read_write_options(given)
    request = service.DeleteRelationshipRequest(
        name=full_name(name),
        etag=etag,
        reason=reason,
        **write.fields(),
    )
    reply = session.connection.call(request, service.DeleteRelationshipResponse)
    present_write(session, reply, f"relationship {name} deleted")
