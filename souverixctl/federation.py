"""The federation: status, topology, peers, streams, and a sync on request.

Owns how the tree of domains is drawn. Shows what the asked controller knows, and how old that is.
"""

from __future__ import annotations

from datetime import datetime

import click
from google.protobuf.duration_pb2 import Duration
from rich.text import Text
from rich.tree import Tree

from souverix.federation.v1 import federation_service_pb2 as service
from souverixctl import verbs
from souverixctl.authority import autonomy, sync_strategy
from souverixctl.describe import field_word
from souverixctl.errors import CtlError
from souverixctl.output import Cell, as_document, styled
from souverixctl.results import age, present, term_path, word
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import NOTHING, parse_duration, seconds_of, show_duration

PEER_COLUMNS = (
    "CONTROLLER", "DOMAIN", "ROLE", "STATE", "SEEN", "BEHIND", "BACKLOG", "SKEW", "NEXT TRY", "LAST ERROR"
)  # fmt: skip
STREAM_COLUMNS = ("DOMAIN", "ORIGIN", "LANE", "RECEIVED", "APPLIED", "WAITS FOR", "QUARANTINED")
DEFAULT_SYNC_TIMEOUT = "60s"
# The controller ends the stream at its timeout; its last word needs a moment.
SYNC_MARGIN_S = 5.0

group = Verbs(
    "federation",
    help="The tree of controllers as one of them sees it.\n\n\b\nsouverixctl federation status",
)


def debt_text(debt: service.PeerSyncDebt) -> str:
    """How far behind, with the backlog by kind: "3.75h behind, 120 events (7 config)"."""
    behind_s = seconds_of(debt.behind)
    if not behind_s and not debt.backlog_events:
        return "level"
    kinds = ", ".join(
        f"{count} {name}"
        for name, count in (
            ("messages", debt.backlog_messages),
            ("config", debt.backlog_config_updates),
            ("policy", debt.backlog_policy_updates),
            ("version", debt.backlog_version_updates),
        )
        if count
    )
    text = f"{show_duration(behind_s)} behind, {debt.backlog_events} events"
    text += f" ({kinds})" if kinds else ""
    if debt.HasField("estimated_duration"):
        text += f", level in {show_duration(seconds_of(debt.estimated_duration))}"
    return text


def _peer_text(peer: service.Peer, now: datetime) -> Text:
    text = styled(f"{field_word(peer, 'role').lower()} link ").append_text(word(peer, "state"))
    if peer.HasField("last_seen_time"):
        text.append(f", seen {age(peer, 'last_seen_time', now)} ago")
    debt = debt_text(peer.debt) if peer.HasField("debt") else "sync debt not known"
    return text.append(f"; {debt}", style="" if debt == "level" else "yellow")


def _label(
    domain: service.TopologyDomain, peer: service.Peer | None, controller: str, now: datetime
) -> Text:
    record = domain.authority
    label = Text().append_text(styled(domain.domain, "bold"))
    if domain.HasField("authority"):
        label.append(f"  {field_word(record, 'level') or 'level unknown'}", style="cyan")
        label.append_text(styled(f"  master {record.master_of_record or '-'}"))
        label.append_text(styled(f"  term {term_path(domain.term_path) or '-'}"))
        label.append_text(styled(f"  autonomy: {autonomy(record)}", "dim"))
        if record.next_master:
            label.append_text(styled(f"  in transfer to {record.next_master}", "yellow"))
        if record.forced:
            label.append_text(styled("  forced", "yellow"))
    else:
        label.append("  authority not known here", style="yellow")
    label.append(f"\n  {domain.node_count} nodes")
    if domain.open_conflicts:
        label.append(f", {domain.open_conflicts} open conflicts", style="red")
    if domain.own:
        label.append_text(styled(f", answers now ({controller})", "green"))
    elif domain.HasField("last_received_time"):
        label.append_text(styled(f", as of {age(domain, 'last_received_time', now)} ago"))
    else:
        label.append(", nothing received from it", style="yellow")
    if domain.HasField("unknown_since"):
        cut = f", out of reach for {age(domain, 'unknown_since', now)}"
        label.append(cut, style="yellow")
    if peer is not None:
        label.append("\n  ").append_text(_peer_text(peer, now))
    return label


def draw(
    topology: service.GetTopologyResponse, peers: service.ListPeersResponse | None, now: datetime
) -> list[Tree]:
    """The domains as trees: one, unless a parent is not known here."""
    linked = {peer.domain: peer for peer in peers.peers} if peers is not None else {}
    trees: list[Tree] = []
    branches: dict[str, Tree] = {}
    for each in topology.domains:  # parents come before children
        label = _label(each, linked.get(each.domain), topology.controller, now)
        above = branches.get(each.parent)
        branch = Tree(label) if above is None else above.add(label)
        if above is None:
            trees.append(branch)
        branches[each.domain] = branch
    return trees


def mebibytes(count: int) -> str:
    """A size, for people."""
    return f"{count / (1 << 20):.1f} MiB"


def storage_words(held: service.LogStorage) -> list[str]:
    """What a log takes on disk, in words."""
    return [
        f"store {mebibytes(held.store_bytes - held.store_free_bytes)} used of {mebibytes(held.store_bytes)}"
        f" from commit {held.start_offset}",
        f"archive {mebibytes(held.archive_bytes)} in {held.archive_segments} files"
        f" before commit {held.archived_offset}",
    ]


@group.command("status", short_help="The whole federation on one page.")
@pass_session
def status(session: Session) -> None:
    """Draw the tree of domains with authority, term, master-of-record, links and sync debt.

    \b
    souverixctl federation status
    souverixctl federation status -o json | jq .status.headHash
    """
    own = session.connection.call(service.GetStatusRequest(), service.GetStatusResponse)
    topology = session.connection.call(service.GetTopologyRequest(), service.GetTopologyResponse)
    peers = session.connection.call(service.ListPeersRequest(), service.ListPeersResponse)
    if not session.output.is_table:
        session.output.document(
            {
                "status": as_document(own),
                "topology": as_document(topology),
                "peers": as_document(peers),
            }
        )
        return
    role = styled("master", "green") if own.master else styled("standby", "yellow")
    session.output.line(
        styled(own.controller, "bold"),
        f"domain {own.domain}",
        f"replica {own.replica or NOTHING}",
        role,
        f"version {own.version or '-'}",
    )
    session.output.line(
        f"log {own.log_kind or '-'}",
        f"incarnation {own.incarnation}",
        f"applied {own.applied_offset} of {own.next_offset}",
        f"sync {sync_strategy(own.sync)}" if own.HasField("sync") else "no parent",
        f"{own.connected_nodes} nodes connected",
    )
    if own.HasField("log_storage"):
        session.output.line(*storage_words(own.log_storage))
    if not own.master and own.current_master:
        session.output.line(f"master is {own.current_master}")
    session.output.line()
    for tree in draw(topology, peers, session.output.now):
        session.output.show(tree)


@group.command("topology", short_help="The tree of domains.")
@pass_session
def topology(session: Session) -> None:
    """Draw the tree of domains with their authority.

    \b
    souverixctl federation topology
    """
    reply = session.connection.call(service.GetTopologyRequest(), service.GetTopologyResponse)

    def show() -> None:
        for tree in draw(reply, None, session.output.now):
            session.output.show(tree)

    present(session, reply, show)


@group.command("peers", short_help="Links to the parent and the children.")
@pass_session
def list_peers(session: Session) -> None:
    """List the links of the asked controller, with how far each peer is behind.

    \b
    souverixctl federation peers
    """
    reply = session.connection.call(service.ListPeersRequest(), service.ListPeersResponse)
    now = session.output.now
    rows: list[list[Cell]] = [
        [
            peer.controller,
            peer.domain,
            field_word(peer, "role").lower(),
            word(peer, "state"),
            age(peer, "last_seen_time", now),
            show_duration(seconds_of(peer.debt.behind)) if peer.HasField("debt") else "",
            str(peer.debt.backlog_events) if peer.HasField("debt") else "",
            show_duration(seconds_of(peer.clock_skew)) if peer.HasField("clock_skew") else "",
            age(peer, "next_attempt_time", now),
            peer.last_error,
        ]
        for peer in reply.peers
    ]
    present(session, reply, lambda: session.output.table(PEER_COLUMNS, rows, "no peers"))


@group.command("streams", short_help="How far each stream is received and applied.")
@click.option("--domain", default="", metavar="DOMAIN", help="Only of this domain. Default: all.")
@pass_session
def list_streams(session: Session, domain: str) -> None:
    """List the streams held here: received is durable, applied is in effect, both as event numbers.

    \b
    souverixctl federation streams --domain edge-zone-a1
    """
    request = service.ListStreamsRequest(domain=domain)
    reply = session.connection.call(request, service.ListStreamsResponse)
    rows: list[list[Cell]] = [
        [
            each.domain,
            f"{each.controller}#{each.incarnation}",
            each.lane,
            str(each.received),
            styled(str(each.applied), "" if each.applied == each.received else "yellow"),
            each.pending_reason,
            styled(str(each.quarantined_runs), "red" if each.quarantined_runs else ""),
        ]
        for each in reply.streams
    ]
    present(session, reply, lambda: session.output.table(STREAM_COLUMNS, rows, "no streams"))


@group.command("sync-now", short_help="Sync with the parent now.")
@click.option(
    "--wait",
    default=DEFAULT_SYNC_TIMEOUT,
    show_default=True,
    metavar="DURATION",
    help="Longest wait until both sides are level.",
)
@pass_session
def sync_now(session: Session, wait: str) -> None:
    """Open a session with the parent now, in every mode, and wait until both sides are level.

    Exit code 1: the session ended before they were.

    \b
    souverixctl federation sync-now --wait 5m
    """
    timeout: Duration = parse_duration(wait)
    request = service.SyncNowRequest(timeout=timeout)
    last = service.SyncNowResponse()
    most = 0
    with session.output.progress() as progress:
        task = progress.add_task("opening a session", total=None)
        for last in session.connection.stream(
            request, service.SyncNowResponse, seconds_of(timeout) + SYNC_MARGIN_S
        ):
            most = max(most, last.debt.backlog_events)
            progress.update(
                task,
                total=most or None,
                completed=most - last.debt.backlog_events,
                description=f"{field_word(last, 'state').lower()}: {debt_text(last.debt)}",
            )
    present(session, last, lambda: session.output.line(word(last, "state"), debt_text(last.debt)))
    if not last.level:
        raise CtlError(
            "the session ended before both sides were level",
            "see the link with `souverixctl federation peers`, then repeat",
        )


verbs.get.add_command(list_peers, "peers")
verbs.get.add_command(list_streams, "streams")
