"""Nodes: create, set, delete, move.

Owns how nodes are written. Never decides what a node should be: it sends what was given.
"""

from __future__ import annotations

from typing import Any

import click
from google.protobuf.field_mask_pb2 import FieldMask

from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import node_pb2 as node
from souverixctl import options, verbs
from souverixctl.documents import parse_into, read_resource
from souverixctl.nodes import enum_choice
from souverixctl.results import present_write
from souverixctl.session import Session, pass_session
from souverixctl.specs import change_spec, spec_from_flags


def _spec_options(function: options.Function) -> options.Function:
    for decorate in (
        options.own_labels_option,
        options.own_tags_option,
        click.option("--zone", metavar="ZONE", help="Zone it stands in, for people."),
        click.option("--region", metavar="REGION", help="Region it stands in, for people."),
        click.option(
            "--component-type", metavar="NAME", help="Component it runs, such as souverix-rempart."
        ),
        click.option("--display-name", metavar="NAME", help="Name for people."),
        click.option("--kind", type=enum_choice(node.NodeKind), help="What kind of node it is."),
    ):
        function = decorate(function)
    return function


@verbs.create.command("node", short_help="Register a node.")
@click.argument("id", metavar="[NODE]", default="")
@click.option(
    "--domain", metavar="DOMAIN", help="Where it shall live. Default: the controller's own."
)
@options.file_option("The node's spec, or a whole node, in YAML or JSON; - is stdin.")
@_spec_options
@options.write_options
@pass_session
def create_node(session: Session, id: str, file: str | None, **given: Any) -> None:
    """Register a node; without an id the controller makes one.

    \b
    souverixctl create node a1-gw-1 --domain edge-zone-a1 --kind gateway --tag lab
    souverixctl create node -f node.yaml
    """
    write = options.read_write_options(given)
    resource = read_resource(file, "node") if file else {}
    flags, named = spec_from_flags(node.NodeSpec, given)
    request = fleet.CreateNodeRequest(
        node_id=id or resource.get("id", ""),
        domain=given["domain"] or resource.get("domain", ""),
        **write.fields(),
    )
    parse_into(resource.get("spec", {}), request.spec, str(file))
    FieldMask(paths=named).MergeMessage(flags, request.spec, replace_repeated_field=True)
    for spelling in ("desiredState", "desired_state"):
        if spelling in resource:
            parse_into(resource[spelling], request.desired_state, str(file))
    reply = session.connection.call(request, fleet.CreateNodeResponse)
    done = f"node {reply.node.id} created in {reply.node.domain}"
    present_write(session, reply, done, reply.node.etag)


@verbs.set_.command("node", short_help="Change a node's description.")
@click.argument("id", metavar="NODE")
@options.file_option("The whole spec, or a whole node, in YAML or JSON; - is stdin.")
@_spec_options
@options.etag_option
@options.write_options
@pass_session
def set_node(session: Session, id: str, file: str | None, **given: Any) -> None:
    """Change what is declared of a node. Flags change the fields they name; a file replaces all.

    \b
    souverixctl set node a1-gw-1 --zone north --tag lab --tag gateway
    souverixctl get node a1-gw-1 -o yaml > node.yaml   # edit, then:
    souverixctl set node a1-gw-1 -f node.yaml
    """
    change_spec(session, "node", id, fleet.UpdateNodeRequest, fleet.UpdateNodeResponse, file, given)


@verbs.delete.command("node", short_help="Delete a node.")
@click.argument("id", metavar="NODE")
@options.reason_option
@options.etag_option
@options.write_options
@pass_session
def delete_node(session: Session, id: str, reason: str, etag: str, **given: Any) -> None:
    """Delete a node. No other write brings it back, and its id is never used again.

    \b
    souverixctl delete node a1-gw-1 --reason "scrapped"
    """
    write = options.read_write_options(given)
    request = fleet.DeleteNodeRequest(
        name=options.resource_name("nodes", id),
        etag=etag,
        reason=reason,
        **write.fields(),
    )
    reply = session.connection.call(request, fleet.DeleteNodeResponse)
    present_write(session, reply, f"node {id} deleted")


@verbs.move.command("node", short_help="Move a node to another domain.")
@click.argument("id", metavar="NODE")
@click.option("--to", "domain", required=True, metavar="DOMAIN", help="Where it shall live.")
@options.reason_option
@options.etag_option
@options.write_options
@pass_session
def move_node(session: Session, id: str, domain: str, reason: str, etag: str, **given: Any) -> None:
    """Move a node. The master of the common ancestor of both domains decides.

    \b
    souverixctl move node a1-gw-1 --to edge-zone-a2 --reason "rewired"
    """
    write = options.read_write_options(given)
    request = fleet.MoveNodeRequest(
        name=options.resource_name("nodes", id),
        domain=domain,
        etag=etag,
        reason=reason,
        **write.fields(),
    )
    reply = session.connection.call(request, fleet.MoveNodeResponse)
    present_write(
        session, reply, f"node {reply.node.id} moved to {reply.node.domain}", reply.node.etag
    )
