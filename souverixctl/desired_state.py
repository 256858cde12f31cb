"""Desired state: what one node should be.

Owns how flags and documents become the whole value that is written. Never overwrites what somebody
else wrote since it was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import node_pb2 as node
from souverixctl import options, verbs
from souverixctl.documents import read_configuration
from souverixctl.errors import BadInput
from souverixctl.nodes import fetch_node
from souverixctl.results import present_write
from souverixctl.session import Session, pass_session


@verbs.set_.command("desired-state", short_help="Declare what a node should be.")
@click.argument("id", metavar="NODE")
@click.option(
    "--version",
    "target_version",
    metavar="VERSION",
    help="Software version it should run, such as 2.1.0.",
)
@click.option(
    "--policy",
    "policy_bundle",
    metavar="ID",
    help="Policy bundle it should follow, looked up along its domain's path, nearest first.",
)
@options.config_options
@click.option("--config-name", metavar="NAME", help="Name people know the configuration by.")
@click.option(
    "--maintenance-window",
    metavar="WINDOW",
    help="When it may be changed, such as 'Sun 02:00-04:00 UTC'. Default: at any time.",
)
@click.option(
    "--requires-online/--no-requires-online",
    default=None,
    help="Change it only while LIVE. Default: in any mode.",
)
@click.option(
    "--min-battery",
    type=click.IntRange(0, 100),
    metavar="PERCENT",
    help="Change it only with at least this battery charge.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Forget what was declared before; without other flags nothing stays declared.",
)
@options.etag_option
@options.write_options
@pass_session
def set_desired_state(
    session: Session,
    id: str,
    config_file: str | None,
    assignments: Sequence[str],
    replace: bool,
    etag: str,
    **given: Any,
) -> None:
    """Declare what one node should be. Flags change what they name and keep the rest.

    What is there is read first, and the write holds only if nobody wrote in between (exit code 4:
    somebody did); --etag names the state you have seen instead.

    \b
    souverixctl set desired-state a1-gw-1 --version 2.1.0
    souverixctl set desired-state a1-gw-1 --config stir.mode=enforce --wait-durable global
    souverixctl set desired-state a1-gw-1 --replace   # the policies alone decide again
    """
    write = options.read_write_options(given)
    present_node = node.Node() if replace else fetch_node(session, id).node
    desired = node.DesiredState()
    desired.CopyFrom(present_node.desired_state)
    held = desired.configuration if desired.HasField("configuration") else None
    document = read_configuration(config_file, assignments, held)
    constraints = {
        "maintenance_window": given.pop("maintenance_window"),
        "requires_online": given.pop("requires_online"),
        "min_battery_pct": given.pop("min_battery"),
    }
    if document is None and not replace and {*given.values(), *constraints.values()} == {None}:
        raise BadInput("nothing to declare", "say what, such as --version 2.1.0")
    for field, value in given.items():
        if value is not None:
            setattr(desired, field, value)
    for field, value in constraints.items():
        if value is not None:
            setattr(desired.constraints, field, value)
    if document is not None:
        desired.configuration.CopyFrom(document)
        desired.config_hash = ""
    request = fleet.SetDesiredStateRequest(
        name=options.resource_name("nodes", id),
        desired_state=desired if desired.ListFields() else None,
        etag=etag or present_node.etag,
        **write.fields(),
    )
    reply = session.connection.call(request, fleet.SetDesiredStateResponse)
    present_write(session, reply, f"desired state of {reply.node.id} set", reply.node.etag)
