"""Policies: get, describe, watch, create, set, delete.

Owns how policies are shown and written. A policy is named DOMAIN/ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from souverix.policy.v1 import policy_pb2 as policy
from souverix.policy.v1 import policy_service_pb2 as service
from souverixctl import options, verbs
from souverixctl.documents import parse_into, read_configuration, read_resource
from souverixctl.errors import BadInput
from souverixctl.follow import follow
from souverixctl.output import Cell
from souverixctl.pages import fetch_pages
from souverixctl.results import age, marks, present_details, present_rows, present_write
from souverixctl.session import Session, pass_session

COLUMNS = ("POLICY", "VERSION", "TARGET", "ENFORCED", "WRITTEN BY", "AT", "AGE", "MARKS")


def row(bundle: policy.Policy, now: datetime) -> list[Cell]:
    """A policy as a row of COLUMNS."""
    siblings = [f"{bundle.sibling_count} siblings"] if bundle.sibling_count > 1 else []
    return [
        f"{bundle.domain}/{bundle.id}",
        bundle.spec.version,
        bundle.spec.target_version,
        "yes" if bundle.spec.enforced else "no",
        bundle.last_writer,
        bundle.last_controller,
        age(bundle, "update_time", now),
        marks(optimistic=bundle.optimistic, conflicts=siblings),
    ]


def full_name(text: str) -> str:
    """The resource name of a policy. Raises BadInput."""
    return options.scoped_resource_name("policies", text)


@verbs.get.command("policies", short_help="List policies.")
@options.scope_options
@options.limit_option
@pass_session
def get_policies(session: Session, domain: str, subtree: bool, limit: int) -> None:
    """List policies; without --domain, of every domain the controller knows.

    \b
    souverixctl get policies --domain region-a --subtree
    """
    request = service.ListPoliciesRequest(domain=domain, include_subtree=subtree)
    reply = fetch_pages(session, request, service.ListPoliciesResponse, "policies", limit)
    present_rows(session, reply, COLUMNS, row, reply.policies, "no policies")


def _fetch(session: Session, name: str) -> service.GetPolicyResponse:
    request = service.GetPolicyRequest(name=full_name(name))
    return session.connection.call(request, service.GetPolicyResponse)


@verbs.get.command("policy", short_help="Show one policy.")
@click.argument("name", metavar="DOMAIN/ID")
@pass_session
def get_policy(session: Session, name: str) -> None:
    """Show one policy in a line, or whole with -o json or -o yaml.

    \b
    souverixctl get policy edge-zone-a1/base -o yaml
    """
    reply = _fetch(session, name)
    present_rows(session, reply, COLUMNS, row, [reply.policy])


@verbs.describe.command("policy", short_help="Describe one policy.")
@click.argument("name", metavar="DOMAIN/ID")
@pass_session
def describe_policy(session: Session, name: str) -> None:
    """Show everything known of a policy.

    \b
    souverixctl describe policy edge-zone-a1/base
    """
    reply = _fetch(session, name)
    present_details(session, reply, reply.policy)


@verbs.watch.command("policies", short_help="Follow policies.")
@options.scope_options
@pass_session
def watch_policies(session: Session, domain: str, subtree: bool) -> None:
    """Show policies, then every change, until interrupted; without --domain, of every domain.

    \b
    souverixctl watch policies --domain region-a --subtree
    """
    replies = follow(
        session,
        lambda token: service.WatchPoliciesRequest(
            domain=domain, include_subtree=subtree, resume_token=token
        ),
        service.WatchPoliciesResponse,
        lambda reply: reply.resume_token,
        "the policies are shown again from the beginning",
    )
    for reply in replies:
        if not session.output.is_table:
            session.output.step(reply)
        elif reply.WhichOneof("step") == "changed":
            name, version, target, _, writer, controller, _, mark = row(
                reply.changed, session.output.now
            )
            session.output.line(
                f"{name:32}",
                f"version {version or '-'}",
                f"target {target or '-'}",
                f"by {writer} at {controller}",
                mark,
            )
        elif reply.WhichOneof("step") == "deleted":
            session.output.line(f"{reply.deleted:32}", "deleted")


def _spec_options(function: options.Function) -> options.Function:
    for decorate in (
        click.option(
            "--min-battery",
            type=click.IntRange(0, 100),
            metavar="PERCENT",
            help="Change nodes only with at least this battery charge.",
        ),
        click.option(
            "--requires-online/--no-requires-online",
            default=None,
            help="Change nodes only while they are LIVE. Default: in any mode.",
        ),
        click.option(
            "--maintenance-window",
            metavar="WINDOW",
            help="When nodes may be changed, such as 'Sun 02:00-04:00 UTC'. Default: at any time.",
        ),
        click.option(
            "--tag",
            "tags",
            multiple=True,
            metavar="TAG",
            help="Only for nodes with this tag. Repeatable: all of them. Default: all nodes.",
        ),
        click.option(
            "--enforced/--not-enforced",
            default=None,
            help="Whether no nearer domain can override it. Default: it can.",
        ),
        options.config_options,
        click.option(
            "--target-version",
            metavar="VERSION",
            help="Software version nodes should run, such as 2.1.0.",
        ),
        click.option(
            "--version", metavar="LABEL", help="Version label of the bundle, such as policy-v2.1."
        ),
        click.option("--display-name", metavar="NAME", help="Title for people."),
        options.file_option("The whole spec, or a whole policy, in YAML or JSON; - is stdin."),
    ):
        function = decorate(function)
    return function


def _apply_flags(
    spec: policy.PolicySpec,
    config_file: str | None,
    assignments: Sequence[str],
    given: dict[str, Any],
) -> bool:
    """Change in `spec` what the flags name; False when they name nothing."""
    named = bool(config_file or assignments)
    for field in ("display_name", "version", "target_version", "enforced"):
        if given[field] is not None:
            setattr(spec, field, given[field])
            named = True
    if given["tags"]:
        spec.tags[:] = given["tags"]
        named = True
    for field, value in (
        ("maintenance_window", given["maintenance_window"]),
        ("requires_online", given["requires_online"]),
        ("min_battery_pct", given["min_battery"]),
    ):
        if value is not None:
            setattr(spec.constraints, field, value)
            named = True
    held = spec.configuration if spec.HasField("configuration") else None
    document = read_configuration(config_file, assignments, held)
    if document is not None:
        spec.configuration.CopyFrom(document)
    return named


@verbs.create.command("policy", short_help="Create a policy.")
@click.argument("name", metavar="[DOMAIN/ID]", default="")
@_spec_options
@options.write_options
@pass_session
def create_policy(
    session: Session,
    name: str,
    file: str | None,
    config_file: str | None,
    assignments: Sequence[str],
    **given: Any,
) -> None:
    """Create a policy from flags, a file, or a file with flags on top.

    \b
    souverixctl create policy region-a/base --target-version 2.1.0 --config stir.mode=enforce
    souverixctl create policy region-a/base -f base.yaml --wait-durable global
    """
    write = options.read_write_options(given)
    resource = read_resource(file, "policy") if file else {}
    domain, id = options.scoped_name(
        "policies", name or f"{resource.get('domain', '')}/{resource.get('id', '')}"
    )
    spec = policy.PolicySpec()
    parse_into(resource.get("spec", {}), spec, str(file))
    _apply_flags(spec, config_file, assignments, given)
    request = service.CreatePolicyRequest(
        domain=domain,
        policy_id=id,
        spec=spec,
        **write.fields(),
    )
    reply = session.connection.call(request, service.CreatePolicyResponse)
    present_write(session, reply, f"policy {domain}/{id} created", reply.policy.etag)


@verbs.set_.command("policy", short_help="Change a policy.")
@click.argument("name", metavar="DOMAIN/ID")
@_spec_options
@options.etag_option
@options.write_options
@pass_session
def set_policy(
    session: Session,
    name: str,
    file: str | None,
    config_file: str | None,
    assignments: Sequence[str],
    etag: str,
    **given: Any,
) -> None:
    """Change a policy. Flags change what they name and keep the rest; a file replaces all.

    With flags alone the policy is read first, and the write holds only if nobody wrote in between
    (exit code 4: somebody did). An etag in the file counts unless --etag is given.

    \b
    souverixctl set policy edge-zone-a1/base --target-version 2.1.1 --enforced
    souverixctl get policy edge-zone-a1/base -o yaml > base.yaml   # edit, then:
    souverixctl set policy edge-zone-a1/base -f base.yaml
    """
    domain, id = options.scoped_name("policies", name)
    write = options.read_write_options(given)
    spec = policy.PolicySpec()
    if file:
        resource = read_resource(file, "policy")
        parse_into(resource["spec"], spec, file)
        etag = etag or resource.get("etag", "")
        _apply_flags(spec, config_file, assignments, given)
    else:
        present_policy = _fetch(session, name).policy
        spec.CopyFrom(present_policy.spec)
        etag = etag or present_policy.etag
        if not _apply_flags(spec, config_file, assignments, given):
            raise BadInput(
                "nothing to change", "name a field, such as --target-version, or give -f"
            )
    request = service.UpdatePolicyRequest(
        name=f"domains/{domain}/policies/{id}",
        spec=spec,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.UpdatePolicyResponse)
    present_write(
        session,
        reply,
        f"policy {domain}/{id} set",
        reply.policy.etag,
    )


@verbs.delete.command("policy", short_help="Delete a policy.")
@click.argument("name", metavar="DOMAIN/ID")
@options.etag_option
@options.write_options
@pass_session
def delete_policy(session: Session, name: str, etag: str, **given: Any) -> None:
    """Delete a policy. What domains above and below declare goes on to apply.

    \b
    souverixctl delete policy edge-zone-a1/base
    """
    write = options.read_write_options(given)
    request = service.DeletePolicyRequest(
        name=full_name(name),
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.DeletePolicyResponse)
    present_write(
        session, reply, f"policy {'/'.join(options.scoped_name('policies', name))} deleted"
    )
