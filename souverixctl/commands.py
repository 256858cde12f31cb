"""Commands to nodes: issue, wait, watch, cancel, list.

Owns how commands are issued and how their progress is followed; what is shown is `deliveries`'s. Never
sends a command twice under two request ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from souverix.command.v1 import command_pb2 as command
from souverix.command.v1 import command_service_pb2 as service
from souverixctl import options, verbs
from souverixctl.deliveries import COLUMNS, one_line, row, show_cancel, show_deliveries, states
from souverixctl.describe import field_word
from souverixctl.documents import read_configuration
from souverixctl.errors import BadInput, CtlError, WaitedTooLong
from souverixctl.follow import follow
from souverixctl.pages import fetch_pages
from souverixctl.results import coloured, present, present_details, present_write
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import parse_duration, seconds_of, show_duration

DEFAULT_TTL = "5m"
# A command that has expired ends at its delivering controller; its word needs a moment to come up.
WAIT_MARGIN_S = 30.0

group = Verbs(
    "command",
    help="Have nodes do something, and see what became of it.\n\n"
    "Issue it at a controller above the nodes; its id, which is printed, leads to what became of it.\n\n"
    "\b\nsouverixctl command ping a1-gw-1 --wait\nsouverixctl get commands --open",
)


def _issue_options(function: options.Function) -> options.Function:
    for decorate in (
        options.write_options,
        options.reason_option,
        click.option(
            "--wait-timeout",
            metavar="DURATION",
            help="Longest wait with --wait; exit code 7 when it passes, and the command goes on."
            f" Default: the ttl and {WAIT_MARGIN_S:g}s.",
        ),
        click.option(
            "--wait",
            is_flag=True,
            help="Wait until every target has ended, with progress; exit code 1 when not all succeeded.",
        ),
        click.option(
            "--ttl",
            default=DEFAULT_TTL,
            show_default=True,
            metavar="DURATION",
            help="After this it is neither sent nor waited for; at most 30d.",
        ),
        click.option(
            "--at-most-once",
            is_flag=True,
            help="Never sent twice. Default: sent until the node answers.",
        ),
        click.option("--subtree", is_flag=True, help="With --domain: the domains below it too."),
        click.option("--domain", default="", metavar="DOMAIN", help="All nodes of this domain."),
        click.argument("nodes", nargs=-1, metavar="[NODE]..."),
    ):
        function = decorate(function)
    return function


def _issue(session: Session, action: command.Action, given: dict[str, Any]) -> None:
    write = options.read_write_options(given)
    nodes, domain = given["nodes"], given["domain"]
    if bool(nodes) == bool(domain):
        raise BadInput(
            "no target is given" if not nodes else "nodes and --domain are given",
            "name nodes, or one --domain (with --subtree for those below it)",
        )
    if given["subtree"] and not domain:
        raise BadInput("--subtree without --domain", "name the domain")
    ttl = parse_duration(given["ttl"])
    limit = given["wait_timeout"]
    limit_s = seconds_of(parse_duration(limit) if limit else ttl) + (0 if limit else WAIT_MARGIN_S)
    request = service.IssueCommandRequest(
        targets=command.Targets(
            nodes=[each.removeprefix("nodes/") for each in nodes],
            domain=domain,
            include_subtree=given["subtree"],
        ),
        action=action,
        semantics=(
            command.DELIVERY_SEMANTICS_AT_MOST_ONCE
            if given["at_most_once"]
            else command.DELIVERY_SEMANTICS_AT_LEAST_ONCE
        ),
        expiry=command.Expiry(ttl=ttl),
        **write.fields(),
        reason=given["reason"],
    )
    reply = session.connection.call(request, service.IssueCommandResponse)
    if given["wait"] and not write.validate_only:
        _wait(session, reply.command, limit_s)
        return
    issued = reply.command
    present_write(session, reply, _issued(issued))
    if not write.validate_only:
        session.output.note(f"follow it with: souverixctl watch command {issued.id}")


def _issued(issued: command.Command) -> str:
    count = issued.total_targets
    return f"command {issued.id} issued to {count} {'node' if count == 1 else 'nodes'}"


def _replies(
    session: Session, id: str, limit_s: float | None = None
) -> Iterator[service.WatchCommandResponse]:
    name = options.resource_name("commands", id)
    return follow(
        session,
        lambda _: service.WatchCommandRequest(name=name),
        service.WatchCommandResponse,
        None,
        "the command's state is shown again",
        limit_s,
    )


def _wait(session: Session, issued: command.Command, limit_s: float) -> None:
    """Show progress until the command is done, then its deliveries. Raises when not all succeeded."""
    told = ""
    last = service.WatchCommandResponse(command=issued)
    session.output.note(_issued(issued))
    with session.output.progress() as progress:
        task = progress.add_task(issued.id, total=issued.total_targets or None)
        for last in _replies(session, issued.id, limit_s):
            seen = last.command
            progress.update(
                task, completed=seen.finished_targets, description=f"{seen.id} {states(seen)}"
            )
            if progress.disable and states(seen) != told:
                told = states(seen)
                session.output.note(f"{seen.finished_targets}/{seen.total_targets}: {told}")
            if seen.done:
                break
    present(session, last, lambda: show_deliveries(session, last.command))
    if not last.command.done:
        raise WaitedTooLong(
            f"command {issued.id} is not done after {show_duration(limit_s)}",
            f"it goes on: souverixctl watch command {issued.id}",
        )
    _check(last.command)


def _check(ended: command.Command) -> None:
    failed = [each for each in ended.deliveries if each.state != command.DELIVERY_STATE_SUCCEEDED]
    if failed or len(ended.deliveries) < ended.total_targets:
        raise CtlError(
            f"command {ended.id}: {states(ended)}",
            f"see each node's answer with: souverixctl describe command {ended.id}",
        )


@group.command("ping", short_help="Have nodes answer.")
@click.option(
    "--payload", default="", metavar="TEXT", help="Text the nodes send back, at most 1 KiB."
)
@_issue_options
@pass_session
def ping(session: Session, payload: str, **given: Any) -> None:
    """Have nodes answer, which proves the path to them and back.

    \b
    souverixctl command ping a1-gw-1 a1-gw-2 --wait
    souverixctl command ping --domain region-a --subtree --at-most-once --ttl 1h
    """
    _issue(session, command.Action(ping=command.Ping(payload=payload)), given)


@group.command("refresh-inventory", short_help="Have nodes look at their hosts again.")
@_issue_options
@pass_session
def refresh_inventory(session: Session, **given: Any) -> None:
    """Have nodes look at their hosts again and report.

    \b
    souverixctl command refresh-inventory --domain edge-zone-a1 --wait
    """
    action = command.Action(refresh_inventory=command.RefreshInventory())
    _issue(session, action, given)


@group.command("apply-config", short_help="Have nodes keep a configuration document.")
@click.option(
    "--name",
    "config_name",
    default="",
    metavar="NAME",
    help='Name it is kept under. Default: "default".',
)
@options.config_options
@_issue_options
@pass_session
def apply_config(
    session: Session,
    config_name: str,
    config_file: str | None,
    assignments: Sequence[str],
    **given: Any,
) -> None:
    """Have nodes keep a document as their configuration.

    \b
    souverixctl command apply-config a1-gw-1 --config-file gw.yaml --wait
    souverixctl command apply-config a1-gw-1 --config log.level=debug --ttl 17h
    """
    document = read_configuration(config_file, assignments)
    if document is None:
        raise BadInput("no document is given", "give --config-file FILE or --config KEY=VALUE")
    action = command.Action(
        apply_config=command.ApplyConfig(config_name=config_name, document=document)
    )
    _issue(session, action, given)


@group.command("apply-desired", short_help="Have nodes take what is desired of them.")
@_issue_options
@pass_session
def apply_desired(session: Session, **given: Any) -> None:
    """Have nodes bring into force what governs them: their configuration, and the policy it comes from.

    The controller that delivers looks it up when it sends. A node that nothing governs rejects it. The version
    a node runs stays as it is.

    \b
    souverixctl command apply-desired a1-gw-1 --wait
    souverixctl command apply-desired --domain region-a --subtree --wait
    """
    _issue(session, command.Action(apply_desired_state=command.ApplyDesiredState()), given)


@group.command("cancel", short_help="Ask to stop a command.")
@click.argument("id", metavar="COMMAND")
@options.reason_option
@options.etag_option
@options.write_options
@pass_session
def cancel(session: Session, id: str, reason: str, etag: str, **given: Any) -> None:
    """Ask to stop a command: before it is sent it stops; after that the node is asked.

    COMMAND is its id, as `get commands` shows it. Exit code 4: it is done already.

    \b
    souverixctl command cancel 6f3c… --reason "wrong zone"
    """
    write = options.read_write_options(given)
    request = service.CancelCommandRequest(
        name=options.resource_name("commands", id),
        reason=reason,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.CancelCommandResponse)
    done = f"cancel of {reply.command.id} recorded; now {states(reply.command)}"
    present_write(session, reply, done, reply.command.etag)


@verbs.get.command("commands", short_help="List commands.")
@click.option("--domain", default="", metavar="DOMAIN", help="Only with targets in this domain.")
@click.option("--node", default="", metavar="NODE", help="Only with this target.")
@click.option("--open", "only_open", is_flag=True, help="Only those that are not done.")
@options.limit_option
@pass_session
def get_commands(session: Session, domain: str, node: str, only_open: bool, limit: int) -> None:
    """List commands, newest first.

    \b
    souverixctl get commands --open
    """
    request = service.ListCommandsRequest(domain=domain, node=node, only_open=only_open)
    reply = fetch_pages(session, request, service.ListCommandsResponse, "commands", limit)
    now = session.output.now
    rows = [row(each, now) for each in reply.commands]
    present(session, reply, lambda: session.output.table(COLUMNS, rows, "no commands"))


def _fetch(session: Session, id: str) -> service.GetCommandResponse:
    request = service.GetCommandRequest(name=options.resource_name("commands", id))
    return session.connection.call(request, service.GetCommandResponse)


@verbs.get.command("command", short_help="Show one command, target by target.")
@click.argument("id", metavar="COMMAND")
@pass_session
def get_command(session: Session, id: str) -> None:
    """Show one command, a line for each target known here, and who cancelled it and why.

    \b
    souverixctl get command 6f3c…
    """
    reply = _fetch(session, id)

    def show() -> None:
        session.output.table(COLUMNS, [row(reply.command, session.output.now)], "")
        show_cancel(session, reply.command)
        session.output.line()
        show_deliveries(session, reply.command)

    present(session, reply, show)


@verbs.describe.command("command", short_help="Describe one command.")
@click.argument("id", metavar="COMMAND")
@pass_session
def describe_command(session: Session, id: str) -> None:
    """Show everything known of a command, with each node's answer.

    \b
    souverixctl describe command 6f3c…
    """
    reply = _fetch(session, id)
    present_details(session, reply, reply.command)


@verbs.watch.command("command", short_help="Follow one command until it is done.")
@click.argument("id", metavar="COMMAND")
@pass_session
def watch_command(session: Session, id: str) -> None:
    """Show each change of a command's targets until it is done. Exit code 1: not all succeeded.

    \b
    souverixctl watch command 6f3c…
    """
    shown: dict[str, int] = {}
    for reply in _replies(session, id):
        seen = reply.command
        if not session.output.is_table:
            session.output.step(reply)
        else:
            for each in seen.deliveries:
                if shown.get(each.node) != each.state:
                    shown[each.node] = each.state
                    answer = each.error_message or one_line(each)
                    session.output.line(
                        f"{each.node:24}", coloured(field_word(each, "state")), each.reason, answer
                    )
        if seen.done:
            _check(seen)
            return
