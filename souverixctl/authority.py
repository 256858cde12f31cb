"""Authority: who is master-of-record of a domain, and its transfer.

Owns how authority is shown and moved. Never forces a transfer without a reason.
"""

from __future__ import annotations

import time
from typing import Any

import click

from souverix.federation.v1 import authority_pb2 as authority
from souverix.federation.v1 import federation_service_pb2 as service
from souverixctl import options, verbs
from souverixctl.describe import field_word
from souverixctl.errors import BadInput, WaitedTooLong
from souverixctl.output import Cell
from souverixctl.results import age, coloured, present, present_details, present_write, term_path
from souverixctl.session import Session, Verbs, pass_session
from souverixctl.times import parse_duration, parse_time, seconds_of, show_duration

COLUMNS = ("DOMAIN", "LEVEL", "MASTER", "TERM", "CONTROLLER", "AUTONOMY", "SYNC", "STATE")
POLL_S = 0.5
CLAIM_COLUMNS = ("CONTROLLER", "CLAIM", "TERM", "SINCE")

group = Verbs(
    "authority",
    help="Who may declare desired state for a domain, and its transfer.\n\n"
    "\b\nsouverixctl authority get edge-zone-a1",
)


def autonomy(record: authority.AuthorityRecord) -> str:
    """What the domain's controller may do on its own, in short."""
    granted = [
        word
        for field, word in (
            ("can_operate_isolated", "isolated"),
            ("can_modify_policies", "policies"),
            ("can_deploy_versions", "versions"),
        )
        if getattr(record.autonomy, field)
    ]
    return ", ".join(granted) or "none"


def sync_strategy(sync: authority.SyncStrategy) -> str:
    """How a controller syncs: "periodic 15m"."""
    mode = (field_word(sync, "mode") or "CONTINUOUS").lower()
    return (
        f"{mode} {show_duration(seconds_of(sync.frequency))}"
        if sync.HasField("frequency")
        else mode
    )


def row(record: authority.AuthorityRecord, path: list[int]) -> list[Cell]:
    """An authority record as a row of COLUMNS."""
    state = f"in transfer to {record.next_master}" if record.next_master else "settled"
    return [
        record.domain,
        field_word(record, "level"),
        record.master_of_record,
        term_path(path) or str(record.term),
        record.controller,
        autonomy(record),
        sync_strategy(record.sync),
        f"{state}, forced" if record.forced else state,
    ]


def _fetch(session: Session, domain: str, as_of: str = "") -> service.GetAuthorityResponse:
    request = service.GetAuthorityRequest(domain=domain)
    if as_of:
        request.as_of_time.CopyFrom(parse_time(as_of, session.output.now))
    return session.connection.call(request, service.GetAuthorityResponse)


def _show_one(session: Session, reply: service.GetAuthorityResponse) -> None:
    output = session.output
    output.table(COLUMNS, [row(reply.authority, list(reply.term_path))], "")
    if len(reply.claims) > 1:
        output.line()
        claims: list[list[Cell]] = [
            [
                each.controller,
                coloured(field_word(each, "standing")),
                term_path(list(each.term_path)),
                age(each, "time", output.now),
            ]
            for each in reply.claims
        ]
        output.table(CLAIM_COLUMNS, claims, "")


@group.command("get", short_help="Show who has authority.")
@click.argument("domain", metavar="[DOMAIN]", default="")
@options.as_of_option
@pass_session
def get_authority(session: Session, domain: str, as_of: str) -> None:
    """Show the authority record of a domain; without one, of all domains known.

    Of one domain, where there is more than one, also who takes itself, or may take itself, for the
    master: rivals, who is to follow, and former masters that have not been heard since.

    \b
    souverixctl authority get edge-zone-a1
    souverixctl authority get edge-zone-a1 --as-of 2h
    """
    if as_of and not domain:
        raise BadInput("--as-of without a domain", "name the domain")
    if domain:
        one = _fetch(session, domain, as_of)
        present(session, one, lambda: _show_one(session, one))
        return
    reply = session.connection.call(service.GetTopologyRequest(), service.GetTopologyResponse)
    rows = [
        row(each.authority, list(each.term_path))
        for each in reply.domains
        if each.HasField("authority")
    ]
    present(
        session, reply, lambda: session.output.table(COLUMNS, rows, "no authority is known here")
    )


@verbs.describe.command("authority", short_help="Describe a domain's authority.")
@click.argument("domain", metavar="DOMAIN")
@pass_session
def describe_authority(session: Session, domain: str) -> None:
    """Show everything known of a domain's authority: level, master, term, autonomy, synchronisation.

    \b
    souverixctl describe authority edge-zone-a1
    """
    reply = _fetch(session, domain)
    present_details(session, reply, reply)


@group.command("transfer", short_help="Move the mastership-of-record of a domain.")
@click.argument("domain", metavar="DOMAIN")
@click.option("--to", "to_controller", required=True, metavar="CONTROLLER", help="The new master.")
@click.option("--force", is_flag=True, help="Do not wait for the present master's release.")
@click.option("--reason", default="", metavar="TEXT", help="Why; required with --force.")
@click.option(
    "--wait",
    metavar="DURATION",
    help="Longest wait until the transfer is settled; exit code 7 when it passes, and the transfer goes on."
    " Default: no wait.",
)
@options.etag_option
@options.write_options
@pass_session
def transfer(
    session: Session,
    domain: str,
    to_controller: str,
    force: bool,
    reason: str,
    wait: str | None,
    etag: str,
    **given: Any,
) -> None:
    """Move the mastership-of-record. Only the master of the parent domain may, so ask there.

    A planned transfer waits for the present master's release. A forced one does not: what the old
    master still writes is kept, but loses to writes of the new term.

    \b
    souverixctl authority transfer edge-zone-a1 --to region-a-control --wait 1m
    souverixctl authority transfer edge-zone-a1 --to region-a-control --force --reason "site lost"
    """
    write = options.read_write_options(given)
    if force and not reason:
        raise BadInput("--force without a reason", 'say why: --reason "site lost"')
    limit_s = seconds_of(parse_duration(wait)) if wait else 0.0
    request = service.TransferAuthorityRequest(
        domain=domain,
        to_controller=to_controller,
        force=force,
        reason=reason,
        etag=etag,
        **write.fields(),
    )
    reply = session.connection.call(request, service.TransferAuthorityResponse)
    record = reply.authority
    if limit_s and record.next_master and not write.validate_only:
        with session.output.busy(f"waiting for {record.master_of_record} to release {domain}"):
            record = _settled(session, domain, limit_s)
        reply.authority.CopyFrom(record)
    if record.next_master:
        done = f"{domain}: {record.master_of_record} is asked to release to {record.next_master}"
    else:
        done = f"{domain}: master-of-record is {record.master_of_record}, term {record.term}"
    present_write(session, reply, done)


def _settled(session: Session, domain: str, limit_s: float) -> authority.AuthorityRecord:
    """The record once no transfer is under way. Raises WaitedTooLong."""
    deadline = time.monotonic() + limit_s
    while True:
        record = _fetch(session, domain).authority
        if not record.next_master:
            return record
        if time.monotonic() >= deadline:
            raise WaitedTooLong(
                f"{record.master_of_record} has not released {domain} after {show_duration(limit_s)}",
                f"it goes on: souverixctl get authority {domain}; --force does not wait",
            )
        time.sleep(POLL_S)


verbs.get.add_command(get_authority, "authority")
